"""user_tower: newest wins, what was seen is snapshot and window, nothing is lost while a dependency is away."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from local.layout import ROOT
from nearline.adapters.memory import MemoryStore
from nearline.dead_letters import decode_dead_letter
from nearline.features import TYPE_CODES, Features, context_token
from nearline.hashing import hash64
from nearline.item_table import ItemTable
from nearline.item_vectors import ItemFields, ItemVector
from nearline.log import Record
from nearline.seen import FOREVER_S, SeenPolicy, SeenSnapshot, encode_seen, no_seen, parse_seen_policy
from nearline.sequences import TriggerEvent, UserSequence, encode_sequence, erased_sequence
from nearline.signals import USER_SIGNALS, Context, Kind
from nearline.space import Space
from nearline.user_documents import UserDocument, decode_stored_user, decode_user_document, encode_user_document
from services.user_tower.documents import News, advance, snapshot_beside
from services.user_tower.missing_items import MissingItems
from services.user_tower.worker import CHUNK, UserWorker
from tests.support.fakes import Outbox, ScriptedReader, ScriptedTowers

SPACE = Space(1, 64)
NOW_MS = 1_732_100_000_000
FOR_EVER_MS = 10**13  # the versions here are small numbers, and not the times that the time to live counts from
FOREVER = parse_seen_policy("")

pytestmark = pytest.mark.anyio


def sequence(user_id: str, *items: str, version: int, kind: str = "click") -> UserSequence:
    n = len(items)
    times = [NOW_MS + i for i in range(n)]
    return UserSequence(
        user_id, version, list(items), times, [kind] * n, [1.0] * n, [f"{user_id}-{version}-{i}" for i in range(n)]
    )


def record(user_id: str, *items: str, version: int, kind: str = "click", offset: int = 0) -> Record:
    value = encode_sequence(sequence(user_id, *items, version=version, kind=kind))
    return Record("user-sequences", 0, offset, NOW_MS, user_id.encode(), value)


def snapshot(version: int, *items: str, bought: str = "", until_s: int = FOREVER_S) -> SeenSnapshot:
    named = sorted((hash64(item), item in bought.split()) for item in items)
    hashes = np.array([hashed for hashed, _ in named], np.uint64)
    return SeenSnapshot(
        version, hashes, np.full(len(named), until_s, np.uint32), np.array([buys for _, buys in named], np.bool_)
    )


def seen_record(user_id: str, seen: SeenSnapshot, offset: int = 0) -> Record:
    return Record("user-seen", 0, offset, NOW_MS, user_id.encode(), encode_seen(seen))


def erasure(user_id: str, version: int, offset: int = 0) -> Record:
    value = encode_sequence(erased_sequence(user_id, version))
    return Record("user-sequences", 0, offset, NOW_MS, user_id.encode(), value)


def hashes(*items: str) -> set[int]:
    return {hash64(item) for item in items}


def table_of(*items: str) -> ItemTable:
    table = ItemTable(SPACE)
    for item in items:
        table.put(item_vector(item))
    return table


def item_vector(item: str) -> ItemVector:
    vector = np.random.default_rng(hash64(item)).normal(size=64)
    return ItemVector(item, 1, ItemFields(item), None, (vector / np.linalg.norm(vector)).astype(np.float16), "d")


class Stage:
    """A worker among fakes that keep what they were given."""

    def __init__(
        self,
        *polls: list[Record],
        items: tuple[str, ...] = ("a", "b", "c"),
        policy: SeenPolicy = FOREVER,
        kept: int = 50,
        ttl_ms: int | None = None,
    ) -> None:
        self.reader = ScriptedReader(*polls)
        self.towers = ScriptedTowers()
        self.store = MemoryStore(ttl_ms=FOR_EVER_MS, now_ms=lambda: NOW_MS)
        self.outbox = Outbox()
        self.announced: list[dict[str, UserDocument]] = []
        self.causes: list[dict[str, TriggerEvent]] = []
        self.table = table_of(*items)
        self.clock_s = 0.0
        self.missing = MissingItems(most=3, clock=lambda: self.clock_s)
        self.worker = UserWorker(
            SPACE,
            reader=self.reader,
            table=self.table,
            towers=self.towers,
            store=self.store,
            dead_letters=self.outbox,
            announce=self._announce,
            policy=policy,
            kept=kept,
            missing=self.missing,
            ttl_ms=ttl_ms,
            now_ms=lambda: NOW_MS,
            retry_s=0.0,
        )

    def _announce(self, documents: Mapping[str, UserDocument], causes: Mapping[str, TriggerEvent]) -> None:
        self.announced.append(dict(documents))
        self.causes.append(dict(causes))

    def list_items(self, *items: str) -> None:
        """Vectors of *items* come, as in app.py."""
        for item in items:
            self.table.put(item_vector(item))
        self.missing.came(items)

    async def run(self) -> UserDocument:
        """Deal with all that was polled, and give what is stored of the one user, ``u``."""
        while self.reader.polls:
            await self.worker.step()
        return await self.document("u")

    async def document(self, user_id: str) -> UserDocument:
        """The stored document with all seen items."""
        document = decode_stored_user(await self.store.get_with_seen(user_id), SPACE)
        assert document is not None
        return document

    async def vector(self, user_id: str) -> NDArray[np.float32]:
        vector = (await self.document(user_id)).vector
        assert vector is not None
        return vector


async def test_a_click_becomes_a_stored_vector_that_names_it() -> None:
    stage = Stage([record("u", "a", "b", version=5)])
    await stage.worker.step()
    document = await stage.document("u")
    assert document.vector is not None
    assert document.vector_version == document.history_version == 5
    assert document.newest_event_id == "u-5-1"
    assert hash64("u-5-0") in document.events
    assert set(document.seen.tolist()) == {hash64("a"), hash64("b")}
    assert [r.offset for r in stage.reader.dealt_with] == [0]


async def test_a_document_says_from_when_on_events_can_be_used_once_the_window_is_full() -> None:
    stage = Stage([record("u", "a", version=5), record("v", "a", "b", version=5)], kept=2)
    await stage.worker.step()
    assert (await stage.document("u")).window_from_ms == 0
    assert (await stage.document("v")).window_from_ms == NOW_MS
    stage.reader.polls.append([erasure("v", version=6)])
    await stage.worker.step()
    assert (await stage.document("v")).window_from_ms == 0


async def test_a_burst_of_one_user_costs_one_inference_and_all_of_it_is_seen() -> None:
    stage = Stage(
        [record("u", "a", version=1), record("u", "b", version=2), record("u", "c", version=3, kind="purchase")]
    )
    await stage.worker.step()
    document = await stage.document("u")
    assert stage.towers.user_calls == [1]
    assert document.vector_version == 3
    assert set(document.seen.tolist()) == {hash64("a"), hash64("b"), hash64("c")}
    assert document.purchased.tolist() == [hash64("c")]


async def test_what_is_older_than_the_time_to_live_is_skipped_and_its_offsets_are_committed() -> None:
    """A store that is rebuilt does not bring back users of whom the job's null value has not come yet."""
    idle = replace(record("u", "a", version=5), append_ms=NOW_MS - 100_001)
    stage = Stage([idle, record("v", "a", version=6, offset=1)], ttl_ms=100_000)
    await stage.worker.step()
    assert await stage.store.get("u") is None
    assert (await stage.document("v")).history_version == 6
    assert [r.offset for r in stage.reader.dealt_with] == [0, 1]


async def test_users_are_encoded_many_in_one_request() -> None:
    stage = Stage([record(f"u{i}", "a", version=1) for i in range(CHUNK + 1)])
    await stage.worker.step()
    assert sorted(stage.towers.user_calls) == [1, CHUNK]


async def test_the_tower_reads_the_newest_context_of_each_user() -> None:
    said: list[Context | None] = [{"country": "GB"}, {"device": "phone"}]
    spoken = replace(sequence("u", "a", "b", version=5), contexts=said)
    with_context = Record("user-sequences", 0, 0, NOW_MS, b"u", encode_sequence(spoken))
    stage = Stage([record("new", "never listed", version=1), with_context, record("v", "a", version=1)])
    await stage.worker.step()
    both = [context_token("country", "gb"), context_token("device", "phone")]
    assert stage.towers.contexts == [both + [0] * 6, [0] * 8]


async def test_events_of_types_that_the_towers_do_not_know_are_masked() -> None:
    """A user who has nothing else has no vector yet, as one without a known item."""
    stage = Stage([record("u", "a", version=1, kind="skip")], [record("u", "a", version=2)])
    stage.towers.features = Features(types=TYPE_CODES["skip"] - 1)
    await stage.worker.step()
    first = await stage.document("u")
    assert (first.vector, first.history_version) == (None, 1)
    await stage.worker.step()
    assert (await stage.document("u")).vector_version == 2


async def test_a_history_longer_than_the_towers_read_is_seen_in_whole() -> None:
    """The job keeps 500 events, the towers read 50: seen items and the clicks that the answer used are all of them."""
    items = [f"i{n}" for n in range(500)]
    stage = Stage([record("u", *items, version=1)], items=tuple(items[-50:]))
    await stage.worker.step()
    document = await stage.document("u")
    assert document.vector is not None
    assert (len(document.seen), len(document.events)) == (500, 500)
    np.testing.assert_allclose(document.vector, mean_of(stage.table), atol=1e-3)


def mean_of(table: ItemTable) -> NDArray[np.float32]:
    """What the fake tower makes of a history of all items of the table."""
    mean: NDArray[np.float32] = table.history[: len(table)].astype(np.float32).mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean), np.float32)


async def test_a_user_who_is_read_again_is_kept_no_longer_than_before() -> None:
    """A store that was lost is filled from the log, more than a year of users at once."""
    week_ms = 7 * 24 * 3600 * 1000
    stage = Stage()
    sequence = record("u", "a", version=NOW_MS - week_ms // 2)
    stage.reader.polls.append([sequence, seen_record("u", snapshot(NOW_MS - week_ms // 2 - 1, "b"))])
    now_ms = NOW_MS
    stage.store._ttl_ms, stage.store._now_ms = week_ms, lambda: now_ms
    await stage.run()
    now_ms += week_ms // 2 - 1
    assert await stage.store.get("u") is not None
    now_ms += 2
    assert await stage.store.get("u") is None
    now_ms += week_ms // 4
    assert await stage.store.get_with_seen("u") == (None, None)


async def test_a_replayed_old_sequence_never_overwrites_a_newer_one() -> None:
    stage = Stage([record("u", "a", "b", version=9)], [record("u", "a", version=4)])
    await stage.worker.step()
    before = await stage.document("u")
    await stage.worker.step()
    after = await stage.document("u")
    assert (after.vector_version, after.newest_event_id) == (9, "u-9-1")
    np.testing.assert_array_equal(before.vector, after.vector)


async def test_an_item_without_a_vector_is_masked_until_it_has_one() -> None:
    stage = Stage([record("u", "new", version=1)], [record("u", "new", "a", version=2)])
    await stage.worker.step()
    first = await stage.document("u")
    assert first.vector is None
    assert first.history_version == 1
    assert hash64("new") in first.seen
    await stage.worker.step()
    second = await stage.document("u")
    assert second.vector is not None
    assert second.vector_version == 2


async def test_a_click_on_an_item_whose_vector_comes_a_moment_later_counts_when_the_vector_comes() -> None:
    stage = Stage([record("u", "a", "new", version=2)])
    await stage.worker.step()
    before, without = await stage.document("u"), await stage.vector("u")
    await stage.worker.step()
    assert stage.towers.user_calls == [1], "nothing is encoded again before the vector comes"
    stage.list_items("other", "new")
    await stage.worker.step()
    after = await stage.document("u")
    complete = Stage([record("u", "a", "new", version=2)], items=("a", "new"))
    await complete.worker.step()
    np.testing.assert_array_equal(after.vector, await complete.vector("u"))
    assert not np.array_equal(without, await stage.vector("u"))
    assert after.order == before.order, "the same history: its version stays"
    assert (after.newest_event_id, after.seen.tolist()) == (before.newest_event_id, before.seen.tolist())
    assert list(stage.announced[-1]) == ["u"]
    assert len(stage.missing) == 0
    await stage.worker.step()
    assert stage.towers.user_calls == [1, 1]


async def test_a_first_click_on_an_item_without_a_vector_is_measured_once_the_vector_is_stored() -> None:
    cause = TriggerEvent("u-1-0", NOW_MS, NOW_MS)
    value = encode_sequence(replace(sequence("u", "new", version=1), cause=cause))
    stage = Stage([Record("user-sequences", 0, 0, NOW_MS, b"u", value)])
    await stage.worker.step()
    assert stage.causes == [{}]
    stage.list_items("new")
    await stage.worker.step()
    assert (await stage.document("u")).vector is not None
    assert [list(causes) for causes in stage.causes] == [[], ["u"]]


async def test_two_items_may_come_one_after_the_other() -> None:
    stage = Stage([record("u", "one", "two", version=1)])
    await stage.worker.step()
    for item in ("two", "one"):
        stage.list_items(item)
        await stage.worker.step()
    assert stage.towers.user_calls == [1, 1]
    whole = Stage([record("u", "one", "two", version=1)], items=("one", "two"))
    await whole.worker.step()
    np.testing.assert_array_equal(await stage.vector("u"), await whole.vector("u"))


async def test_a_vector_that_comes_while_the_tower_computes_is_not_missed() -> None:
    stage = Stage([record("u", "a", "new", version=1)])
    encode = stage.towers.encode_users

    async def slow(batch: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        if "new" not in stage.table:
            stage.list_items("new")
        return await encode(batch)

    stage.towers.encode_users = slow  # type: ignore[method-assign]
    await stage.worker.step()
    await stage.worker.step()
    assert stage.towers.user_calls == [1, 1]


async def test_an_item_that_comes_while_triton_is_away_counts_afterwards() -> None:
    stage = Stage([record("u", "a", "new", version=1)])
    await stage.worker.step()
    before = await stage.vector("u")
    stage.list_items("new")
    stage.towers.down = True
    await stage.worker.step()
    stage.towers.down = False
    await stage.worker.step()
    assert not np.array_equal(before, await stage.vector("u"))
    assert len(stage.reader.dealt_with) == 1


@pytest.mark.parametrize("end", ["erasure", "tombstone"])
async def test_an_erased_users_document_does_not_come_back_with_an_item(end: str) -> None:
    tombstone = Record("user-sequences", 0, 1, NOW_MS, b"u", None)
    stage = Stage([record("u", "a", "new", version=1)], [tombstone if end == "tombstone" else erasure("u", 2)])
    await stage.worker.step()
    await stage.worker.step()
    stage.list_items("new")
    await stage.worker.step()
    raw = await stage.store.get("u")
    assert raw is None or decode_user_document(raw, SPACE).erased


async def test_a_bad_answer_with_the_new_item_leaves_the_vector_without_it() -> None:
    stage = Stage([record("u", "a", "bad", version=1)])
    await stage.worker.step()
    before = await stage.vector("u")
    stage.list_items("bad")
    stage.towers.poison_value = float(stage.table.history[stage.table.row_of["bad"], 0])
    await stage.worker.step()
    np.testing.assert_array_equal(await stage.vector("u"), before)
    assert stage.outbox.sent == {}


async def test_users_wait_for_items_ten_minutes_and_the_oldest_leave_when_many_wait() -> None:
    stage = Stage([record("u", "new", version=1), record("v", "new", "newer", version=1)])
    await stage.worker.step()
    assert len(stage.missing) == 3
    stage.reader.polls.append([record("w", "new", version=1)])
    stage.clock_s = 300.0
    await stage.worker.step()
    assert len(stage.missing) == 3, "u waited longest"
    stage.clock_s = 601.0
    await stage.worker.step()
    assert len(stage.missing) == 1
    stage.list_items("new", "newer")
    await stage.worker.step()
    assert [(await stage.document(user_id)).vector is not None for user_id in "uvw"] == [False, False, True]
    assert len(stage.missing) == 0


async def test_seen_advances_while_triton_is_away_and_the_vector_follows() -> None:
    stage = Stage([record("u", "a", version=1)], [record("u", "a", "b", version=2)])
    await stage.worker.step()
    stage.towers.down = True
    await stage.worker.step()
    meanwhile = await stage.document("u")
    assert (meanwhile.vector_version, meanwhile.history_version) == (1, 2)
    assert meanwhile.newest_event_id == "u-1-0"
    assert hash64("b") in meanwhile.seen
    assert len(stage.reader.dealt_with) == 1
    stage.towers.down = False
    await stage.worker.step()
    assert (await stage.document("u")).vector_version == 2
    assert len(stage.reader.dealt_with) == 2


async def test_no_offset_is_committed_while_the_store_is_down() -> None:
    stage = Stage([record("u", "a", version=1)])
    stage.store.down = True
    stays = 0

    class Recovering(ScriptedReader):
        async def stay(self) -> None:
            nonlocal stays
            stays += 1
            stage.store.down = stays < 3

    stage.worker._reader = Recovering([record("u", "a", version=1)])  # the store comes back at the third try
    await stage.worker.step()
    assert (stays, stage.announced) == (3, [])
    await stage.worker.step()
    assert (await stage.document("u")).vector_version == 1


async def test_one_bad_answer_costs_nobody_else_their_vector() -> None:
    stage = Stage([record(f"u{i}", "bad" if i == 3 else "a", version=1) for i in range(8)], items=("a", "bad"))
    poison = stage.table.history[stage.table.row_of["bad"], 0]
    stage.towers.poison_value = float(poison)
    await stage.worker.step()
    letters = [decode_dead_letter(value or b"") for _, value in stage.outbox.sent["user-sequences-dlq"]]
    assert [(letter.key, letter.reason) for letter in letters] == [(b"u3", "bad_answer")]
    assert (await stage.document("u3")).vector is None
    assert all([(await stage.document(f"u{i}")).vector is not None for i in range(8) if i != 3])
    assert len(stage.reader.dealt_with) == 8


async def test_a_broken_sequence_goes_to_the_dead_letters_and_the_rest_goes_on() -> None:
    broken = Record("user-sequences", 0, 1, NOW_MS, b"x", b"{}")
    stage = Stage([broken, record("u", "a", version=1)])
    await stage.worker.step()
    assert decode_dead_letter(stage.outbox.sent["user-sequences-dlq"][0][1] or b"").reason == "bad_sequence"
    assert (await stage.document("u")).vector_version == 1


async def test_a_tombstone_forgets_the_user() -> None:
    stage = Stage([record("u", "a", version=1)], [Record("user-sequences", 0, 1, NOW_MS, b"u", None)])
    await stage.worker.step()
    await stage.worker.step()
    assert await stage.store.get("u") is None


async def test_a_document_of_another_space_is_rebuilt_not_mixed() -> None:
    stage = Stage([record("u", "a", version=1)])
    nothing = np.zeros(0, np.uint64)
    foreign = UserDocument(np.ones(64, np.float32), 0, 0, "e", NOW_MS, NOW_MS, nothing, nothing, nothing)
    await stage.store.put_many_if_newer({"u": encode_user_document(foreign, Space(9, 64))})
    await stage.worker.step()
    document = await stage.document("u")
    assert document.vector_version == 1
    assert document.vector is not None
    assert not np.array_equal(document.vector, np.ones(64, np.float32))


async def test_a_damaged_document_is_rebuilt_though_its_versions_were_newer() -> None:
    stage = Stage([record("u", "a", version=9)], [record("u", "b", version=5)])
    await stage.worker.step()
    raw = await stage.store.get("u")
    assert raw is not None
    await stage.store.put_many_if_newer({"u": raw[:-1] + bytes([raw[-1] ^ 1])})
    document = await stage.run()
    assert (document.order, document.seen.tolist()) == ((5, 5, 0), [hash64("b")])


async def test_an_equal_version_heals_the_document() -> None:
    news = News([sequence("u", "a", version=1)])
    now = advance(None, news, None, policy=FOREVER, now_ms=NOW_MS)
    healed = advance(now, news, np.ones(64, np.float32), policy=FOREVER, now_ms=NOW_MS)
    assert healed.vector is not None
    assert healed.vector_version == 1


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6), min_size=1, max_size=5))
def test_until_a_snapshot_comes_seen_is_the_union_of_every_window(windows: list[list[str]]) -> None:
    document = None
    for version, window in enumerate(windows, start=1):
        news = News([sequence("u", *window, version=version)])
        document = advance(document, news, None, policy=FOREVER, now_ms=NOW_MS)
    assert document is not None
    assert document.seen.tolist() == sorted({hash64(item) for window in windows for item in window})
    assert document.history_version == len(windows)


async def test_seen_items_are_the_snapshot_plus_later_windows() -> None:
    """The snapshot of version 2 doesn't know the click of version 3; what it leaves out of before is gone."""
    stage = Stage(
        [record("u", "old", version=1), record("u", "a", "b", version=2), record("u", "b", "c", version=3)],
        [seen_record("u", snapshot(2, "a", "b", "long ago", bought="a"))],
    )
    document = await stage.run()
    assert set(document.seen.tolist()) == hashes("a", "b", "c", "long ago")
    assert document.purchased.tolist() == [hash64("a")]
    assert document.order == (3, 3, 2)
    assert document.recent.hashes.tolist() == sorted(hashes("b", "c"))
    assert stage.towers.user_calls == [1]  # a snapshot costs no inference


async def test_an_item_whose_event_was_removed_leaves_with_the_next_snapshot_however_they_arrive() -> None:
    with_it, without = record("u", "a", "x", version=5), record("u", "a", version=6)
    after, told = record("u", "a", "b", version=7), seen_record("u", snapshot(6, "a"))
    for polls in ([with_it, without, told, after], [told, with_it, without, after], [with_it, without, after, told]):
        document = await Stage(*[[each] for each in polls]).run()
        assert set(document.seen.tolist()) == hashes("a", "b")
        assert hash64("x") not in document.recent.hashes


async def test_an_item_that_was_met_again_after_its_removal_outlives_a_snapshot_between_the_two() -> None:
    stage = Stage(
        [record("u", "x", version=1)],
        [record("u", "a", version=2)],
        [record("u", "a", "x", version=3)],
        [seen_record("u", snapshot(2, "a"))],
    )
    assert set((await stage.run()).seen.tolist()) == hashes("a", "x")


async def test_a_snapshot_that_is_older_than_the_stored_one_changes_nothing() -> None:
    stage = Stage([seen_record("u", snapshot(6, "a"))], [seen_record("u", snapshot(4, "a", "x"))])
    assert (await stage.run()).seen.tolist() == [hash64("a")]


async def test_a_snapshot_alone_makes_a_document_that_waits_for_its_sequence() -> None:
    """After a loss of the store either topic may be read first."""
    stage = Stage([seen_record("u", snapshot(6, "a"))], [record("u", "a", "b", version=5)])
    await stage.worker.step()
    first = await stage.document("u")
    assert (first.vector, first.newest_event_id) == (None, "")
    second = await stage.run()
    assert second.vector is not None
    assert second.order == (6, 5, 6)


async def test_without_an_item_that_is_known_the_document_still_names_its_history_after_a_snapshot_came_first() -> None:
    stage = Stage([seen_record("u", snapshot(6, "new"))], [record("u", "new", version=5)])
    document = await stage.run()
    assert (document.vector, document.newest_event_id) == (None, "u-5-0")


async def test_a_damaged_snapshot_goes_to_the_dead_letters() -> None:
    broken = Record("user-seen", 3, 1, NOW_MS, b"u", encode_seen(snapshot(6, "a"))[:-1])
    stage = Stage([broken, record("u", "a", version=1)])
    await stage.run()
    letter = decode_dead_letter(stage.outbox.sent["user-sequences-dlq"][0][1] or b"")
    assert (letter.topic, letter.reason) == ("user-seen", "bad_checksum")


async def test_seen_is_written_from_snapshots_while_triton_is_away() -> None:
    stage = Stage([record("u", "a", version=1), seen_record("u", snapshot(1, "a", "long ago"))])
    stage.towers.down = True
    document = await stage.run()
    assert set(document.seen.tolist()) == hashes("a", "long ago")
    assert stage.worker._waiting_users["u"].snapshot is None  # stored already: it need not wait with the sequence
    stage.towers.down = False
    await stage.worker.step()
    assert (await stage.document("u")).order == (1, 1, 1)
    assert len(stage.reader.dealt_with) == 2


async def test_a_kind_of_event_counts_as_long_as_the_policy_says() -> None:
    policy = parse_seen_policy("view=1d, skip=never")
    stage = Stage(
        [record("u", "a", version=1, kind="skip"), record("u", "b", version=2, kind="view")],
        [record("u", "b", "c", version=3)],
        policy=policy,
    )
    await stage.worker.step()
    now_s = NOW_MS // 1000
    document = await stage.document("u")
    assert document.seen_at(now_s).tolist() == [hash64("b")]
    assert document.seen_at(now_s + 86_400).tolist() == []
    document = await stage.run()
    assert set(document.seen_at(now_s + 86_400).tolist()) == hashes("b", "c")
    assert document.until_s is None  # all of it for ever now, which costs nothing to look at


async def test_the_longest_time_counts_of_snapshot_and_window() -> None:
    day_s = NOW_MS // 1000 + 86_400
    stage = Stage(
        [seen_record("u", snapshot(1, "a", "b", until_s=day_s))],
        [record("u", "a", version=2, kind="purchase")],
        [seen_record("u", snapshot(3, "a", "b", until_s=day_s, bought="a"))],
        policy=parse_seen_policy("view=1d"),
    )
    await stage.worker.step()
    await stage.worker.step()
    document = await stage.document("u")
    assert document.seen_at(day_s).tolist() == document.purchased_at(day_s).tolist() == [hash64("a")]
    document = await stage.run()
    assert document.seen_at(day_s).tolist() == document.purchased_at(day_s).tolist() == []
    assert set(document.seen_at(day_s - 1).tolist()) == hashes("a", "b")


async def test_items_seen_since_the_snapshot_are_bounded() -> None:
    stage = Stage(*[[record("u", *(f"{n}-{i}" for i in range(50)), version=n)] for n in range(1, 46)])
    document = await stage.run()
    assert len(document.recent.hashes) == 2_000
    assert hash64("45-49") in document.recent.hashes
    assert hash64("1-0") not in document.recent.hashes


async def test_an_erasure_marker_is_not_changed_by_older_records() -> None:
    late = [record("u", "a", "b", version=4)], [seen_record("u", snapshot(4, "a"))], [record("u", "a", version=3)]
    stage = Stage([record("u", "a", "b", version=4)], [seen_record("u", no_seen(5)), erasure("u", 5)], *late)
    document = await stage.run()
    assert document.erased
    assert document.order == (5, 5, 5)
    assert document.vector is None
    assert [len(column) for column in (document.seen, document.purchased, document.events)] == [0, 0, 0]
    assert (document.newest_event_id, document.as_of_ms) == ("", 0)
    assert stage.towers.user_calls == [1]


async def test_an_erasure_of_an_unknown_user_leaves_a_marker_too() -> None:
    assert (await Stage([erasure("u", 5)]).run()).erased


async def test_an_erased_user_who_returns_starts_with_an_empty_history() -> None:
    stage = Stage([record("u", "a", version=4), erasure("u", 5), record("u", "b", version=6)], items=("a", "b"))
    document = await stage.run()
    assert not document.erased
    assert document.seen.tolist() == [hash64("b")]
    assert document.order == (6, 6, 5)
    assert document.erased_version == 5
    assert document.vector is not None
    np.testing.assert_allclose(document.vector, stage.table.history[stage.table.row_of["b"]], atol=1e-3)


async def test_an_erasure_that_is_read_again_takes_nothing_of_what_came_after_it() -> None:
    stage = Stage([record("u", "a", version=4), erasure("u", 5)], [record("u", "b", version=6)], [erasure("u", 5)])
    document = await stage.run()
    assert (document.erased, document.order, document.erased_version) == (False, (6, 6, 5), 5)
    assert len(stage.reader.dealt_with) == 4
    assert document.vector is not None
    assert document.seen.tolist() == [hash64("b")]


async def test_the_newest_erasure_is_kept_in_whatever_order_they_are_read() -> None:
    sequences = record("u", "a", version=4), record("u", "b", version=8)
    for erasures in ([erasure("u", 5), erasure("u", 7)], [erasure("u", 7), erasure("u", 5)]):
        document = await Stage([*sequences, *erasures], items=("a", "b")).run()
        assert (document.erased, document.order, document.erased_version) == (False, (8, 8, 7), 7)


async def test_an_erasure_that_is_read_after_newer_seen_items_is_kept_too() -> None:
    stage = Stage([record("u", "a", version=4)], [seen_record("u", snapshot(6, "b")), record("u", "b", version=6)])
    stage.reader.polls.append([erasure("u", 5)])
    document = await stage.run()
    assert (document.erased, document.order, document.erased_version) == (False, (6, 6, 6), 5)


async def test_an_erasure_is_carried_out_while_triton_is_away() -> None:
    stage = Stage([record("u", "a", version=4)], [record("v", "a", version=1), erasure("u", 5)])
    await stage.worker.step()
    stage.towers.down = True
    assert (await stage.run()).erased


async def test_a_profile_alone_is_enough_for_towers_that_read_it() -> None:
    told = UserSequence("u", 3, [], [], [], [], [], profile={"country": "GB"}, profile_ms=NOW_MS - 7)
    stage = Stage([Record("user-sequences", 0, 0, NOW_MS, b"u", encode_sequence(told))])
    document = await stage.run()
    assert document.vector is not None
    assert (document.order, document.as_of_ms, document.newest_event_id) == ((3, 3, 0), NOW_MS - 7, "")
    assert stage.towers.contexts == [[context_token("country", "gb")] + [0] * 7]


async def test_towers_that_read_no_context_give_no_vector_of_a_profile_and_the_document_says_so() -> None:
    told = UserSequence("u", 3, [], [], [], [], [], profile={"country": "GB"}, profile_ms=NOW_MS - 7)
    stage = Stage([Record("user-sequences", 0, 0, NOW_MS, b"u", encode_sequence(told))])
    stage.towers.features = Features(user=tuple(signal for signal in USER_SIGNALS if signal.kind is Kind.EVENTS))
    document = await stage.run()
    assert document.vector is None
    assert (document.order, document.as_of_ms, document.erased) == ((3, 0, 0), NOW_MS - 7, False)


async def test_each_stored_document_is_announced_once_the_store_has_it() -> None:
    stage = Stage([record("u", "a", version=1), record("v", "a", version=1)], [erasure("u", 2)])
    await stage.worker.step()
    assert {user_id: one.order for user_id, one in stage.announced[0].items()} == {"u": (1, 1, 0), "v": (1, 1, 0)}
    await stage.worker.step()
    assert [(user_id, one.erased) for user_id, one in stage.announced[1].items()] == [("u", True)]


async def test_a_click_reads_and_writes_little_however_much_its_user_has_seen() -> None:
    """Two kilobytes each: the 26 of 2,000 seen items move only with their snapshot."""
    items = tuple(f"item-{n}" for n in range(100))
    windows = [record("u", *items[n : n + 50], version=100 + n) for n in range(26)]
    many = snapshot(99, *(f"old-{n}" for n in range(2_000)))
    stage = Stage([seen_record("u", many), windows[0]], *([each] for each in windows[1:]), items=items)
    document = await stage.run()
    assert len(document.seen) == 2_075
    raw = await stage.store.get("u")
    assert raw is not None
    assert len(raw) <= 2_048


def test_a_document_of_the_second_version_keeps_what_it_saw_until_the_next_snapshot() -> None:
    space = Space(7, 4)
    old = decode_user_document((ROOT / "tests" / "golden" / "user_document.v2.bin").read_bytes(), space)
    clicked = News([sequence("u", "a", version=NOW_MS + 10)])
    after = advance(old, clicked, None, policy=FOREVER, now_ms=NOW_MS)
    stored = decode_user_document(encode_user_document(after, space), space)
    assert set(stored.seen.tolist()) == {3, 5, 2**63, hash64("a")}
    told = News(snapshot=snapshot(NOW_MS + 20, "b"))
    beside = advance(stored, told, None, policy=FOREVER, now_ms=NOW_MS)
    assert (beside.seen.tolist(), beside.seen_beside) == ([], True)
    assert snapshot_beside(beside, told) is told.snapshot
