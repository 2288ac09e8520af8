"""The pages say things plainly: phrases that send a reader looking for their meaning are not in them."""

import re
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
# Written from docstrings: these counts may only fall, until they are 0 and the line goes.
STILL = {"docs/api.md": 21, "docs/metrics.md": 9}


def found(text: str) -> list[str]:
    """Every banned phrase in *text* outside its code blocks, with what to write instead; also across a line's end."""
    prose = re.sub(r"\s+", " ", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return [
        f"{match[0]!r}: {instead}"
        for phrase, instead in BANNED.items()
        for match in re.finditer(phrase, prose, re.IGNORECASE)
    ]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if name_of(page) not in DATED], ids=name_of)
def test_a_page_has_no_banned_phrase(page: Path) -> None:
    problems = found(page.read_text())
    assert len(problems) <= STILL.get(name_of(page), 0), problems


def test_a_phrase_is_found_across_lines_and_not_in_code() -> None:
    assert found("an item that is on\nshow") == ["'on show': available"]
    assert found("```sh\nbin/nearline on show\n```\n") == []
