"""Builds docs/ as a site in build/site, with warnings as errors, and then checks the pages.

    .venv/docs/bin/python -m tools.site          # make site

Mermaid draws the diagrams; it comes from npm's registry as one file with a pinned digest and is served beside the
pages. A page may not load anything from another host, and every link and anchor within the site must exist; else the
build fails. Links to other sites are not checked.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from local.layout import BUILD, ROOT
from local.npm import fetch
from nearline.errors import Misconfigured, Unavailable

DOCS, SITE, KEPT = ROOT / "docs", BUILD / "site", BUILD / "mermaid"
# One file that makes no requests; mermaid's other build loads its parts on demand. MIT.
MERMAID = "@mermaid-js/tiny@11.17.2"
MERMAID_SHA512 = "PmFr1c5cSfNf5AngLLR98DrbvR4U5KeD7I+hQkGqG5w5Veu3QT4dG0qu9f99cpn/sKj2XxRBK0q7EL6hr9NY/A=="
MERMAID_FILES = {"dist/mermaid.tiny.js": KEPT / "mermaid.tiny.js", "LICENSE": KEPT / "mermaid.LICENSE"}

# What a browser fetches by itself; an address in an <a> is followed only by a click.
_LOADED: dict[str, tuple[str, ...]] = {
    **{"script": ("src",), "img": ("src",), "iframe": ("src",), "source": ("src",), "link": ("href",)},
    **{"video": ("src", "poster"), "audio": ("src",), "embed": ("src",), "object": ("data",), "use": ("href",)},
}
_NOT_FETCHED = {"canonical", "search", "index", "next", "prev", "author", "license", "help"}
_OUTSIDE = re.compile(r"^\s*(?:[a-z]+:)?//", re.IGNORECASE)
_IN_CSS = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)


@dataclass
class SitePage(HTMLParser):
    """What a page loads, its links, and its anchors."""

    loads: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = {name: value or "" for name, value in attrs}
        self.anchors |= {about[name] for name in ("id", "name") if name in about}
        if tag == "a" and "href" in about:
            self.links.append(about["href"])
        if tag == "link" and about.get("rel", "") in _NOT_FETCHED:
            return
        self.loads += [about[name] for name in _LOADED.get(tag, ()) if name in about]
        self.loads += _IN_CSS.findall(about.get("style", ""))


def read_page(text: str) -> SitePage:
    """Parse the page in *text*, including what its own style sheets load."""
    page = SitePage()
    page.feed(text)
    for style in re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL):
        page.loads += _IN_CSS.findall(style)
    return page


def faults(site: Path) -> Iterator[str]:
    """What the built pages and style sheets in *site* load from other hosts, and their broken links."""
    pages = {file.resolve(): read_page(file.read_text()) for file in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"no page in {site}"
    for file, page in pages.items():
        name = file.relative_to(site.resolve())
        yield from (f"{name} loads {address}" for address in page.loads if _OUTSIDE.match(address))
        inside = (address for address in page.loads if not _OUTSIDE.match(address) and not address.startswith("data:"))
        yield from (f"{name} loads {one}, which is not there" for one in inside if not _target(file, one)[0].exists())
        yield from (
            f"{name} leads to {link}, which is not there" for link in page.links if not _leads(link, file, pages)
        )
    for file in sorted(site.rglob("*.css")):
        yield from (f"{file.relative_to(site)} loads {address}" for address in _IN_CSS.findall(file.read_text()))


def _leads(link: str, file: Path, pages: dict[Path, SitePage]) -> bool:
    """Whether *link* of the page *file* leads to an existing page and anchor; true for other sites, unchecked."""
    if urlsplit(link).scheme or _OUTSIDE.match(link):
        return True
    target, anchor = _target(file, link)
    if target not in pages:
        return target.is_file() and not anchor
    return not anchor or anchor in pages[target].anchors


def _target(file: Path, link: str) -> tuple[Path, str]:
    parts = urlsplit(link)
    return (file.parent / unquote(parts.path)).resolve() if parts.path else file, unquote(parts.fragment)


def build() -> None:
    """Build the site anew; ``Misconfigured`` for a warning of the generator or a fault in its output."""
    fetch(MERMAID, MERMAID_SHA512, MERMAID_FILES)
    shutil.rmtree(SITE, ignore_errors=True)
    doctrees = SITE.with_name("site-doctrees")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-b",
        "html",
        "-q",
        "-W",
        "--keep-going",
        "-n",
        "-E",
        "-d",
        str(doctrees),
    ]
    if subprocess.run([*command, str(DOCS), str(SITE)], check=False).returncode:
        raise Misconfigured("the pages have errors (above)")
    found = list(faults(SITE))
    if found:
        raise Misconfigured("\n  ".join(["the built pages have faults:", *found]))


if __name__ == "__main__":
    try:
        build()
    except (Misconfigured, Unavailable) as problem:
        sys.exit(f"site: {problem}")
    print(f"built {len(list(SITE.rglob('*.html')))} pages: {(SITE / 'index.html').relative_to(ROOT)}")
