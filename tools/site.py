"""docs/ as a site in build/site: built with warnings as errors, then looked through for what a page must not have.

    .venv/docs/bin/python -m tools.site          # make site

The diagrams are drawn by mermaid, which comes from npm's registry as one file of a pinned digest and lies beside the
pages. Nothing that a page loads may come from another host, and every link and anchor within the site must lead
somewhere; a site that breaks either is an error. Links to others are not followed.
"""

import base64
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parent.parent
DOCS, SITE = ROOT / "docs", ROOT / "build" / "site"
KEPT = ROOT / "build" / "mermaid"
# One file without requests of its own; mermaid's other build loads its parts when it needs them. MIT.
MERMAID = "@mermaid-js/tiny@11.17.2"
MERMAID_SHA512 = "PmFr1c5cSfNf5AngLLR98DrbvR4U5KeD7I+hQkGqG5w5Veu3QT4dG0qu9f99cpn/sKj2XxRBK0q7EL6hr9NY/A=="
MERMAID_FILES = {"package/dist/mermaid.tiny.js": "mermaid.tiny.js", "package/LICENSE": "mermaid.LICENSE"}

# What a browser fetches by itself. An address in an <a> is only followed by whoever clicks on it.
_LOADED = {"script": ("src",), "img": ("src",), "iframe": ("src",), "source": ("src",), "link": ("href",)}
_LOADED |= {"video": ("src", "poster"), "audio": ("src",), "embed": ("src",), "object": ("data",), "use": ("href",)}
_NOT_FETCHED = {"canonical", "search", "index", "next", "prev", "author", "license", "help"}
_OUTSIDE = re.compile(r"^\s*(?:[a-z]+:)?//", re.IGNORECASE)
_IN_CSS = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)


class SiteError(Exception):
    """What is wrong, and what to do."""


@dataclass
class Page(HTMLParser):
    """What a page loads, where its links lead, and which anchors it has."""

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


def read_page(text: str) -> Page:
    """The page in *text*, with what its own style sheets load."""
    page = Page()
    page.feed(text)
    for style in re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL):
        page.loads += _IN_CSS.findall(style)
    return page


def faults(site: Path) -> Iterator[str]:
    """What the built pages and style sheets in *site* load from elsewhere, and their links that lead nowhere."""
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


def _leads(link: str, file: Path, pages: dict[Path, Page]) -> bool:
    """Whether *link* of the page *file* leads to a page, and to an anchor of it; other sites are not asked."""
    if urlsplit(link).scheme or _OUTSIDE.match(link):
        return True
    target, anchor = _target(file, link)
    if target not in pages:
        return target.is_file() and not anchor
    return not anchor or anchor in pages[target].anchors


def _target(file: Path, link: str) -> tuple[Path, str]:
    parts = urlsplit(link)
    return (file.parent / unquote(parts.path)).resolve() if parts.path else file, unquote(parts.fragment)


def fetch_mermaid() -> None:
    """Put mermaid into build/mermaid unless it is there; ``SiteError`` if npm gives none or another one."""
    if all((KEPT / name).is_file() for name in MERMAID_FILES.values()):
        return
    if shutil.which("npm") is None:
        raise SiteError("npm is needed once, to fetch what draws the diagrams: apt install npm")
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", MERMAID, "--silent", "--pack-destination", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        packed = sorted(Path(folder).glob("*.tgz"))
        if done.returncode or not packed:
            raise SiteError(f"npm could not fetch {MERMAID} ({done.stderr.strip():.300}); check the network, run again")
        unpack(packed[0], MERMAID_SHA512, KEPT)


def unpack(package: Path, sha512: str, folder: Path) -> None:
    """Put mermaid's files of *package* into *folder*; ``SiteError`` if it is not the package of digest *sha512*."""
    found = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    if found != sha512:
        raise SiteError(f"{package.name} has the digest {found}, expected {sha512}: this is not the file that we know")
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(package) as opened:
        for inside, name in MERMAID_FILES.items():
            member = opened.extractfile(inside)
            assert member is not None, inside
            (folder / name).write_bytes(member.read())


def build() -> None:
    """Build the site anew; ``SiteError`` for any warning of the generator and any fault of what it built."""
    fetch_mermaid()
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
        raise SiteError("the pages have errors (above)")
    found = list(faults(SITE))
    if found:
        raise SiteError("\n  ".join(["the built pages have faults:", *found]))


if __name__ == "__main__":
    try:
        build()
    except SiteError as problem:
        sys.exit(f"site: {problem}")
    print(f"built {len(list(SITE.rglob('*.html')))} pages: {(SITE / 'index.html').relative_to(ROOT)}")
