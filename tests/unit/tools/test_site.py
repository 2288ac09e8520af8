"""The documentation site: the check finds foreign assets and dead links, and every page is in the contents."""

import re
from pathlib import Path

import pytest

from tools.site import DOCS, faults

GOOD = """<html><head><link rel="stylesheet" href="_static/s.css"><link rel="canonical" href="https://elsewhere.example/">
<script src="_static/s.js?v=1"></script></head>
<body id="top"><a href="#top">up</a> <a href="b.html#there">b</a> <a href="https://elsewhere.example/">out</a>
<a href="mailto:a@b.example">mail</a> <img src="data:image/png;base64,AA=="></body></html>"""


def site(folder: Path, **changed: str) -> Path:
    files = {"a.html": GOOD, "b.html": '<p id="there">', "_static/s.css": "body { color: red }", "_static/s.js": ""}
    for name, text in (files | {name.replace("__", "/"): text for name, text in changed.items()}).items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return folder


def test_a_site_of_its_own_files_has_no_fault(tmp_path: Path) -> None:
    assert list(faults(site(tmp_path))) == []


@pytest.mark.parametrize(
    ("html", "told"),
    [
        ('<script src="https://cdn.example/m.js"></script>', "a.html loads https://cdn.example/m.js"),
        ('<script src="//cdn.example/m.js"></script>', "a.html loads //cdn.example/m.js"),
        ('<link rel="stylesheet" href="http://cdn.example/f.css">', "a.html loads http://cdn.example/f.css"),
        ('<link rel="preconnect" href="https://fonts.example">', "a.html loads https://fonts.example"),
        ('<img src="https://img.example/badge.svg">', "a.html loads https://img.example/badge.svg"),
        ('<p style="background: url(https://img.example/x)">', "a.html loads https://img.example/x"),
        ('<style>@import "https://fonts.example/f.css";</style>', "a.html loads https://fonts.example/f.css"),
        ('<img src="missing.png">', "a.html loads missing.png, which is not there"),
        ('<a href="c.html">', "a.html leads to c.html, which is not there"),
        ('<a href="b.html#nowhere">', "a.html leads to b.html#nowhere, which is not there"),
        ('<a href="#nowhere">', "a.html leads to #nowhere, which is not there"),
    ],
)
def test_foreign_assets_and_dead_links_are_reported(tmp_path: Path, html: str, told: str) -> None:
    assert list(faults(site(tmp_path, **{"a.html": html}))) == [told]


def test_a_style_sheet_that_loads_a_font_from_elsewhere_is_named(tmp_path: Path) -> None:
    css = "@font-face { src: url('https://fonts.example/f.woff2') }"
    assert list(faults(site(tmp_path, **{"_static/s.css": css}))) == [
        "_static/s.css loads https://fonts.example/f.woff2"
    ]


def test_no_page_at_all_is_a_fault(tmp_path: Path) -> None:
    assert list(faults(tmp_path)) == [f"no page in {tmp_path}"]


def test_every_page_has_a_place_in_the_contents() -> None:
    """The generator says so too; this needs no generator."""
    chapters = re.search(r"CHAPTERS = \{(.*?)\n\}", (DOCS / "conf.py").read_text(), re.DOTALL)
    assert chapters is not None
    named = re.findall(r'"([a-z-]+)"', chapters[1])
    assert {file.stem for file in DOCS.glob("*.md")} - {"index"} <= set(named)
    assert len(named) == len(set(named))
