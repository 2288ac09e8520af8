"""The page follows what users do for as long as somebody looks, and forgets what would grow old."""

import asyncio
from collections.abc import Callable

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from nearline.errors import Unavailable
from nearline.log import Record
from nearline.sequences import UserSequence, encode_sequence
from nearline.user_updates import UserUpdate, encode_user_update
from services.web import histories as module
from services.web.attention import Attended, Attention
from services.web.histories import SequenceCache
from services.web.watching import MOST_RECENT, Watchers


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def attention(clock: Clock) -> Attention:
    return Attention(lasts_s=60, clock=clock)


def test_a_look_lasts_for_a_while_after_it_ended() -> None:
    clock = Clock()
    eyes = attention(clock)
    with eyes.look():
        clock.now_s += 1_000
        assert eyes.is_there, "a stream of changes stays open"
    clock.now_s += 59
    assert eyes.is_there
    clock.now_s += 1
    assert not eyes.is_there


def test_it_ends_without_a_look_and_begins_with_the_next() -> None:
    clock = Clock()
    eyes = attention(clock)

    async def story() -> None:
        await eyes.begin()
        ending = asyncio.create_task(eyes.end(every_s=0))
        await asyncio.sleep(0)
        assert not ending.done()
        clock.now_s += 60
        await ending
        beginning = asyncio.create_task(eyes.begin())
        await asyncio.sleep(0)
        assert not beginning.done()
        with eyes.look():
            await beginning

    asyncio.run(asyncio.wait_for(story(), 10))


@pytest.mark.parametrize(("path", "is_look"), [("/", True), ("/row", True), ("/metrics", False), ("/readyz", False)])
def test_a_request_is_a_look_unless_it_asks_for_the_state_of_the_service(path: str, is_look: bool) -> None:
    clock = Clock()
    eyes = attention(clock)
    clock.now_s += 60
    looked: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        looked.append(eyes.is_there)
        await PlainTextResponse("")(scope, receive, send)

    TestClient(Attended(app, eyes)).get(path)
    assert (looked, eyes.is_there) == ([is_look], is_look)


def sequence(version: int) -> bytes:
    return encode_sequence(UserSequence("u", version, ["i"], [1], ["click"], [1.0], ["e"]))


def test_what_was_kept_before_a_rest_is_looked_for_again_once_the_log_is_followed() -> None:
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


def test_without_the_log_whoever_looks_first_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
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
    return Record("user-updates.1", 0, 0, 0, user_id.encode(), encode_user_update(UserUpdate(1, 1, 0, stored_ms)))


def heard(*updates: tuple[str, int]) -> Callable[[], list[str]]:
    watchers = Watchers()
    for each in updates:
        watchers.hear(update(*each))
    return lambda: [user_id for user_id, _ in watchers.recent]


def test_who_was_active_last_comes_first_whatever_the_order_of_the_partitions() -> None:
    assert heard(("a", 1), ("d", 4), ("b", 2), ("c", 3), ("a", 5))() == ["a", "d", "c", "b"]
    many = [(f"u{nth:03d}", nth) for nth in range(2 * MOST_RECENT)]
    newest = [user_id for user_id, _ in many[: -MOST_RECENT - 1 : -1]]
    assert heard(*many)() == newest
    assert heard(*reversed(many))() == newest
