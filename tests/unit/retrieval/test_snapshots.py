"""Snapshots: a restart knows what was known, the damaged and the foreign are refused, and what went stays away."""

import asyncio
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import orjson
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from local.layout import ROOT
from nearline.adapters.hnsw import HnswGraph
from nearline.errors import Unavailable
from nearline.filters import parse
from nearline.followers import Follower
from nearline.hashing import hash64
from nearline.item_vectors import ItemFields, ItemVector, encode_item_vector
from nearline.log import Extent, Record, TopicExtent
from nearline.space import Space
from nearline.topics import all_topics
from services.retrieval.in_process import snapshots
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.forking import in_fork
from services.retrieval.in_process.graphs import SavedGraph
from services.retrieval.in_process.index import IndexLimits, LiveIndex
from services.retrieval.in_process.maintenance import IndexMaintenance
from services.retrieval.in_process.records import item_records
from services.retrieval.in_process.snapshot_schedule import SnapshotSchedule
from services.retrieval.in_process.snapshots import SnapshotRefused, Taken
from services.retrieval.in_process.widths import Widths
from services.retrieval.items.printed import render, shown_fields
from tests.support.fakes import FakeTable
from tests.support.properties import examples

SPACE = Space(2, 8)
GOLDEN = ROOT / "tests" / "golden" / "index_snapshot.v1"
GOLDEN_DESCRIBED = GOLDEN.with_name("index_snapshot_with_attributes.v1")
NOW = 1_800_000_000_000
TOPIC = "item-vectors.2"
LOG = Extent("cluster-a", {TOPIC: TopicExtent("topic-a", {0: 0, 1: 0}, {0: 1_000, 1: 1_000})})
NOTHING = np.empty(0, np.uint64)
LIMITS = IndexLimits(exact_below=20, fold_above=4, bulk=10)


def catalogue() -> Catalogue:
    return Catalogue(8, LiveIndex(8, lambda capacity: HnswGraph(8, capacity), LIMITS))


def load(path: Path, saved: SavedGraph) -> HnswGraph:
    return HnswGraph.load(path, 8, saved.capacity, count=saved.count, removed=saved.removed)


def unit(seed: int) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal(8).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


def item(number: int, version: int = 1, *, seed: int | None = None, retired: bool = False) -> ItemVector:
    vector = unit(number if seed is None else seed)
    shown = ItemFields(f"Title {number}", f"c{number % 3}", "en", number + 0.5, "brand", 1_000 + number)
    candidate = None if retired else vector
    return ItemVector(f"i{number}", version, shown, candidate, vector.astype(np.float16), "d", 5 if retired else None)


def record(offset: int, vector: ItemVector) -> Record:
    return Record(TOPIC, 0, offset, 0, vector.item_id.encode(), encode_item_vector(vector, SPACE))


def build(shop: Catalogue) -> None:
    started = shop.index.start_build()
    assert started.run(lambda: False)
    shop.index.adopt(started)


def shop_of(items: int) -> Catalogue:
    """A shop with a graph, a delta, one removed row in each, and a retired item."""
    shop = catalogue()
    for number in range(items):
        shop.apply(item(number))
        shop.trending.score(f"i{number}", float(number))
    build(shop)
    for number in range(items, items + 3):
        shop.apply(item(number))
    shop.apply(item(1, 2, retired=True))
    shop.apply(item(items, 2, seed=999))
    return shop


def taken(**changes: object) -> Taken:
    return replace(Taken(NOW, SPACE, LOG, {TOPIC: {0: 40, 1: 7}}), **changes)  # type: ignore[arg-type]


def newest(folder: Path, space: Space = SPACE, log: Extent = LOG, now_ms: int = NOW) -> list[snapshots.Snapshot]:
    return list(snapshots.newest(folder, space, log, now_ms))


def restored(folder: Path) -> Catalogue:
    again = catalogue()
    snapshots.restore(snapshots.read(folder), again, load)
    return again


def answers(shop: Catalogue) -> list[tuple[list[bytes], list[float]]]:
    found = [asyncio.run(shop.nearest(unit(10_000 + seed), 10, NOTHING, None)) for seed in range(20)]
    return [(picked.printed, picked.scores.tolist()) for picked in found]


def known(shop: Catalogue) -> list[tuple[object, ...]]:
    """What it knows of each item, whatever slot that has."""
    return [(item_id, version, slot >= 0, shown) for item_id, version, slot, shown in shop.records()]


def same(one: Catalogue, other: Catalogue) -> None:
    assert answers(one) == answers(other)
    assert known(one) == known(other)
    assert list(one.newest()) == list(other.newest())
    assert list(one.trending.top()) == list(other.trending.top())
    assert list(one.trending.top_of(["c1"])) == list(other.trending.top_of(["c1"]))


def histories(shop: Catalogue) -> dict[str, list[float]]:
    """What the user tower reads of each known item."""
    rows = shop.history_rows(item_id for item_id, *_ in shop.records())
    return {item_id: shop.histories.matrix[row].tolist() for item_id, row in rows.items()}


def test_a_restored_shop_answers_as_the_one_that_was_kept(tmp_path: Path) -> None:
    shop = shop_of(37)
    again = restored(snapshots.write(tmp_path, shop, taken()))
    same(shop, again)
    assert len(again) == len(shop) == 39
    assert again.index.removed_rows == shop.index.removed_rows == 1
    assert again.favourite_categories([hash64(f"i{number}") for number in range(4)]) != []


def test_a_restored_shop_goes_on_as_the_one_that_was_kept(tmp_path: Path) -> None:
    shop = shop_of(37)
    again = restored(snapshots.write(tmp_path, shop, taken()))
    for kept in (shop, again):
        for number in range(30, 60):
            kept.apply(item(number, 3, seed=number + 500))
        kept.purge("i5")
        kept.index.fold()
        build(kept)
    assert sorted(s for printed, _ in answers(shop) for s in printed) == sorted(
        s for printed, _ in answers(again) for s in printed
    )
    assert again.get("i5") is None


changes = st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["put", "retire", "purge", "build", "fold"])))


@examples(40)
@given(changes=changes)
def test_any_history_survives_a_restart(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, str]]
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    shop = catalogue()
    for version, (number, change) in enumerate(changes, 1):
        if change == "purge":
            shop.purge(f"i{number}")
        elif change == "build":
            if shop.index.live:
                build(shop)
        elif change == "fold":
            shop.index.fold()
        else:
            shop.apply(item(number, version, seed=version, retired=change == "retire"))
    same(shop, restored(snapshots.write(folder, shop, taken())))
    shutil.rmtree(folder)


def test_history_vectors_survive_a_restart_those_of_retired_items_too(tmp_path: Path) -> None:
    shop = shop_of(37)
    shop.purge("i7")
    again = restored(snapshots.write(tmp_path, shop, taken()))
    assert histories(again) == histories(shop)
    assert histories(again)["i1"] == unit(1).astype(np.float16).tolist(), "it is retired"
    assert "i7" not in histories(again)
    for kept in (shop, again):
        kept.apply(item(100))
        kept.apply(item(3, 9, seed=500))
    assert histories(again) == histories(shop)
    assert len(again.histories.used()) == len(shop.histories.used()) == 40, "the purged item's row is used again"


def test_a_snapshot_without_history_vectors_is_used_and_the_log_read_for_them(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / GOLDEN.name)
    (tmp_path / GOLDEN.name).rename(tmp_path / f"snapshot-{NOW:015d}")
    vectors = [item(number) for number in range(1, 40)] + [item(1, 2, retired=True), item(37, 2, seed=999)]
    log = [record(offset, vector) for offset, vector in enumerate(vectors)]
    now = replace(LOG, topics={TOPIC: TopicExtent("topic-a", {0: 0, 1: 0}, {0: 1_000, 1: 1_000})})
    running = Running(tmp_path, lambda: now, log)
    assert asyncio.run(running.until(lambda: running.items.caught_up, clean=False))
    same(shop_of(37), running.shop)
    known = histories(running.shop)
    assert known.keys() == {f"i{number}" for number in range(1, 40)}
    assert known["i1"] == unit(1).astype(np.float16).tolist()
    assert known["i37"] == unit(999).astype(np.float16).tolist()


def test_an_empty_catalogue_can_be_kept(tmp_path: Path) -> None:
    again = restored(snapshots.write(tmp_path, catalogue(), taken()))
    assert len(again) == 0
    assert again.apply(item(1))
    assert answers(again)[0][0][0].startswith(b',{"item_id":"i1"')


def test_every_flipped_bit_and_every_cut_is_refused(tmp_path: Path) -> None:
    good = snapshots.write(tmp_path / "good", shop_of(37), taken())
    random.seed(5)
    for damage in range(200):
        bad = tmp_path / f"bad-{damage}"
        shutil.copytree(good, bad)
        files = sorted(bad.iterdir())
        file = random.choices(files, [path.stat().st_size for path in files])[0]
        content = bytearray(file.read_bytes())
        place = random.randrange(len(content))
        if damage % 2:
            content[place] ^= 1 << random.randrange(8)
        else:
            del content[place:]
        file.write_bytes(content)
        with pytest.raises(SnapshotRefused) as refused:
            snapshots.read(bad)
        assert refused.value.reason == "damaged"
    for file in sorted(good.iterdir()):
        bad = tmp_path / f"without-{file.name}"
        shutil.copytree(good, bad)
        (bad / file.name).unlink()
        with pytest.raises(SnapshotRefused):
            snapshots.read(bad)


def test_a_damaged_snapshot_is_passed_over_for_the_older_one(tmp_path: Path) -> None:
    older = snapshots.write(tmp_path, shop_of(37), taken())
    bad = snapshots.write(tmp_path, shop_of(38), taken())
    (bad / "graph").write_bytes(b"\0" + (bad / "graph").read_bytes()[1:-1] + b"\xff")
    assert [snapshot.folder for snapshot in newest(tmp_path)] == [older]


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    folder = snapshots.write(tmp_path, shop_of(25), taken())
    manifest = folder / "manifest.json"
    text = manifest.read_bytes().partition(b"\n")[2].replace(b'"format": 2', b'"format": 3')
    manifest.write_bytes(xxhash.xxh3_128_hexdigest(text).encode() + b"\n" + text)
    with pytest.raises(SnapshotRefused, match="format 3; this build reads 1 and 2"):
        snapshots.read(folder)


def extent(topic_id: str = "topic-a", first: int = 0, end: int = 1_000) -> Extent:
    return Extent("cluster-a", {TOPIC: TopicExtent(topic_id, {0: first, 1: 0}, {0: end, 1: end})})


@pytest.mark.parametrize(
    ("space", "log", "now_ms", "words"),
    [
        (Space(3, 8), LOG, NOW, "number=2, dimension=8.; this process serves Space.number=3"),
        (Space(2, 16), LOG, NOW, "dimension=16"),
        (SPACE, replace(LOG, cluster="cluster-b"), NOW, "cluster 'cluster-a'; this one is 'cluster-b'"),
        (SPACE, extent("topic-b"), NOW, "recreated: its id was topic-a, it is topic-b"),
        (SPACE, extent(first=41), NOW, "item-vectors.2/0 holds 41 to 1000; the snapshot ends at 40"),
        (SPACE, extent(end=39), NOW, "item-vectors.2/0 holds 0 to 39; the snapshot ends at 40"),
        (SPACE, LOG, NOW + 7 * 24 * 3_600_000, "168 h old; deletes may have left the log after 144 h"),
    ],
)
def test_a_snapshot_of_another_space_log_or_age_is_refused_with_the_reason(
    space: Space, log: Extent, now_ms: int, words: str
) -> None:
    snapshots.check(taken(), SPACE, LOG, NOW)
    with pytest.raises(SnapshotRefused, match=words):
        snapshots.check(taken(), space, log, now_ms)


def test_snapshots_grow_too_old_before_tombstones_leave_the_log() -> None:
    topics = {topic.name: topic for topic in all_topics(SPACE)}
    for name in (TOPIC, "item-popularity"):
        assert int(topics[name].config["delete.retention.ms"]) > snapshots.MAX_AGE_MS


def test_two_are_kept_and_a_write_that_was_cut_off_changes_nothing(tmp_path: Path) -> None:
    written = [snapshots.write(tmp_path, shop_of(25), taken()) for _ in range(4)]
    assert snapshots.kept(tmp_path) == [written[3], written[2]]
    shutil.copytree(written[3], tmp_path / ".writing-died")
    (tmp_path / ".writing-died" / "manifest.json").unlink()
    assert [snapshot.folder for snapshot in newest(tmp_path)] == [written[3], written[2]]
    snapshots.tidy(tmp_path, (tmp_path / ".writing-died").stat().st_mtime + 4_000)
    assert sorted(tmp_path.iterdir()) == sorted(written[2:])


def test_a_writer_that_is_killed_leaves_the_older_one(tmp_path: Path) -> None:
    older = snapshots.write(tmp_path, shop_of(25), taken())

    class Dies(Catalogue):
        def records(self):  # type: ignore[no-untyped-def]
            os.kill(os.getpid(), 9)

    dying = Dies(8, LiveIndex(8, lambda capacity: HnswGraph(8, capacity)))
    with pytest.raises(Unavailable, match="status -9"):
        asyncio.run(in_fork(lambda: snapshots.write(tmp_path, dying, taken())))
    assert [snapshot.folder for snapshot in newest(tmp_path)] == [older]


def test_a_fork_says_what_went_wrong_and_one_that_hangs_is_ended() -> None:
    with pytest.raises(Unavailable, match="ZeroDivisionError"):
        asyncio.run(in_fork(lambda: 1 / 0))
    with pytest.raises(Unavailable, match="status -9"):
        asyncio.run(in_fork(lambda: [None for _ in iter(int, 1)], deadline_s=0.1))


def test_the_golden_snapshot_loads() -> None:
    again = restored(GOLDEN)
    assert (len(again), again.index.removed_rows, again.index.has_graph) == (39, 1, True)
    same(shop_of(37), again)
    assert snapshots.read(GOLDEN).taken.next_offsets == {TOPIC: {0: 40, 1: 7}}


def described_shop() -> Catalogue:
    """A shop whose items have attributes, and whose graph was measured."""
    shop = shop_of(37)
    shop.index.widths = Widths(96, 112)
    for number in range(10, 20):
        attributes = {"colour": "red" if number % 2 else "blue", "pieces": number, "on sale": number < 15}
        known = item(number)
        shop.apply(replace(known, version=2, shown=replace(known.shown, attributes=attributes)))
    return shop


def test_the_golden_snapshot_with_attributes_and_widths_loads() -> None:
    again = restored(GOLDEN_DESCRIBED)
    same(described_shop(), again)
    assert again.index.widths == Widths(96, 112)
    red = asyncio.run(
        again.nearest(unit(1), 10, NOTHING, parse('attributes.colour = "red" and attributes.pieces > 12'))
    )
    assert sorted(red.item_ids) == ["i13", "i15", "i17", "i19"]


def changed_shop() -> Catalogue:
    """A shop in which vectors were replaced after its graph was built."""
    shop = described_shop()
    for number in range(20, 30):
        shop.apply(item(number, 2, seed=500 + number))
    return shop


def test_the_golden_snapshot_whose_slots_were_used_again_loads() -> None:
    again = restored(GOLDEN.with_name("index_snapshot.v2"))
    same(changed_shop(), again)
    assert (again.index.removed_rows, again.index.slots) == (11, 40)


def test_all_that_an_item_shows_is_in_its_snapshot() -> None:
    shown = ItemFields("T", "c", "en", 1.0, "b", 5)
    assert shown_fields(render("i", shown)).keys() | {"available"} == {field.name for field in fields(ItemFields)}
    assert ItemFields(**shown_fields(render("i", shown))) == shown  # type: ignore[arg-type]


class Running:
    """A shop with its follower and its keeper, as the service puts them together."""

    def __init__(self, folder: Path, log: Callable[[], Extent] = lambda: LOG, *polls: list[Record]) -> None:
        self.shop = catalogue()
        self.table = FakeTable(*polls)
        self.items = Follower(TOPIC, lambda: self.table, item_records(self.shop, SPACE))
        self.upkeep = IndexMaintenance(self.shop.index, lambda: self.items.caught_up)

        async def extent() -> Extent:
            return log()

        self.keeper = SnapshotSchedule(
            folder, SPACE, self.shop, (self.items,), extent, load, lambda: self.upkeep.builds
        )

    async def until(self, condition: Callable[[], bool], *, clean: bool = True) -> bool:
        """Resume, follow until *condition*, and end; the last snapshot is written only if *clean*."""
        resumed = await self.keeper.resume()
        parts = [asyncio.ensure_future(self.items.run())]
        if clean:
            parts.append(asyncio.ensure_future(self.keeper.run(look_s=0.001)))
        async with asyncio.timeout(20):
            while not (self.items.caught_up and condition()):
                await asyncio.sleep(0.001)
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        return resumed


def test_a_restart_reads_on_where_the_snapshot_ends_and_nothing_comes_back(tmp_path: Path) -> None:
    first = [record(n, item(n)) for n in range(30)] + [record(30, item(3, 2, retired=True))]
    running = Running(tmp_path, lambda: LOG, first)
    assert not asyncio.run(running.until(lambda: True))
    assert len(snapshots.kept(tmp_path)) == 1
    later = [*first, record(31, item(4, 2, retired=True)), record(32, item(99)), record(33, item(3))]
    again = Running(tmp_path, lambda: LOG, later)
    assert asyncio.run(again.until(lambda: True, clean=False))
    assert again.items.positions() == {0: 34}
    assert len(again.shop) == 29
    assert again.shop.get("i3") is None
    assert again.shop.get("i4") is None
    assert again.shop.get("i99") is not None


def test_an_unchanged_shop_is_not_kept_again(tmp_path: Path) -> None:
    records = [record(n, item(n)) for n in range(5)]
    asyncio.run(Running(tmp_path, lambda: LOG, records).until(lambda: True))
    kept = snapshots.kept(tmp_path)
    asyncio.run(Running(tmp_path, lambda: LOG, records).until(lambda: True))
    assert snapshots.kept(tmp_path) == kept


def test_a_snapshot_that_cannot_be_restored_leaves_an_empty_shop(tmp_path: Path) -> None:
    folder = snapshots.write(tmp_path, shop_of(25), taken(taken_ms=4_000_000_000_000))
    items = folder / "items"
    content = orjson.dumps([["i1", 1, 10**6, {"title": "T"}]])
    items.write_bytes(content)
    text = orjson.loads((folder / "manifest.json").read_bytes().partition(b"\n")[2])
    text["parts"]["items"] = {"size": len(content), "xxh3": xxhash.xxh3_128_hexdigest(content)}
    raw = orjson.dumps(text)
    (folder / "manifest.json").write_bytes(xxhash.xxh3_128_hexdigest(raw).encode() + b"\n" + raw)
    running = Running(tmp_path)
    assert not asyncio.run(running.keeper.resume())
    assert (len(running.shop), running.shop.index.slots, list(running.shop.newest())) == (0, 0, [])
    assert running.shop.apply(item(1))
