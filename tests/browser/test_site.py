"""The documentation's site in a real browser: complete without any other host, drawn, searchable, and narrow."""

import functools
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, Page, expect

from tools.site import SITE

PAGES = ("index", "quick-start", "your-own-data", "concepts", "architecture", "api", "coming-from-gorse", "search")
Opened = Callable[..., Page]


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    assert (SITE / "index.html").is_file(), "there is no site yet: make site"
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def opened(browser: Browser, address: str) -> Iterator[Opened]:
    """Opens a page of the site; what it said wrong, missed or asked of others fails the test."""
    wrong: list[str] = []
    context = browser.new_context()

    def open_one(name: str, width: int = 1280) -> Page:
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 900})
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith((address, "data:")) else wrong.append(asked.url))
        page.on("response", lambda came: wrong.append(f"{came.status} {came.url}") if came.status >= 400 else None)
        page.goto(f"{address}/{name}", wait_until="load")
        return page

    yield open_one
    context.close()
    assert wrong == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_needs_no_other_host_and_fits_a_phone(opened: Opened, name: str) -> None:
    page = opened(f"{name}.html", width=375)
    expect(page.get_by_text("Copyright")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.parametrize("name", ["index", "architecture"])
def test_diagrams_are_drawn(opened: Opened, name: str) -> None:
    page = opened(f"{name}.html")
    drawn = page.locator("pre.mermaid svg").first
    expect(drawn).to_be_visible()
    expect(drawn).to_contain_text("ingest" if name == "architecture" else "user vector")


def test_a_page_without_a_diagram_does_not_load_what_draws_them(opened: Opened) -> None:
    assert opened("filters.html").locator("script[src*=mermaid]").count() == 0


def test_search_finds_a_page_by_its_words(opened: Opened) -> None:
    page = opened("search.html?q=tombstone")
    expect(page.locator("#search-results li a").first).to_be_visible()
    assert "concepts.html" in " ".join(
        link.get_attribute("href") or "" for link in page.locator("#search-results li a").all()
    )
