"""The commands, events and answers that the README and the guides show are valid."""

import re
import shlex
from pathlib import Path

import orjson
import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from typer.testing import CliRunner

from local.layout import ROOT
from nearline.adapters.tokens import UserTokens
from nearline.cli.app import app
from nearline.events import EVENT_TYPES, decode_event
from nearline.settings import Settings

README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
SENDING = (ROOT / "docs" / "sending.md").read_text()
QUICK_START = (ROOT / "docs" / "quick-start.md").read_text()
NAMED = (
    "your-own-data",
    "comparison",
    "coming-from-gorse",
    "coming-from-personalize",
    "contributing",
    "filters",
    "rules",
)
GUIDES = "\n".join([SENDING, QUICK_START, *((ROOT / "docs" / f"{name}.md").read_text() for name in NAMED)])
MAKEFILE = (ROOT / "Makefile").read_text()


def typed() -> list[str]:
    """Every command line in a shell block of the README, the operations' page and the guides, without its comment."""
    blocks = re.findall(r"```sh\n(.*?)```", README + OPERATIONS + GUIDES, re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def words_of(program: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in typed() if line.split()[0] == program]


def test_the_readme_names_commands() -> None:
    assert len(typed()) > 10


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:^|`)make ([a-z-]+)", README + GUIDES, re.MULTILINE))))
def test_every_make_target_that_the_readme_names_exists(target: str) -> None:
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), f"the Makefile has no target {target}"


@pytest.mark.parametrize("words", words_of("bin/nearline"), ids=" ".join)
def test_every_nearline_command_in_the_readme_is_one(words: list[str]) -> None:
    """Parsed with all its options, not run: the whole-system tests do that."""
    command = typer.main.get_command(app)
    context = command.make_context("nearline", list(words), resilient_parsing=True)
    name, found, rest = command.resolve_command(context, list(words))  # type: ignore[attr-defined]
    while hasattr(found, "commands"):
        inner = found.make_context(name, list(rest), resilient_parsing=True)
        name, found, rest = found.resolve_command(inner, list(rest))
    found.make_context(name, list(rest))


def json_in(page: str, part: str) -> str:
    """The first JSON block of *page* that holds *part*."""
    blocks: list[str] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    return next(block for block in blocks if part in block)


def test_the_click_that_a_producer_sends_is_a_valid_event() -> None:
    block = json_in(SENDING, '"event_id": "c-1", "user_id"')
    assert decode_event(block.strip().encode(), append_ms=1_732_100_000_000).user_id == "17850"
    assert all(kind in SENDING for kind in EVENT_TYPES)


def documented_fields() -> set[str]:
    from services.retrieval.models import Recommendations

    return {name for name, field in Recommendations.model_fields.items() if field.is_required()}


def test_the_answer_in_the_quick_start_has_all_documented_fields() -> None:
    assert set(orjson.loads(json_in(QUICK_START, '"items"'))) == documented_fields()


def test_the_answer_in_the_readme_has_documented_fields_only() -> None:
    assert set(orjson.loads(json_in(README, '"items"'))) < documented_fields()


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_every_file_that_the_readme_links_to_exists(target: str) -> None:
    assert (ROOT / target).is_file()


def test_the_readme_names_the_test_command_that_ci_runs() -> None:
    run = (ROOT / ".ci" / "run").read_text()
    (parts,) = re.findall(r"^parts=\((.*)\)$", run, re.MULTILINE)
    assert "make test" in README
    assert "test" in parts.split()
    assert 'make "$part"' in run


def test_the_token_that_the_operations_page_makes_is_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = Ed25519PrivateKey.generate()
    pem = signer.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "private.pem").write_bytes(pem)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", OPERATIONS, re.DOTALL)
    made: dict[str, str] = {}
    exec(code, {}, made)
    public = signer.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert UserTokens().claims(made["token"], public).user_id == "17850"
    assert UserTokens().key_id(made["token"]) == "0123456789ab"


def test_every_setting_that_the_operations_page_and_the_guides_name_exists() -> None:
    named = set(re.findall(r"NEARLINE_([A-Z_]+[A-Z])", OPERATIONS + GUIDES))
    assert len(named) > 15
    assert {name.lower() for name in named} <= set(Settings.model_fields)


@pytest.mark.parametrize("folder", re.findall(r"^\| `([a-z_/-]+)/` \|", README, re.MULTILINE))
def test_every_folder_in_the_readmes_tree_exists(folder: str) -> None:
    assert (ROOT / folder).is_dir()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dlq", "list", "--queue", "nope"], "queue must be one of clicks-dlq"),
        (["item", "put", "x"], "needs a title"),
        (["item", "put", "x", "--json", "{"], "not JSON"),
        (["click", "u" * 200, "i"], "1-128 UTF-8 bytes, came 200"),
        (["replay", "nowhere.jsonl"], "expected a file of events"),
    ],
)
def test_a_mistake_on_the_command_line_says_what_was_expected(words: list[str], expected: str) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code != 0
    assert expected in str(result.exception)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["init"], "the log (Kafka)"),
        (["click", "17850", "22423"], "the log (Kafka)"),
        (["click", "17850", "22423", "--no-wait"], "the log (Kafka)"),
        (["recommend", "17850"], "retrieval"),
        (["why", "17850", "22423"], "the log (Kafka)"),
        (["user", "show", "17850"], "the log (Kafka)"),
        (["user", "forget", "17850"], "the log (Kafka)"),
        (["item", "put", "lamp-1", "--title", "LAMP"], "the log (Kafka)"),
        (["item", "delete", "lamp-1"], "the log (Kafka)"),
        (["rules", "list"], "the log (Kafka)"),
        (["dlq", "list"], "the log (Kafka)"),
        (["keys", "list"], "the log (Kafka)"),
        (["report"], "the log (Kafka)"),
        (["export", "out"], "the log (Kafka)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_part_that_is_down_is_named_with_what_to_do(
    words: list[str], part: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One shape, without the name of an exception, and without talk of TLS to a machine that is its own broker."""
    from local.ports import free_ports

    log, retrieval = free_ports(2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEARLINE_KEY", "nl_none")
    monkeypatch.setenv("NEARLINE_KAFKA", f"127.0.0.1:{log}")
    monkeypatch.setenv("NEARLINE_RETRIEVAL", f"http://127.0.0.1:{retrieval}")
    result = CliRunner().invoke(app, words)
    address = f"http://127.0.0.1:{retrieval}" if part == "retrieval" else f"127.0.0.1:{log}"
    expected = f"{part} at {address} does not answer (connection refused); `make up` starts the system"
    assert str(result.exception) == expected
