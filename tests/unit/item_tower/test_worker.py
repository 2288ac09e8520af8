"""item_tower: every change of the catalogue becomes the vector that the topic should hold, and only that."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from nearline.dead_letters import decode_dead_letter
from nearline.features import Arrays, Features, TextEncoder, id_token
from nearline.item_table import ItemTable, apply_all
from nearline.item_vectors import ItemFields, ItemVector, decode_item_vector
from nearline.items import PURGE, Item, encode_item
from nearline.log import Record
from nearline.newest import Newest
from nearline.space import Space
from nearline.topics import PARTITIONS
from nearline.versions import partition_of, version_of
from services.item_tower.item_changes import ItemInputs, input_digest
from services.item_tower.newer_changes import among, missed
from services.item_tower.worker import WRONG_PARTITION, ItemWorker
from tests.support.fakes import Outbox, ScriptedReader, ScriptedTowers

SPACE = Space(1, 64)
NOW_MS = 1_732_100_000_000
TOPIC = "item-vectors.1"
FEATURES = Features()

pytestmark = pytest.mark.anyio


def listed(item_id: str, nth: int, partition: int = 0, **fields: object) -> Record:
    """The record of an item, appended as the nth of all, a millisecond after the one before."""
    item = Item(**{"title": f"THING {item_id}", **fields})  # type: ignore[arg-type]
    return Record("items", partition, nth, NOW_MS + nth, item_id.encode(), encode_item(item))


def deleted(item_id: str, nth: int, partition: int = 0, *, purge: bool = False) -> Record:
    headers = (PURGE,) if purge else ()
    return Record("items", partition, nth, NOW_MS + nth, item_id.encode(), None, headers)


def version(nth: int, partition: int = 0) -> int:
    return version_of(NOW_MS + nth, partition)


class Stage:
    """A worker among fakes that keep what they were given."""

    def __init__(self, *polls: list[Record], read: ItemInputs = FEATURES.item_inputs) -> None:
        self.reader = ScriptedReader(*polls)
        self.towers = ScriptedTowers()
        self.outbox = Outbox()
        self.table = ItemTable(SPACE, keep_candidates=True)
        self.worker = ItemWorker(
            SPACE,
            reader=self.reader,
            table=self.table,
            towers=self.towers,
            read=read,
            publish=self.outbox,
            now_ms=lambda: NOW_MS,
            retry_s=0.0,
        )

    async def play(self) -> None:
        while self.reader.polls:
            await self.worker.step()

    def published(self) -> list[ItemVector | None]:
        return [
            None if value is None else decode_item_vector(key.decode(), value, SPACE)
            for key, value in self.outbox.sent.get(TOPIC, [])
        ]


async def test_a_listed_item_is_published_with_what_answers_show() -> None:
    stage = Stage([listed("i", 4, category="mugs", price=2.5)])
    await stage.play()
    (vector,) = stage.published()
    assert vector is not None
    assert vector.candidate is not None
    assert (vector.version, vector.shown.title, vector.shown.category, vector.shown.price) == (
        version(4),
        "THING i",
        "mugs",
        2.5,
    )
    assert np.linalg.norm(vector.candidate) == pytest.approx(1, abs=1e-5)


async def test_a_change_beside_the_models_input_needs_no_model() -> None:
    stage = Stage([listed("i", 1)], [listed("i", 2, available=False)])
    await stage.play()
    first, second = stage.published()
    assert stage.towers.item_calls == [1]
    assert first is not None
    assert second is not None
    assert (second.version, second.shown.available) == (version(2), False)
    np.testing.assert_array_equal(first.candidate, second.candidate)


async def test_a_new_title_is_encoded_again() -> None:
    stage = Stage([listed("i", 1)], [listed("i", 2, title="SOMETHING ELSE")])
    await stage.play()
    assert stage.towers.item_calls == [1, 1]


async def test_a_change_of_what_the_served_towers_do_not_read_needs_no_model() -> None:
    """Towers of another release know no attributes; this build's do."""
    changes = [listed("i", 1)], [listed("i", 2, attributes={"colour": "red"})]
    without = tuple(signal for signal in FEATURES.item if signal.name != "attributes")
    older, newer = Stage(*changes, read=Features(item=without).item_inputs), Stage(*changes)
    await older.play()
    await newer.play()
    assert (older.towers.item_calls, newer.towers.item_calls) == ([1], [1, 1])
    for stage in (older, newer):
        assert [(v.version, v.shown.attributes) for v in stage.published() if v] == [
            (version(1), {}),
            (version(2), {"colour": "red"}),
        ]


def test_the_digest_covers_what_a_text_encoder_reads() -> None:
    """Only the encoder reads the end of a long description."""
    encoder = Features(text_encoder=TextEncoder("ab" * 32, 8))

    def lengths(texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.array([[len(text)] * 8 for text in texts]), np.ones((len(texts), 8), np.int64)

    def read(items: Sequence[tuple[str, Item]]) -> Arrays:
        return encoder.item_inputs(items, lengths)

    short, long = (Item("lamp", description="a b c d e f g h i j k l" + more) for more in ("", " m"))
    assert input_digest("i", short, read) != input_digest("i", long, read)
    assert input_digest("i", short, FEATURES.item_inputs) == input_digest("i", long, FEATURES.item_inputs)


async def test_only_the_newest_of_several_changes_is_published() -> None:
    stage = Stage([listed("i", 1), listed("i", 2, title="TWO"), listed("i", 3, title="THREE")])
    await stage.play()
    assert [v.shown.title for v in stage.published() if v] == ["THREE"]


async def test_a_deleted_item_is_retired_and_keeps_its_history_vector() -> None:
    stage = Stage([listed("i", 1)], [deleted("i", 2)])
    await stage.play()
    first, second = stage.published()
    assert first is not None
    assert second is not None
    assert second.candidate is None
    assert second.retired_ms == NOW_MS + 2
    np.testing.assert_array_equal(first.history, second.history)
    assert "i" in stage.table
    assert "i" not in stage.table.live_ids()


async def test_a_purged_item_leaves_nothing() -> None:
    stage = Stage([listed("i", 1)], [deleted("i", 2, purge=True)])
    await stage.play()
    assert stage.published()[-1] is None


async def test_a_deleted_item_can_be_listed_again() -> None:
    stage = Stage([listed("i", 1)], [deleted("i", 2)], [listed("i", 3)])
    await stage.play()
    last = stage.published()[-1]
    assert last is not None
    assert last.candidate is not None
    assert last.version == version(3)


async def test_a_replay_changes_nothing_and_needs_no_model() -> None:
    """The newest change is published again; an older one is not."""
    log = [listed("i", 1), listed("j", 2), listed("i", 3)]
    stage = Stage(log, log[:1], log[1:], [deleted("never", 4)])
    await stage.play()
    assert stage.towers.item_calls == [2]
    found = [(v.item_id, v.version) for v in stage.published() if v]
    assert sorted(found) == [("i", version(3)), ("i", version(3)), ("j", version(2)), ("j", version(2))]
    assert len(stage.reader.dealt_with) == 7


@pytest.mark.parametrize("order", list(permutations(range(3))))
async def test_the_later_appended_change_counts_in_whatever_order_partitions_are_read(order: tuple[int, ...]) -> None:
    """A client with another partitioner wrote to partition 5 what everybody else writes to partition 2."""
    log = [listed("i", 900, 2, title="ONE"), listed("i", 901, 5, title="TWO"), listed("i", 902, 2, title="THREE")]
    stage = Stage(*[[log[n]] for n in order])
    await stage.play()
    newest = max((v for v in stage.published() if v), key=lambda v: v.version)
    assert (newest.shown.title, newest.version) == ("THREE", version(902, 2))
    together = Stage([log[n] for n in order])
    await together.play()
    assert [v.shown.title for v in together.published() if v] == ["THREE"]


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("purge", [False, True])
async def test_a_delete_outdates_values_of_other_partitions_also_those_read_after_it(
    order: tuple[int, ...], purge: bool
) -> None:
    log = [listed("i", 900, 2), listed("i", 901, 5), deleted("i", 902, 2, purge=purge)]
    stage = Stage(*[[log[n]] for n in order])
    await stage.play()
    table = ItemTable(SPACE)
    apply_all(table, stage.outbox.records(TOPIC))
    assert table.live_ids() == set()


async def test_a_delete_that_is_older_than_the_item_changes_nothing() -> None:
    for purge in (False, True):
        stage = Stage([listed("i", 2)], [deleted("i", 1, 5, purge=purge)])
        await stage.play()
        assert stage.table.live_ids() == {"i"}
        assert len(stage.published()) == 1


async def test_of_two_changes_in_one_millisecond_the_later_in_the_partition_counts() -> None:
    first, second = (replace(listed("i", n, title=f"TITLE {n}"), append_ms=NOW_MS) for n in (7, 8))
    stage = Stage([first], [second])
    await stage.play()
    table = ItemTable(SPACE)
    assert apply_all(table, stage.outbox.records(TOPIC)) == (2, [])
    known = table.get("i")
    assert known is not None
    assert known.input_digest == input_digest("i", Item("TITLE 8"), FEATURES.item_inputs)


async def test_changes_that_are_older_than_those_found_at_the_start_wait_for_them() -> None:
    """Another replica reads the newer ones, so this one must not publish the older ones over them."""
    old, new, gone = listed("i", 1, 5), listed("i", 2, 3), deleted("j", 4, 3)
    newest = Newest()
    newest.note([new, gone, listed("j", 3, 5), old])
    stage = Stage([old, listed("j", 3, 5)])
    stage.worker.know(newest)
    await stage.play()
    assert stage.published() == []


# --- what earlier releases left ---------------------------------------------------------------------------------------


def published_as(stage: Stage, item_id: str, offset: int, title: str = "OLD") -> None:
    """Publish as earlier releases did: with the offset as the version."""
    half = np.zeros(SPACE.dimension, np.float16)
    stage.table.put(ItemVector(item_id, offset, ItemFields(title), half.astype(np.float32), half, "digest"))


def newest_in(*records: Record) -> Newest:
    newest = Newest()
    newest.note(records)
    return newest


async def test_an_item_that_was_stuck_for_its_offset_in_another_partition_is_caught_up_at_the_start() -> None:
    stage = Stage()
    published_as(stage, "i", 70)
    stuck, log = listed("i", 40, 5, title="NEW"), [listed("i", 70, 2, title="OLD"), listed("j", 9)]
    stuck = replace(stuck, append_ms=NOW_MS + 99)
    newest = newest_in(*log, stuck)
    orders = missed(newest, stage.table, {2: 71, 5: 41, 0: 10})
    assert await stage.worker.catch_up(among([*log, stuck], orders)) == 1
    assert [(v.shown.title, v.version) for v in stage.published() if v] == [("NEW", version(99, 5))]
    assert missed(newest, stage.table, {2: 71, 5: 41, 0: 10}) == {}
    assert missed(newest, ItemTable(SPACE), {}) == {}, "what is not committed comes by itself"


async def test_an_item_whose_topic_was_restored_with_lower_offsets_is_caught_up() -> None:
    stage = Stage()
    published_as(stage, "i", 5000)
    published_as(stage, "same", 3)
    published_as(stage, "gone", 4000)
    log = [listed("i", 12, title="NEW"), listed("same", 3), deleted("gone", 13)]
    assert await stage.worker.catch_up(among(log, missed(newest_in(*log), stage.table, {0: 14}))) == 2
    assert [(v.item_id, v.shown.title) for v in stage.published() if v] == [("i", "NEW"), ("gone", "")]


async def test_an_invalid_change_is_not_refused_again_at_each_start() -> None:
    stage = Stage([listed("i", 1)], [Record("items", 0, 2, NOW_MS + 2, b"i", b"{}")])
    await stage.play()
    log = [*stage.reader.dealt_with]
    assert await stage.worker.catch_up(among(log, missed(newest_in(*log), stage.table, {0: 3}))) == 0
    assert len(stage.outbox.sent["items-dlq"]) == 1


async def test_what_another_partitioner_wrote_is_counted() -> None:
    right = partition_of(b"i", PARTITIONS)
    count = WRONG_PARTITION.labels(topic="items")
    before = count._value.get()
    await Stage([listed("i", 1, right), listed("i", 2, (right + 3) % PARTITIONS), deleted("i", 3, 7 - right)]).play()
    assert count._value.get() - before == 1


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"i", b"{}", "unknown_version"),
        (b"i", b"\xff", "not_utf8"),
        (b"\xff", b"{}", "bad_id"),
        (None, b"{}", "bad_id"),
    ],
)
async def test_a_bad_item_is_a_dead_letter_and_the_old_version_stays(
    key: bytes | None, value: bytes, reason: str
) -> None:
    stage = Stage([listed("i", 1)], [Record("items", 0, 2, NOW_MS, key, value), listed("j", 3)])
    await stage.play()
    letters = [decode_dead_letter(raw or b"") for _, raw in stage.outbox.sent["items-dlq"]]
    assert [(letter.reason, letter.value) for letter in letters] == [(reason, value)]
    assert [v.item_id for v in stage.published() if v] == ["i", "j"]
    known = stage.table.get("i")
    assert known is not None
    assert known.version == version(1)


async def test_an_item_that_the_model_cannot_encode_costs_nobody_else_theirs() -> None:
    stage = Stage([listed(f"i{n}", n) for n in range(9)])
    stage.towers.poison_tokens = {id_token("i5")}
    await stage.play()
    assert {v.item_id for v in stage.published() if v} == {f"i{n}" for n in range(9)} - {"i5"}
    assert decode_dead_letter(stage.outbox.sent["items-dlq"][0][1] or b"").reason == "bad_answer"


async def test_while_triton_is_away_the_offsets_wait() -> None:
    stage = Stage([listed("i", 1)])
    stage.towers.down = True

    class Recovering(ScriptedReader):
        async def stay(self) -> None:
            assert not self.dealt_with
            self.stays += 1
            stage.towers.down = self.stays < 3

    reader = Recovering([listed("i", 1)])
    stage.worker._reader = reader
    await stage.worker.step()
    assert reader.stays == 3
    assert len(stage.published()) == 1
    assert len(reader.dealt_with) == 1


async def test_items_that_left_the_catalogue_unseen_are_retired_at_start() -> None:
    stage = Stage([listed("i", 1), listed("j", 2)])
    await stage.play()

    async def catalogue() -> set[str]:
        return {"j"}

    assert await stage.worker.retire_orphans(catalogue) == 1
    last = stage.published()[-1]
    assert last is not None
    assert (last.item_id, last.candidate) == ("i", None)
    assert await stage.worker.retire_orphans(catalogue) == 0


async def test_items_that_another_process_lists_while_the_catalogue_is_read_are_not_retired() -> None:
    """A second item_tower starts while the first one publishes a new item, and an item that was deleted and is back."""
    stage = Stage([listed("gone", 1), listed("back", 2), listed("kept", 3)])
    await stage.play()
    other = Stage([listed("new", 4), listed("back", 6, title="BACK")], [listed("new", 5, title="NEW")])
    await other.worker.step()

    async def catalogue_up_to_offset_3() -> set[str]:
        for vector in other.published():
            assert vector is not None
            stage.table.put(vector)
        return {"kept"}

    assert await stage.worker.retire_orphans(catalogue_up_to_offset_3) == 1
    assert stage.table.live_ids() == {"back", "kept", "new"}
    await other.worker.step()
    changed = other.published()[-1]
    assert changed is not None
    assert stage.table.put(changed), "the new item's next change is newer than what is published"
