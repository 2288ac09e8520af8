"""docs/api.md is what the services declare, its examples run, and the client knows what they declare."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import nearline_client
from nearline_client import Client, answers
from tests.support.shop import Shop, documents, shop
from tools.api_docs import EXAMPLES, PAGE, Example, examples, intro_in, page, routes, written

SHOWN = examples(EXAMPLES.read_text())
IN_PYTHON = {key: example for key, example in SHOWN.items() if example.python}  # operators have commands instead
DEADLINE_S = 30


@pytest.fixture(scope="module")
def open_shop() -> Iterator[Shop]:
    with shop() as open_shop:
        yield open_shop


@pytest.fixture(scope="module")
def declared() -> dict[str, Any]:
    return documents()


def names(examples: dict[tuple[str, str], Example]) -> list[str]:
    return [f"{service} {route}" for service, route in examples]


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_is_what_the_services_declare() -> None:
    assert PAGE.read_text() == written(), "run make docs"


def test_a_route_without_an_example_is_not_documented_by_half(declared: dict[str, Any]) -> None:
    some = dict(list(SHOWN.items())[1:])
    with pytest.raises(ValueError, match=re.escape("retrieval: GET /recommend/{user_id}")):
        page(declared, some, "")


def test_every_link_within_the_page_leads_somewhere() -> None:
    text = PAGE.read_text()
    anchors = set(re.findall(r'<a id="([^"]+)">', text))
    links = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert links <= anchors, links - anchors
    assert len(links) > 40


def test_a_table_has_as_many_cells_in_every_row() -> None:
    for block in re.findall(r"(?:^\|.*\n)+", PAGE.read_text(), re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", line) for line in block.splitlines()]
        assert len({len(row) for row in rows}) == 1, block


def test_every_file_that_the_page_names_is_there() -> None:
    root = PAGE.parent.parent
    for file in set(re.findall(r"`((?:docs|clients|nearline_client)/[\w./]+)`", PAGE.read_text())):
        assert (root / file).exists(), file


# --- the examples ----------------------------------------------------------------------------------------------------


def asked_of(shop: Shop, service: str, before: int) -> list[tuple[str, str]]:
    return [(one["method"], one["path"]) for one in shop.asked[service].asked[before:]]


def reaches(route: str, asked: list[tuple[str, str]]) -> bool:
    """Whether one of the requests is for *route*."""
    method, template = route.split(" ")
    pattern = re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)))
    return any(one == method and pattern.fullmatch(path) for one, path in asked)


@pytest.mark.parametrize(("key", "example"), SHOWN.items(), ids=names(SHOWN))
def test_the_curl_example_is_answered(open_shop: Shop, tmp_path: Path, key: tuple[str, str], example: Example) -> None:
    before = len(open_shop.asked[key[0]].asked)
    script = example.curl.replace("http://127.0.0.1:8080", open_shop.retrieval)
    script = script.replace("http://127.0.0.1:8088", open_shop.ingest)
    assert open_shop.retrieval in script or open_shop.ingest in script
    shell = 'curl() { command curl --fail-with-body --silent --show-error "$@"; }\n'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", shell + script],
        env={"PATH": os.environ["PATH"], "KEY": open_shop.key},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    assert reaches(key[1], asked_of(open_shop, key[0], before))


@pytest.mark.parametrize(("key", "example"), IN_PYTHON.items(), ids=names(IN_PYTHON))
def test_the_python_example_runs(open_shop: Shop, key: tuple[str, str], example: Example) -> None:
    before = len(open_shop.asked[key[0]].asked)
    with Client(key=open_shop.key, retrieval=open_shop.retrieval, ingest=open_shop.ingest) as nearline:
        exec(example.python, {"nearline": nearline, "event": nearline_client.event})
    assert reaches(key[1], asked_of(open_shop, key[0], before)), "it calls another route than it is shown for"


def test_the_introduction_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".nearline").mkdir()
    (tmp_path / ".nearline" / "key").write_text("nl_1\n")
    monkeypatch.chdir(tmp_path)
    intro = intro_in(EXAMPLES.read_text())
    (python,) = re.findall(r"```python\n(.*?)```", intro, re.DOTALL)
    made: dict[str, Any] = {}
    exec(python, made)
    with made["nearline"] as nearline:
        assert nearline._service.key == "nl_1"
    (shell,) = re.findall(r"```sh\n(.*?)```", intro, re.DOTALL)
    said = subprocess.run(["bash", "-c", shell + "echo $KEY"], capture_output=True, text=True, check=True)
    assert said.stdout == "nl_1\n"


GUIDES_WITH_PYTHON = ("README.md", "nearline_client/README.md", "docs/quick-start.md", "docs/sending.md")


@pytest.mark.parametrize("page", GUIDES_WITH_PYTHON)
def test_the_python_example_of_a_guide_runs_and_its_event_is_about_an_item_of_the_answer(
    page: str, open_shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".nearline").mkdir()
    (tmp_path / ".nearline" / "key").write_text(open_shop.key)
    monkeypatch.chdir(tmp_path)
    before = len(open_shop.asked["ingest"].asked)
    (code,) = re.findall(r"```python\n(.*?)```", (PAGE.parent.parent / page).read_text(), re.DOTALL)
    where = f"Client(retrieval={open_shop.retrieval!r}, ingest={open_shop.ingest!r}, "
    made: dict[str, Any] = {}
    exec(code.replace("Client(", where), made)
    assert made["answer"]["items"], "an example without an item shows nothing"
    assert asked_of(open_shop, "ingest", before) == [("POST", "/events")]


@pytest.mark.parametrize("nth", [0, 1])
def test_the_personalize_migration_examples_run(open_shop: Shop, nth: int) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (PAGE.parent / "coming-from-personalize.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    service = ("ingest", "retrieval")[nth]
    before = len(open_shop.asked[service].asked)
    with Client(key=open_shop.key, retrieval=open_shop.retrieval, ingest=open_shop.ingest) as nearline:
        exec(blocks[nth].split("# after\n")[1], {"nearline": nearline, "event": nearline_client.event})
    assert reaches(("POST /events", "GET /recommend/{user_id}")[nth], asked_of(open_shop, service, before))


def test_every_route_that_the_guides_name_is_one(declared: dict[str, Any]) -> None:
    """In the columns that are ours: a route is a method and a path in backquotes, not one below /api."""
    known = {(route.method, re.sub(r"\{[^}]*\}", "{}", route.path)) for route in routes(declared)}
    for name in ("coming-from-gorse", "coming-from-personalize", "your-own-data", "sending"):
        text = (PAGE.parent / f"{name}.md").read_text()
        named = re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/(?!api/)[^`?]*)", text)
        assert named, name
        for method, path in named:
            assert (method, re.sub(r"\{[^}]*\}", "{}", path.strip())) in known, f"{name}.md: {method} {path}"


def test_a_wrong_example_would_be_seen(open_shop: Shop, tmp_path: Path) -> None:
    wrong = Example("GET /latest", "curl -H 'X-API-Key: nl_no' http://127.0.0.1:8080/latest", "nearline.trending()")
    key = ("retrieval", "GET /latest")
    with pytest.raises(AssertionError, match="401"):
        test_the_curl_example_is_answered(open_shop, tmp_path, key, wrong)
    with pytest.raises(AssertionError, match="another route"):
        test_the_python_example_runs(open_shop, key, wrong)


# --- what the client knows -------------------------------------------------------------------------------------------


def fields(declared: dict[str, Any], service: str, shape: str) -> set[str]:
    """The fields of *shape*; of several (``A|B``) those of any."""
    schemas = declared[service]["components"]["schemas"]
    return {name for each in shape.split("|") for name in schemas[each]["properties"]}


@pytest.mark.parametrize(
    ("ours", "service", "shape", "left_out"),
    [
        (answers.Event, "ingest", "EventIn", {"v", "produced_ms"}),
        (answers.Item, "ingest", "ItemIn", {"v"}),
        (answers.ItemOfBatch, "ingest", "ItemOfBatch", {"v"}),
        (answers.ItemChange, "ingest", "ItemPatch", {"v"}),
        (answers.Profile, "ingest", "ProfileIn", {"v"}),
        (answers.EventResults, "ingest", "EventResults", set()),
        (answers.EventResult, "ingest", "EventRefused|EventAccepted", set()),
        (answers.ItemResults, "ingest", "ItemResults", set()),
        (answers.ItemAnswer, "ingest", "ItemAnswer", set()),
        (answers.Deleted, "ingest", "Deleted", set()),
        (answers.SessionEvent, "retrieval", "SessionEvent", set()),
        (answers.SessionContext, "retrieval", "SessionContext", set()),
        (answers.SessionOptions, "retrieval", "SessionBody", {"events"}),
        (answers.Recommendations, "retrieval", "Recommendations", set()),
        (answers.Recommended, "retrieval", "RecommendedItem", set()),
        (answers.AnswerWarning, "retrieval", "UnusedParameter", set()),
    ],
    # Sorted: a set prints in another order in each worker, and workers must collect the same names.
    ids=lambda value: str(sorted(value)) if isinstance(value, set) else getattr(value, "__name__", str(value)),
)
def test_a_shape_of_the_client_has_the_fields_that_the_service_declares(
    declared: dict[str, Any], ours: type, service: str, shape: str, left_out: set[str]
) -> None:
    assert set(get_type_hints(ours)) == fields(declared, service, shape) - left_out


def parameters(declared: dict[str, Any], route: str) -> set[str]:
    (about,) = (one.about for one in routes({"retrieval": declared["retrieval"]}) if one.name == route)
    return {one["name"] for one in about["parameters"] if one["in"] == "query"}


def test_the_options_of_the_client_are_the_parameters_of_the_routes(declared: dict[str, Any]) -> None:
    context = {f"context.{name}" for name in get_type_hints(answers.Context)}
    options = set(get_type_hints(answers.RecommendOptions)) - {"context"}
    assert parameters(declared, "GET /recommend/{user_id}") == options | context
    listed = set(get_type_hints(answers.ListOptions))
    for route in ("GET /trending", "GET /latest", "GET /similar/{item_id}"):
        assert parameters(declared, route) == listed
    assert parameters(declared, "GET /search") == listed | {"q"}
