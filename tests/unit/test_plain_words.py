"""The pages and the code say things plainly: phrases that send a reader looking for their meaning are not in them."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.layout import ROOT

# A phrase, and what to write instead. docs/contributing.md has the rule behind the list.
BANNED = {
    r"\bon show\b": "available",
    r"\b(?:is|was|are|were|be|being|been) told\b": "who says it; announced, reported, configured",
    r"\b(?:tells?|told) of\b": "announces, reports",
    r"\b(?:hears?|heard) of\b": "receives, reads",
    r"\bit is said\b": "who says it",
    r"\bnobody\b": "no user, no caller",
    r"\bsomebody\b": "a user, a caller",
    r"\bwhoever\b": "a reader that, anyone who",
    r"\btwice is as good as once\b": "idempotent, changes nothing the second time",
    r"\bbefore the eye\b": "",
}
PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("*/README.md")),
    *sorted(ROOT.glob("data/*/README.md")),
]
DATED = {"docs/log.md"}  # a dated log is not rewritten
# Folders whose docstrings, comments, messages and templates have no banned phrase.
PLAIN = (
    "benchmarks",
    "flink_jobs",
    "local",
    "nearline",
    "nearline_client",
    "services",
    "tools",
    "training",
)


def found(text: str) -> list[str]:
    """Every banned phrase in *text* outside its code blocks, with what to write instead; also across a line's end."""
    prose = re.sub(r"\s+", " ", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return [
        f"{match[0]!r}: {instead}"
        for phrase, instead in BANNED.items()
        for match in re.finditer(phrase, prose, re.IGNORECASE)
    ]


def words_of(source: str) -> Iterator[tuple[int, str]]:
    """The strings and comments of a Python file, each with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def found_in(folder: Path) -> list[str]:
    """Every banned phrase in the Python files and templates under *folder*, with its file and line."""
    code = [(path, line, text) for path in sorted(folder.rglob("*.py")) for line, text in words_of(path.read_text())]
    templates = [(path, 1, path.read_text()) for path in sorted(folder.rglob("*.html"))]
    return [f"{path}:{line}: {problem}" for path, line, text in [*code, *templates] for problem in found(text)]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if name_of(page) not in DATED], ids=name_of)
def test_a_page_has_no_banned_phrase(page: Path) -> None:
    assert found(page.read_text()) == []


@pytest.mark.parametrize("folder", PLAIN)
def test_code_has_no_banned_phrase(folder: str) -> None:
    assert found_in(ROOT / folder) == []


def test_phrases_are_found_in_docstrings_comments_messages_and_templates(tmp_path: Path) -> None:
    lines = (
        '"""An item that is on',
        'show."""',
        "x = 1  # nobody",
        'raise ValueError(f"{x} is " "told")',
        'Y = "not_on_show"',
    )
    (tmp_path / "some.py").write_text("\n".join(lines))
    (tmp_path / "page.html").write_text("<p>Whoever comes</p>")
    places = [problem.removeprefix(f"{tmp_path}/").partition(": ")[0] for problem in found_in(tmp_path)]
    assert places == ["some.py:1", "some.py:4", "some.py:3", "page.html:1"]


def test_a_phrase_is_found_across_lines_and_not_in_code() -> None:
    assert found("an item that is on\nshow") == ["'on show': available"]
    assert found("```sh\nbin/nearline on show\n```\n") == []
