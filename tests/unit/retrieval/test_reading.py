"""What an answer knows of its user: never older than the store, remembered while that is down, waited for if asked to.

The rule behind it all: once an answer has shown an event as used, no later answer, fallback, page or replica returns
its item, unless it says itself that it does not know what the user has seen.
"""

import asyncio
import re
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nearline.adapters.memory import MemoryStore
from nearline.adapters.signed_tokens import SignedTokens
from nearline.errors import BadInput, Unavailable
from nearline.events import EARLIEST_MS
from nearline.hashing import hash64, hash64_all
from nearline.item_vectors import ItemFields, ItemVector
from nearline.seen import FOREVER_S, SeenSnapshot, encode_seen
from nearline.space import Space
from nearline.store import StoredUser
from nearline.user_documents import Hashes, Recent, UserDocument, encode_user_document
from nearline.user_updates import UserUpdate
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.pages import FIRST, LIVES_S, PageError, PageTokens
from services.retrieval.recommender import Recommender
from services.retrieval.request import RecommendRequest
from services.retrieval.result import Degradation, Seen
from services.retrieval.users.cache import UserCache
from services.retrieval.users.reader import UserReader
from services.retrieval.users.store_guard import GuardedStore
from services.retrieval.users.waiters import Waiters
from tests.support.fakes import ExactGraph
from tests.support.properties import examples

T = TypeVar("T")
SPACE = Space(3, 4)
NO_ONE: Hashes = np.empty(0, np.uint64)


def unit(nth: int) -> NDArray[np.float32]:
    return np.array([np.cos(nth / 50), np.sin(nth / 50), 0, 0], np.float32)


def document(version: int, *events: str, **named: Any) -> UserDocument:
    """A user's document after *events*, each a click on the item of the same number: e3 is a click on i3."""
    seen = np.sort(hash64_all([event.replace("e", "i") for event in events])) if events else NO_ONE
    known = np.sort(hash64_all(events)) if events else NO_ONE
    newest = events[-1] if events else ""
    fields = {"vector": unit(0), "vector_version": version, "history_version": version, "newest_event_id": newest}
    times = {"as_of_ms": 1_000 + version, "stored_ms": 2_000 + version}
    sets = {"seen": seen, "purchased": NO_ONE, "events": known}
    return UserDocument(**(fields | times | sets | named))  # type: ignore[arg-type]


def stored(version: int, *events: str, **named: Any) -> bytes:
    return encode_user_document(document(version, *events, **named), SPACE)


def update(version: int) -> UserUpdate:
    return UserUpdate(version, version, 0, 1)


class Store(MemoryStore):
    """A store in memory whose answers can be held back, as those of one across a network are."""

    def __init__(self) -> None:
        super().__init__(ttl_ms=10**15)
        self.reads = 0

    async def get(self, user_id: str) -> bytes | None:
        self.reads += 1
        return await super().get(user_id)


def catalogue(many: int = 12) -> Catalogue:
    """Items i0 and so on, i0 the nearest; each of them trends, the last most."""
    shop = Catalogue(4, LiveIndex(4, lambda capacity: ExactGraph(4, capacity)))
    for nth in range(many):
        shown = ItemFields(f"Item {nth}", "mugs", listed_ms=nth)
        shop.apply(ItemVector(f"i{nth}", 1, shown, unit(nth), unit(nth).astype(np.float16), "d"))
        shop.trending.score(f"i{nth}", 1.0 + nth)
    return shop


@dataclass
class Replica:
    """One retrieval process over a store that others use too."""

    store: Store
    clock_s: list[float] = field(default_factory=lambda: [1_000.0])
    hearing: bool = True

    def __post_init__(self) -> None:
        self.guard = GuardedStore(self.store)
        self.waiting = Waiters(most=2)

        def now_ms() -> int:
            return int(self.clock_s[0] * 1000)

        users = UserReader(self.guard, SPACE, waiters=self.waiting, is_hearing=lambda: self.hearing, now_ms=now_ms)
        pages = PageTokens(SignedTokens(b"s" * 16, "page", lives_s=LIVES_S), SPACE)
        self.recommender = Recommender(catalogue(), users, SPACE, pages=pages, now_ms=now_ms)

    async def open(self) -> None:
        await self.guard.probe()

    async def ask(self, user_id: str = "u", **asked: Any) -> dict[str, Any]:
        body = await self.recommender.answer(user_id, RecommendRequest(**({"k": 3} | asked)), "r-1")
        answer: dict[str, Any] = orjson.loads(body)
        return answer


def run(story: Awaitable[T]) -> T:
    async def told() -> T:
        async with asyncio.timeout(20):
            return await story

    return asyncio.run(told())


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


async def opened(store: Store | None = None) -> Replica:
    replica = Replica(store or Store())
    await replica.open()
    return replica


# --- the cache ---


def decoded(hot: UserCache, user_id: str, raw: bytes) -> UserDocument:
    document = hot.decoded(user_id, StoredUser(raw, None))
    assert document is not None
    return document


def test_a_document_is_decoded_once_for_the_same_bytes() -> None:
    hot, raw = UserCache(SPACE), stored(1, "e1")
    first = decoded(hot, "u", raw)
    assert decoded(hot, "u", bytes(bytearray(raw))) is first
    assert decoded(hot, "u", stored(2, "e1", "e2")) is not first


def test_other_bytes_of_the_same_versions_are_decoded_anew() -> None:
    """A rewrite of the same versions may say more: only the same bytes are the same document."""
    hot = UserCache(SPACE)
    decoded(hot, "u", stored(1, "e1"))
    assert decoded(hot, "u", stored(1, "e1", "e2")).seen.tolist() == sorted([hash64("i1"), hash64("i2")])


def test_the_cache_is_bounded_and_forgets_who_asked_longest_ago() -> None:
    raw = stored(1, "e1")
    hot = UserCache(SPACE, most_bytes=3 * (len(raw) + 1_000))
    for user_id in ("a", "b", "c"):
        decoded(hot, user_id, raw)
    decoded(hot, "a", raw)
    decoded(hot, "d", raw)
    assert [user_id for user_id in "abcd" if hot.remembered(user_id) is not None] == ["a", "c", "d"]
    assert len(hot) == 3


def test_a_cached_document_is_dropped_when_a_newer_write_is_announced() -> None:
    hot = UserCache(SPACE)
    decoded(hot, "u", stored(5, "e1"))
    hot.heard("u", (5, 5, 0))
    assert hot.remembered("u") is not None
    hot.heard("u", (5, 5, 1))
    assert hot.remembered("u") is None


def test_an_older_read_that_finishes_last_is_not_cached() -> None:
    hot = UserCache(SPACE)
    decoded(hot, "u", stored(2, "e1", "e2"))
    assert decoded(hot, "u", stored(1, "e1")).history_version == 1
    assert hot.remembered("u") is not None
    assert hot.remembered("u").history_version == 2  # type: ignore[union-attr]
    hot.heard("v", (7, 7, 0))
    decoded(hot, "v", stored(6, "e1"))
    assert hot.remembered("v") is None, "it was heard of while the older one was being read"


def test_damaged_bytes_are_refused_and_not_kept() -> None:
    hot = UserCache(SPACE)
    with pytest.raises(BadInput):
        decoded(hot, "u", stored(1, "e1")[:-1] + b"x")
    assert hot.remembered("u") is None


# --- store down ---


def test_while_the_store_is_down_cached_seen_items_are_used_and_the_answer_says_so() -> None:
    async def story() -> None:
        replica = await opened()
        await replica.store.put_many_if_newer({"u": stored(1, "e0", "e1")})
        well = await replica.ask()
        assert (well["seen"], ids(well)) == ("known", ["i2", "i3", "i4"])
        replica.store.down = True
        for _ in range(5):
            poor = await replica.ask()
            assert (poor["seen"], poor["reason"], poor["degraded"]) == ("cached", "store_unavailable", True)
            assert poor["degradations"] == ["store_unavailable"]
            assert ids(poor) == ["i2", "i3", "i4"]
            assert poor["newest_event_id"] == "e1"

    run(story())


def test_a_user_with_an_announced_newer_write_is_unknown_while_the_store_is_down() -> None:
    async def story() -> None:
        replica = await opened()
        await replica.store.put_many_if_newer({"u": stored(1, "e0")})
        await replica.ask()
        replica.recommender.users.heard("u", update(2))
        replica.store.down = True
        answer = await replica.ask()
        assert (answer["seen"], answer["newest_event_id"]) == ("unknown", None)
        assert {item["source"] for item in answer["items"]} == {"trending"}

    run(story())


def test_cached_documents_are_not_trusted_while_updates_are_not_followed() -> None:
    async def story() -> None:
        replica = await opened()
        await replica.store.put_many_if_newer({"u": stored(1, "e0")})
        await replica.ask()
        replica.store.down, replica.hearing = True, False
        answer = await replica.ask()
        assert answer["seen"] == "unknown"
        assert "i0" not in ids(answer), "it is used all the same"

    run(story())


def test_a_user_who_was_never_read_is_unknown_while_the_store_is_down() -> None:
    async def story() -> None:
        replica = await opened()
        replica.store.down = True
        assert (await replica.ask())["seen"] == "unknown"

    run(story())


def test_expired_seen_items_do_not_count_in_a_cached_document() -> None:
    async def story() -> None:
        replica = await opened()
        raw = stored(1, "e0", until_s=np.array([1_500], np.uint32))
        await replica.store.put_many_if_newer({"u": raw})
        assert ids(await replica.ask(k=1)) == ["i1"]
        replica.clock_s[0] = 1_501.0
        assert ids(await replica.ask(k=1)) == ["i0"]

    run(story())


# --- after= ---


def test_an_event_that_was_used_is_fresh_at_once() -> None:
    async def story() -> None:
        replica = await opened()
        await replica.store.put_many_if_newer({"u": stored(1, "e1")})
        before = replica.store.reads
        assert (await replica.ask(after="e1"))["fresh"] is True
        assert replica.store.reads == before + 1
        assert "fresh" not in await replica.ask()

    run(story())


def test_a_waiting_request_is_woken_by_the_write_without_polling() -> None:
    async def story() -> None:
        replica = await opened()
        await replica.store.put_many_if_newer({"u": stored(1, "e1")})
        asking = asyncio.create_task(replica.ask(after="e2", wait_ms=5_000))
        while not len(replica.waiting):
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        before = replica.store.reads
        for _ in range(20):
            await asyncio.sleep(0)
        assert (replica.store.reads, asking.done()) == (before, False)
        replica.recommender.users.heard("somebody else", update(2))
        await replica.store.put_many_if_newer({"u": stored(2, "e1", "e2")})
        before = replica.store.reads
        replica.recommender.users.heard("u", update(2))
        answer = await asking
        assert (answer["fresh"], answer["newest_event_id"]) == (True, "e2")
        assert "i2" not in ids(answer)
        assert replica.store.reads == before + 1
        assert len(replica.waiting) == 0

    run(story())


def test_another_write_of_the_user_does_not_end_the_wait() -> None:
    async def story() -> None:
        replica = await opened()
        asking = asyncio.create_task(replica.ask(after="e9", wait_ms=5_000))
        while not len(replica.waiting):
            await asyncio.sleep(0)
        for version, events in ((1, ("e1",)), (2, ("e1", "e2")), (3, ("e1", "e2", "e9"))):
            assert not asking.done()
            await replica.store.put_many_if_newer({"u": stored(version, *events)})
            replica.recommender.users.heard("u", update(version))
            for _ in range(20):
                await asyncio.sleep(0)
        assert (await asking)["fresh"] is True

    run(story())


def test_an_event_that_does_not_come_in_time_is_not_fresh() -> None:
    async def story() -> None:
        replica = await opened()
        await replica.store.put_many_if_newer({"u": stored(1, "e1")})
        for wait_ms in (0, 20):
            answer = await replica.ask(after="e2", wait_ms=wait_ms)
            assert (answer["fresh"], answer["degraded"], len(answer["items"])) == (False, False, 3)

    run(story())


@pytest.mark.parametrize(
    ("event", "time_ms", "outcome", "fresh"),
    [
        ("e1", EARLIEST_MS + 500, "used", True),
        ("e0", EARLIEST_MS + 499, "passed", True),
        ("e0", EARLIEST_MS - 1, "refused", False),
    ],
)
def test_an_answer_does_not_wait_for_an_event_that_will_not_be_used_and_says_what_became_of_it(
    event: str, time_ms: int, outcome: str, fresh: bool
) -> None:
    async def story() -> None:
        replica = await opened()
        full = stored(1, "e1", "e2", window_from_ms=EARLIEST_MS + 500)
        await replica.store.put_many_if_newer({"u": full})
        answer = await replica.ask(after=event, after_ms=time_ms, wait_ms=60_000)
        assert (answer["after_event"], answer["fresh"]) == (outcome, fresh)
        assert "after_event" not in await replica.ask()

    run(story())


def test_an_event_from_before_the_users_erasure_is_refused() -> None:
    async def story() -> None:
        replica = await opened()
        erased_ms = EARLIEST_MS + 7
        gone = stored(erased_ms, seen_version=erased_ms, vector=None, erased=True)
        await replica.store.put_many_if_newer({"u": gone})
        answer = await replica.ask(after="e1", after_ms=erased_ms, wait_ms=60_000)
        assert (answer["after_event"], answer["fresh"], answer["reason"]) == ("refused", False, "unknown_user")
        later = await replica.ask(after="e1", after_ms=erased_ms + 1, wait_ms=0)
        assert later["after_event"] == "unknown"

    run(story())


@pytest.mark.parametrize(("window_from_ms", "after_ms"), [(0, EARLIEST_MS), (EARLIEST_MS + 1, None)])
def test_what_became_of_an_event_is_unknown_before_the_window_is_full_or_without_its_time(
    window_from_ms: int, after_ms: int | None
) -> None:
    async def story() -> None:
        replica = await opened()
        await replica.store.put_many_if_newer({"u": stored(1, "e1", window_from_ms=window_from_ms)})
        answer = await replica.ask(after="e0", after_ms=after_ms, wait_ms=1)
        assert (answer["after_event"], answer["fresh"]) == ("unknown", False)

    run(story())


def test_an_event_that_passes_while_a_request_waits_ends_the_wait() -> None:
    async def story() -> None:
        replica = await opened()
        asking = asyncio.create_task(replica.ask(after="e0", after_ms=EARLIEST_MS, wait_ms=60_000))
        while not len(replica.waiting):
            await asyncio.sleep(0)
        await replica.store.put_many_if_newer({"u": stored(2, "e2", window_from_ms=EARLIEST_MS + 1)})
        replica.recommender.users.heard("u", update(2))
        assert (await asking)["after_event"] == "passed"

    run(story())


def test_an_unannounced_write_is_found_when_the_wait_ends() -> None:
    async def story() -> None:
        replica = await opened()
        asking = asyncio.create_task(replica.ask(after="e2", wait_ms=50))
        while not len(replica.waiting):
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        await replica.store.put_many_if_newer({"u": stored(2, "e2")})
        assert (await asking)["fresh"] is True

    run(story())


def test_when_too_many_requests_wait_the_next_is_answered_at_once() -> None:
    async def story() -> None:
        replica = await opened()
        waiting = [asyncio.create_task(replica.ask(f"u{nth}", after="e1", wait_ms=5_000)) for nth in range(2)]
        while len(replica.waiting) < 2:
            await asyncio.sleep(0)
        answer = await replica.ask("u3", after="e1", wait_ms=5_000)
        assert (answer["fresh"], answer["degradations"], answer["degraded"]) == (
            False,
            [Degradation.WAIT_SKIPPED],
            True,
        )
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert len(replica.waiting) == 0, "who hangs up leaves nothing behind"

    run(story())


def test_of_the_waiting_requests_one_key_has_half_and_one_user_a_few() -> None:
    async def story() -> None:
        replica = await opened()
        waiters = replica.waiting = replica.recommender.users._waiters = Waiters(most=8, most_of_user=3)
        holders = ["page", "page", "page", "page", "backend", None, "backend"]
        users = ["a", "b", "c", "d", "e", "e", "e"]
        asking = [
            asyncio.create_task(replica.ask(user, after="e1", wait_ms=5_000, holder=holder))
            for user, holder in zip(users, holders, strict=True)
        ]
        while len(waiters) < len(users):
            await asyncio.sleep(0)
        for user, holder in (("f", "page"), ("e", None)):
            answer = await replica.ask(user, after="e1", wait_ms=5_000, holder=holder)
            assert answer["degradations"] == [Degradation.WAIT_SKIPPED]
        asking.append(asyncio.create_task(replica.ask("f", after="e1", wait_ms=5_000, holder="backend")))
        while len(waiters) == len(users):
            await asyncio.sleep(0)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert len(waiters) == 0

    run(story())


def test_while_the_store_is_down_a_waiting_request_is_answered_without_freshness() -> None:
    async def story() -> None:
        replica = await opened()
        replica.store.down = True
        answer = await replica.ask(after="e1", wait_ms=20)
        assert (answer["fresh"], answer["seen"]) == (False, "unknown")

    run(story())


# --- seen items beside the document ---


def snapshot(version: int, *items: str) -> bytes:
    hashes = np.sort(hash64_all(items))
    return encode_seen(
        SeenSnapshot(version, hashes, np.full(len(items), FOREVER_S, np.uint32), np.zeros(len(items), np.bool_))
    )


def beside(version: int, *events: str) -> bytes:
    """A document whose snapshot, of version 1, is not in it; the clicks came afterwards."""
    made = document(version, *events)
    recent = Recent(made.seen, np.full(len(made.seen), version))
    return encode_user_document(replace(made, seen_version=1, seen_beside=True, recent=recent), SPACE)


def test_items_of_the_snapshot_beside_a_document_stay_out_of_its_answers() -> None:
    async def story() -> None:
        replica = await opened()
        await replica.store.put_seen_if_newer({"u": snapshot(1, "i0", "i1")})
        await replica.store.put_many_if_newer({"u": beside(2, "e2")})
        answer = await replica.ask()
        assert (answer["seen"], ids(answer)) == ("known", ["i3", "i4", "i5"])

    run(story())


def test_a_snapshot_that_came_between_the_two_reads_of_an_answer_is_read_again() -> None:
    class Late(Store):
        """Its first read finds the document of a moment later than the seen items."""

        async def get_with_seen(self, user_id: str) -> StoredUser:
            found = await super().get_with_seen(user_id)
            return StoredUser(found.document, None if self.reads == 1 else found.seen)

    async def story() -> None:
        replica = await opened(Late())
        await replica.store.put_seen_if_newer({"u": snapshot(1, "i0", "i1")})
        await replica.store.put_many_if_newer({"u": beside(2, "e2")})
        replica.store.reads = 0
        answer = await replica.ask()
        assert (answer["seen"], ids(answer)) == ("known", ["i3", "i4", "i5"])

    run(story())


def test_a_store_that_has_lost_the_seen_items_is_no_secret() -> None:
    async def story() -> None:
        replica = await opened()
        await replica.store.put_many_if_newer({"u": beside(2, "e2")})
        for _ in range(2):
            answer = await replica.ask()
            assert (answer["seen"], ids(answer)) == ("unknown", ["i0", "i1", "i3"])

    run(story())


# --- pages ---


def test_pages_never_repeat_and_go_on_as_they_began_whatever_is_clicked() -> None:
    async def story() -> None:
        replica = await opened()
        await replica.store.put_many_if_newer({"u": stored(1, "e0")})
        first = await replica.ask(page=FIRST)
        assert ids(first) == ["i1", "i2", "i3"]
        await replica.store.put_many_if_newer({"u": stored(2, "e0", "e5", vector=unit(11))})
        second = await replica.ask(page=first["next_page"])
        assert ids(second) == ["i4", "i6", "i7"], "in the first page's order, without the new click"
        assert (second["vector_version"], second["newest_event_id"]) == (1, "e0"), "says which vector it used"
        third = await replica.ask(page=second["next_page"], k=10)
        assert sorted(ids(third)) == ["i10", "i11", "i8", "i9"]
        last = await replica.ask(page=third["next_page"])
        assert (ids(last), last["next_page"]) == ([], None)

    run(story())


def test_any_replica_gives_the_next_page() -> None:
    async def story() -> None:
        store = Store()
        one, other = await opened(store), await opened(store)
        await store.put_many_if_newer({"u": stored(1, "e0")})
        first = await one.ask(page=FIRST)
        assert ids(await other.ask(page=first["next_page"])) == ["i4", "i5", "i6"]

    run(story())


def test_an_unknown_user_turns_pages_too() -> None:
    async def story() -> None:
        replica = await opened()
        found: list[str] = []
        page: str | None = FIRST
        while page is not None:
            answer = await replica.ask("nobody", page=page, k=5)
            found += ids(answer)
            page = answer["next_page"]
        assert sorted(found) == sorted(f"i{nth}" for nth in range(12))

    run(story())


def test_while_the_store_is_down_pages_go_on_and_do_not_repeat() -> None:
    async def story() -> None:
        store = Store()
        one, other = await opened(store), await opened(store)
        await store.put_many_if_newer({"u": stored(1, "e0")})
        first = await one.ask(page=FIRST)
        store.down = True
        cached, unknown = await one.ask(page=first["next_page"]), await other.ask(page=first["next_page"])
        assert (cached["seen"], ids(cached)) == ("cached", ["i4", "i5", "i6"])
        assert unknown["seen"] == "unknown"
        assert not set(ids(unknown)) & set(ids(first))
        assert {item["source"] for item in unknown["items"]} == {"trending"}

    run(story())


def refused(replica: Replica, token: str, user_id: str = "u") -> PageError:
    async def story() -> None:
        await replica.ask(user_id, page=token)

    with pytest.raises(PageError) as caught:
        run(story())
    return caught.value


@pytest.fixture
def paged() -> tuple[Replica, str]:
    """A replica, and the token of the second page of user u."""

    async def story() -> tuple[Replica, str]:
        replica = await opened()
        await replica.store.put_many_if_newer({"u": stored(1, "e0"), "v": stored(1, "e0")})
        return replica, (await replica.ask(page=FIRST))["next_page"]

    return run(story())


def test_a_page_of_another_user_is_refused(paged: tuple[Replica, str]) -> None:
    error = refused(paged[0], paged[1], "v")
    assert not error.is_gone
    assert "another user" in str(error)


@pytest.mark.parametrize("at", [0, 10, 60, -40, -10, -1])
def test_a_page_that_was_changed_anywhere_is_refused(paged: tuple[Replica, str], at: int) -> None:
    replica, token = paged
    other = "A" if token[at] != "A" else "E"
    place = at % len(token)
    error = refused(replica, token[:place] + other + token[place + 1 :])
    assert not error.is_gone
    assert f"page={FIRST}" in str(error)


@pytest.mark.parametrize("token", ["x", "a.b.c", "…", "\x00", "." * 50, "Zmlyc3Q.aaaa.bbbb"])
def test_an_invalid_page_token_is_refused(paged: tuple[Replica, str], token: str) -> None:
    assert not refused(paged[0], token).is_gone


def test_a_page_signed_with_another_secret_or_for_another_purpose_is_refused(paged: tuple[Replica, str]) -> None:
    replica, token = paged
    payload = SignedTokens(b"s" * 16, "page", lives_s=60).open(token)
    for seal in (SignedTokens(b"t" * 16, "page", lives_s=60), SignedTokens(b"s" * 16, "login", lives_s=60)):
        assert not refused(replica, seal.sign(payload)).is_gone


def test_an_old_page_is_gone(paged: tuple[Replica, str]) -> None:
    replica, token = paged
    later = Replica(replica.store)
    later.recommender = Recommender(
        catalogue(),
        UserReader(replica.guard, SPACE),
        SPACE,
        pages=PageTokens(SignedTokens(b"s" * 16, "page", lives_s=-1), SPACE),
    )
    assert refused(later, token).is_gone


def test_a_page_of_a_space_that_is_not_served_any_more_is_gone(paged: tuple[Replica, str]) -> None:
    _, token = paged
    pages = PageTokens(SignedTokens(b"s" * 16, "page", lives_s=60), Space(4, 4))
    with pytest.raises(PageError, match="space 3") as caught:
        pages.open(token, "u")
    assert caught.value.is_gone


def test_a_page_of_a_user_who_was_erased_is_gone_even_if_he_came_back(paged: tuple[Replica, str]) -> None:
    replica, token = paged
    nothing = {"vector": None, "newest_event_id": "", "erased": True}
    for raw in (stored(5, **nothing), stored(6, "e7")):
        run(replica.store.put_many_if_newer({"u": raw}))
        assert refused(replica, token).is_gone


def test_a_page_of_a_user_who_was_erased_is_gone_even_if_he_meets_the_same_items_again(
    paged: tuple[Replica, str],
) -> None:
    replica, token = paged
    run(replica.store.put_many_if_newer({"u": stored(6, "e0", erased_version=5)}))
    assert refused(replica, token).is_gone


def test_a_list_that_began_after_the_users_erasure_goes_on() -> None:
    async def story() -> None:
        replica = await opened()
        await replica.store.put_many_if_newer({"u": stored(6, "e0", erased_version=5)})
        first = await replica.ask(page=FIRST)
        await replica.store.put_many_if_newer({"u": stored(7, "e0", "e5", erased_version=5)})
        assert ids(await replica.ask(page=first["next_page"])) == ["i4", "i6", "i7"]

    run(story())


def test_a_list_ends_before_its_token_grows_too_long() -> None:
    pages = PageTokens(SignedTokens(b"s" * 16, "page", lives_s=60), Space(1, 128))
    page, longest = pages.open(FIRST, "u").begun(document(1, "e" * 128, vector=np.ones(128, np.float32))), ""
    for nth in range(0, 1_000, 20):
        token = pages.next(page, "u", [f"i{nth + more}" for more in range(20)])
        if token is None:
            break
        longest, page = token, pages.open(token, "u")
    assert nth == 480
    assert 5_000 < len(longest) < 6_500
    assert re.fullmatch(r"[\w.-]+", longest)


# --- the rule, over whatever happens in whatever order ---


class World:
    """Two replicas over one store, and a user who clicks; checks each answer against what was shown before."""

    def __init__(self) -> None:
        self.store = Store()
        self.replicas = [Replica(self.store), Replica(self.store)]
        self.clicks: list[str] = []
        self.untold: list[list[int]] = [[], []]  # versions of which a replica has not heard
        self.shown: list[set[str]] = [set(), set()]  # items of events that were shown as used, as a replica must know
        self.token: str | None = None
        self.served: set[str] = set()

    async def click(self, item: int) -> None:
        """A click is used: the document is written, and every replica will hear of it."""
        if not self.store.down:
            self.clicks.append(f"e{item}")
            version = len(self.clicks)
            await self.store.put_many_if_newer({"u": stored(version, *dict.fromkeys(self.clicks), vector=unit(item))})
            for untold in self.untold:
                untold.append(version)

    def hear(self, which: int) -> None:
        """A replica hears of the oldest write that it has not heard of."""
        if self.untold[which]:
            self.replicas[which].recommender.users.heard("u", update(self.untold[which].pop(0)))

    async def fall(self) -> None:
        """The store goes down once all that was written is heard of."""
        for which in (0, 1):
            while self.untold[which]:
                self.hear(which)
        self.store.down = True

    async def rise(self) -> None:
        self.store.down = False
        for replica in self.replicas:
            await replica.open()

    async def ask(self, which: int, how: dict[str, Any]) -> None:
        if how.get("page") == "next":
            if self.token is None:
                return
            how = how | {"page": self.token}
        elif how.get("page") == FIRST:
            self.served = set()
        answer = await self.replicas[which].ask(**how)
        self.check(answer, how)

    def check(self, answer: dict[str, Any], how: dict[str, Any]) -> None:
        came = set(ids(answer))
        assert len(came) == len(ids(answer))
        if "page" in how:
            assert not came & self.served, "a page repeats"
            self.served |= came
            self.token = answer["next_page"]
        if answer["seen"] != Seen.UNKNOWN:
            assert not came & self.shown[0], "an item came back"
        newest = answer["newest_event_id"]
        if newest:
            used = self.clicks[: len(self.clicks) - self.clicks[::-1].index(newest)]
            self.shown[0] |= {event.replace("e", "i") for event in used}
        if answer.get("fresh"):
            self.shown[0].add(str(how["after"]).replace("e", "i"))


QUESTIONS = st.sampled_from(
    [
        {},
        {"k": 12},
        {"k": 12, "diversity": 0.5},
        {"k": 5, "max_per_category": 3},
        {"k": 12, "popularity_discount": 0.7},
        {"page": FIRST},
        {"page": "next"},
        {"page": "next", "k": 6},
        {"after": "e3", "wait_ms": 0},
    ]
)
STEPS = st.one_of(
    st.tuples(st.just("click"), st.integers(0, 11)),
    st.tuples(st.just("hear"), st.integers(0, 1)),
    st.tuples(st.just("ask"), st.integers(0, 1), QUESTIONS),
    st.tuples(st.sampled_from(["fall", "rise"])),
)


@examples(150)
@given(st.lists(STEPS, max_size=40))
def test_an_item_never_returns_after_its_event_was_used(steps: list[tuple[Any, ...]]) -> None:
    async def story() -> None:
        world = World()
        await world.rise()
        for name, *given_ in steps:
            came = getattr(world, name)(*given_)
            if came is not None:
                await came

    run(story())


class SlowStore(Store):
    """Takes its time: an answer is what was stored when the question came, and comes when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[asyncio.Future[None]] | None = None

    async def get(self, user_id: str) -> bytes | None:
        raw = await super().get(user_id)
        if self.held is not None:
            held = asyncio.get_running_loop().create_future()
            self.held.append(held)
            await held
            if self.down:
                raise Unavailable("it went down meanwhile")
        return raw


def test_a_slow_earlier_read_does_not_overwrite_a_later_one() -> None:
    async def story() -> None:
        store = SlowStore()
        replica = await opened(store)
        await store.put_many_if_newer({"u": stored(1, "e0")})
        store.held = []
        slow = asyncio.create_task(replica.ask())
        while not store.held:
            await asyncio.sleep(0)
        held, store.held = store.held, None
        await store.put_many_if_newer({"u": stored(2, "e0", "e1")})
        assert (await replica.ask())["newest_event_id"] == "e1"
        held[0].set_result(None)
        await slow
        store.down = True
        later = await replica.ask()
        assert (later["seen"], later["newest_event_id"]) == ("cached", "e1")
        assert "i1" not in ids(later)

    run(story())
