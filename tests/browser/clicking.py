"""Clicking as a person does, and waiting for what a person sees."""

import time
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Locator, Page

PATIENCE_S = 30.0


def until(condition: Callable[[], Any], what: str) -> Any:
    """What *condition* gives once it gives something; asked again until the deadline."""
    end = time.monotonic() + PATIENCE_S
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.01)


def row(page: Page) -> list[str]:
    """The ids of the row, in order."""
    ids: list[str] = page.evaluate("[...document.querySelectorAll('#row .card')].map(card => card.dataset.id)")
    return ids


def listen(page: Page) -> None:
    """Remember what the page tells of the changes that it measures."""
    page.evaluate(
        "() => { window.changes = []; "
        "document.body.addEventListener('nearline:changed', told => window.changes.push(told.detail)); }"
    )


def changes(page: Page) -> list[dict[str, Any]]:
    """The changes so far: each click's event and its milliseconds."""
    told: list[dict[str, Any]] = page.evaluate("window.changes")
    return told


def click(page: Page, place: Locator) -> float:
    """Click and wait for the changed row; the milliseconds that the browser's clock says it took."""
    before = len(changes(page))
    place.click()
    until(lambda: len(changes(page)) > before, "the changed row")
    return float(changes(page)[-1]["ms"])
