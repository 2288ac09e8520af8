"""Drives the page in a real browser: opens it, clicks, and waits until the row has changed.

For the tests, the README's pictures and the benchmark; local/browser.py fetches the browser.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from playwright.sync_api import Browser, Locator, Page, sync_playwright

from local.browser import FLAGS, chromium
from nearline.errors import Unavailable

PATIENCE_S = 30.0
SHELF = "#stage .card a"
T = TypeVar("T")


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser with an empty profile, closed at the end of the block."""
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=str(chromium()), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def until(condition: Callable[[], T], what: str) -> T:
    """The first true result of *condition*; ``Unavailable`` naming *what* if there is none in time."""
    end = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        if time.monotonic() > end:
            raise Unavailable(f"never came within {PATIENCE_S:.0f} s: {what}")
        time.sleep(0.01)
    return found


def row(page: Page) -> list[str]:
    """The ids of the row's items, in order."""
    return cast("list[str]", page.evaluate("[...document.querySelectorAll('#row .card')].map(card => card.dataset.id)"))


def listen(page: Page) -> None:
    """Have the page record the changes that it measures; call it once, before the first click."""
    page.evaluate(
        "() => { window.changes = []; "
        "document.body.addEventListener('nearline:changed', told => window.changes.push(told.detail)); }"
    )


def changes(page: Page) -> list[dict[str, Any]]:
    """The changes so far: each click's event and its milliseconds by the browser's clock and by the system's."""
    return cast("list[dict[str, Any]]", page.evaluate("window.changes"))


def click(page: Page, place: Locator) -> float:
    """Click *place* and wait for the changed row; return the milliseconds between, by the browser's clock."""
    before = len(changes(page))
    place.click()
    until(lambda: len(changes(page)) > before, "the changed row")
    return float(changes(page)[-1]["ms"])
