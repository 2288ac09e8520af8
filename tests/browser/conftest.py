"""A real Chromium with the real local system: started once, with a small catalogue and no users."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from local.browsing import browsing
from local.processes import wait_until
from local.system import System, embedded_system
from nearline.adapters.kafka.producer import Producer
from nearline.items import Item, encode_item
from nearline.topics import ITEMS
from tests.e2e.test_whole_system import shown

DEADLINE_S = 240.0
KINDS = {"tableware": "MUG", "lighting": "LAMP", "bags": "SHOPPER BAG", "garden": "PLANT POT"}
COLOURS = ("RED SPOTTY", "BLUE STRIPE", "GREEN", "PINK HEART", "WHITE", "YELLOW FLOWER", "VINTAGE", "BLACK")
CATALOGUE = {
    f"{category[:2]}-{n}": Item(f"{colour} {word}", category=category, price=n + 0.95, listed_ms=1_700_000_000_000 + n)
    for category, word in KINDS.items()
    for n, colour in enumerate(COLOURS)
}


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The whole system with a catalogue that is on show."""
    with embedded_system(tmp_path_factory.mktemp("browser") / "data", say=print) as running:
        asyncio.run(_list_everything(running))
        assert wait_until(lambda: len(shown(running, "nobody", k=500)) == len(CATALOGUE), DEADLINE_S)
        yield running


async def _list_everything(system: System) -> None:
    async with Producer(system.bootstrap) as producer:
        await producer.send_all(ITEMS, [(item_id.encode(), encode_item(item)) for item_id, item in CATALOGUE.items()])


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, with an empty profile."""
    with browsing() as started:
        yield started


class Seen:
    """What a page said and asked for while a test used it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.console: list[str] = []
        self.elsewhere: list[str] = []
        self.failed: list[str] = []

    def watch(self, page: Page) -> None:
        """Write down what happens on *page* from now on."""
        page.on("console", lambda said: self.console.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.on("request", lambda asked: self._note(asked.url))
        page.on(
            "response", lambda came: self.failed.append(f"{came.status} {came.url}") if came.status >= 400 else None
        )

    def _note(self, url: str) -> None:
        if not url.startswith((self._address, "data:", "blob:")):
            self.elsewhere.append(url)


@pytest.fixture
def seen(system: System) -> Seen:
    """What the test's pages did."""
    return Seen(system.page)


@pytest.fixture
def open_page(system: System, browser: Browser, seen: Seen) -> Iterator[Any]:
    """Opens a page of a size; whatever it said wrong, or asked of others, fails the test."""
    contexts: list[BrowserContext] = []

    def opened(path: str = "", *, width: int = 1280, height: int = 860, **more: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **more)
        contexts.append(context)
        page = context.new_page()
        seen.watch(page)
        page.goto(system.page + path, wait_until="load")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert seen.console == []
    assert seen.failed == []
    assert seen.elsewhere == []
