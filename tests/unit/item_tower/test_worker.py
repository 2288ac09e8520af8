"""item_tower: every change of the catalogue becomes the vector that the topic should hold, and only that."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from nearline.dead_letters import decode_dead_letter
from nearline.features import Arrays, Features, TextEncoder, id_token
from nearline.item_table import ItemTable
from nearline.item_vectors import ItemVector, decode_item_vector
from nearline.items import PURGE, Item, encode_item
from nearline.log import Record
from nearline.space import Space
from services.item_tower.item_changes import ItemInputs, input_digest
from services.item_tower.worker import ItemWorker
from tests.support.fakes import Outbox, ScriptedReader, ScriptedTowers

SPACE = Space(1, 64)
NOW_MS = 1_732_100_000_000
TOPIC = "item-vectors.1"
FEATURES = Features()

pytestmark = pytest.mark.anyio


def listed(item_id: str, offset: int, **fields: object) -> Record:
    item = Item(**{"title": f"THING {item_id}", **fields})  # type: ignore[arg-type]
    return Record("items", 0, offset, NOW_MS, item_id.encode(), encode_item(item))


def deleted(item_id: str, offset: int, *, purge: bool = False) -> Record:
    headers = (PURGE,) if purge else ()
    return Record("items", 0, offset, NOW_MS, item_id.encode(), None, headers)


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
        4,
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
    assert (second.version, second.shown.available) == (2, False)
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
        assert [(v.version, v.shown.attributes) for v in stage.published() if v] == [(1, {}), (2, {"colour": "red"})]


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
    assert second.retired_ms == NOW_MS
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
    assert last.version == 3


async def test_a_replay_publishes_nothing_twice() -> None:
    stage = Stage([listed("i", 1), listed("j", 2)], [listed("i", 1), listed("j", 2)], [deleted("never", 3)])
    await stage.play()
    assert len(stage.published()) == 2
    assert len(stage.reader.dealt_with) == 5


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
    assert known.version == 1


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
