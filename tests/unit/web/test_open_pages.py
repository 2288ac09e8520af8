"""The page follows what users do only while it is open, and keeps nothing that would become stale."""

import asyncio
from collections.abc import Callable

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from nearline.errors import Unavailable
from nearline.log import Record
from nearline.sequences import UserSequence, encode_sequence
from nearline.user_updates import UserUpdate, encode_user_updates
from services.web import histories as module
from services.web.histories import SequenceCache
from services.web.open_pages import CountedPages, OpenPages
from services.web.watching import MOST_RECENT, Watchers


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def open_pages(clock: Clock) -> OpenPages:
    return OpenPages(lasts_s=60, clock=clock)


def test_a_page_counts_as_open_for_a_while_after_its_last_request() -> None:
    clock = Clock()
    pages = open_pages(clock)
    with pages.request():
        clock.now_s += 1_000
        assert pages.any, "a stream of changes stays open"
    clock.now_s += 59
    assert pages.any
    clock.now_s += 1
    assert not pages.any


def test_pages_close_without_requests_and_open_with_the_next() -> None:
    clock = Clock()
    pages = open_pages(clock)

    async def story() -> None:
        await pages.opened()
        ending = asyncio.create_task(pages.closed(every_s=0))
        await asyncio.sleep(0)
        assert not ending.done()
        clock.now_s += 60
        await ending
        beginning = asyncio.create_task(pages.opened())
        await asyncio.sleep(0)
        assert not beginning.done()
        with pages.request():
            await beginning

    asyncio.run(asyncio.wait_for(story(), 10))


@pytest.mark.parametrize(("path", "counts"), [("/", True), ("/row", True), ("/metrics", False), ("/readyz", False)])
def test_requests_count_as_open_pages_unless_they_ask_for_the_status(path: str, counts: bool) -> None:
    clock = Clock()
    pages = open_pages(clock)
    clock.now_s += 60
    looked: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        looked.append(pages.any)
        await PlainTextResponse("")(scope, receive, send)

    TestClient(CountedPages(app, pages)).get(path)
    assert (looked, pages.any) == ([counts], counts)


def sequence(version: int) -> bytes:
    return encode_sequence(UserSequence("u", version, ["i"], [1], ["click"], [1.0], ["e"]))


def test_what_was_kept_before_a_rest_countsed_for_again_once_the_log_is_followed() -> None:
    stored = [sequence(1)]

    async def find(user_id: str) -> bytes | None:
        return stored[-1]

    async def story() -> None:
        histories = SequenceCache(find)
        histories.take_in(Record("user-sequences", 0, 0, 0, b"u", sequence(1)))
        histories.rest()
        asked = asyncio.create_task(histories.of("u"))
        await asyncio.sleep(0)
        assert not asked.done(), "what is found before the log is followed may be old when it is kept"
        stored.append(sequence(2))
        histories.resume()
        found = await asked
        assert found is not None
        assert found.version == 2

    asyncio.run(asyncio.wait_for(story(), 10))


def test_the_first_request_without_the_log_gets_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_START_S", 0.0)

    async def find(user_id: str) -> bytes | None:
        return None

    async def story() -> None:
        histories = SequenceCache(find)
        histories.rest()
        await histories.of("u")

    with pytest.raises(Unavailable, match="could not be followed"):
        asyncio.run(story())


def update(user_id: str, stored_ms: int) -> Record:
    return Record("user-updates.1", 0, 0, 0, None, encode_user_updates({user_id: UserUpdate(1, 1, 0, stored_ms)}))


def heard(*updates: tuple[str, int]) -> Callable[[], list[str]]:
    watchers = Watchers()
    for each in updates:
        watchers.hear(update(*each))
    return lambda: [user_id for user_id, _ in watchers.recent]


def test_the_most_recently_active_users_come_first_in_any_order_of_partitions() -> None:
    assert heard(("a", 1), ("d", 4), ("b", 2), ("c", 3), ("a", 5))() == ["a", "d", "c", "b"]
    many = [(f"u{nth:03d}", nth) for nth in range(2 * MOST_RECENT)]
    newest = [user_id for user_id, _ in many[: -MOST_RECENT - 1 : -1]]
    assert heard(*many)() == newest
    assert heard(*reversed(many))() == newest
