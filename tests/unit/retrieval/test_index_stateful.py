"""Whatever happens to the catalogue, in whatever order, it answers as a dict with exact search would.

Items come, change, are retired, hidden and purged; rows are folded, graphs built and adopted; snapshots are written and
damaged; the log is compacted; the process dies and comes back. With the real graph, and files really written.
"""

import asyncio
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from nearline.adapters.hnsw import HnswGraph
from nearline.followers import Follower
from nearline.item_vectors import ItemFields, ItemVector, encode_item_vector
from nearline.log import Extent, Record, TopicExtent
from nearline.space import Space
from services.retrieval.in_process import snapshots
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.graphs import Build, SavedGraph
from services.retrieval.in_process.index import IndexLimits, LiveIndex
from services.retrieval.in_process.records import item_records
from services.retrieval.in_process.snapshots import Taken
from tests.support.fakes import FakeTable
from tests.support.properties import examples

DIMENSION = 8
SPACE = Space(3, DIMENSION)
TOPIC = "item-vectors.3"
NOW_MS = 1_800_000_000_000
RECALL = 0.95
NOTHING = np.empty(0, np.uint64)
LIMITS = IndexLimits(exact_below=15, fold_above=4, bulk=12, removed_share=0.25, headroom=4)

item_ids = st.integers(0, 40).map("i{}".format)
seeds = st.integers(0, 10_000)


def unit(seed: int) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


def load(path: Path, saved: SavedGraph) -> HnswGraph:
    return HnswGraph.load(path, DIMENSION, saved.capacity, count=saved.count, removed=saved.removed)


class Shop(RuleBasedStateMachine):
    """The catalogue and a dict of its available items."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="nearline-stateful-"))
        self.log: list[Record] = []
        self.offset = 0
        self.on_show: dict[str, NDArray[np.float32]] = {}
        self.hits = self.asked = 0
        self.build: Build | None = None
        self.start()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)
        assert self.hits >= RECALL * self.asked

    def start(self) -> None:
        """A new process: the newest snapshot that is whole, then what the log holds beyond it."""
        index = LiveIndex(DIMENSION, lambda capacity: HnswGraph(DIMENSION, capacity), LIMITS)
        self.shop = Catalogue(DIMENSION, index)
        self.follower = Follower(TOPIC, FakeTable, item_records(self.shop, SPACE))
        self.build = None
        for snapshot in snapshots.newest(self.folder, SPACE, self.extent(), NOW_MS):
            snapshots.restore(snapshot, self.shop, load)
            self.follower.start_at(dict(snapshot.taken.next_offsets[TOPIC]))
            break
        self.follow(self.log)

    def extent(self) -> Extent:
        return Extent("cluster", {TOPIC: TopicExtent("topic", {0: 0}, {0: self.offset})})

    def follow(self, records: list[Record]) -> None:
        asyncio.run(self.follower.apply_all(records))

    def append(self, item_id: str, value: bytes | None) -> None:
        self.log.append(Record(TOPIC, 0, self.offset, NOW_MS, item_id.encode(), value))
        self.offset += 1
        self.follow(self.log[-1:])

    def publish(self, item_id: str, seed: int, *, available: bool = True, retired_ms: int | None = None) -> None:
        vector = unit(seed)
        candidate = vector if retired_ms is None else None
        shown = ItemFields(f"Title {seed}", "c", available=available)
        item = ItemVector(item_id, self.offset, shown, candidate, vector.astype(np.float16), "d", retired_ms)
        self.append(item_id, encode_item_vector(item, SPACE))

    @initialize(rows=st.integers(0, 60))
    def open_with(self, rows: int) -> None:
        for number in range(rows):
            self.put(f"i{number % 41}", number)

    @rule(item_id=item_ids, seed=seeds)
    def put(self, item_id: str, seed: int) -> None:
        self.publish(item_id, seed)
        self.on_show[item_id] = unit(seed)

    @rule(item_id=item_ids, seed=seeds, times=st.integers(2, 30))
    def put_at_full_speed(self, item_id: str, seed: int, times: int) -> None:
        for time in range(times):
            self.put(item_id, seed + time)

    @rule(item_id=item_ids)
    def retire(self, item_id: str) -> None:
        self.publish(item_id, 0, retired_ms=5)
        self.on_show.pop(item_id, None)

    @rule(item_id=item_ids)
    def hide(self, item_id: str) -> None:
        self.publish(item_id, 0, available=False)
        self.on_show.pop(item_id, None)

    @rule(item_id=item_ids)
    def purge(self, item_id: str) -> None:
        self.append(item_id, None)
        self.on_show.pop(item_id, None)

    @rule(seed=seeds, items=st.sampled_from([1, 2, 3, 40]), times=st.integers(5, 30))
    def change_and_fold(self, seed: int, items: int, times: int) -> None:
        for number in range(times):
            self.put(f"i{number % items}", seed + number)
            self.shop.index.fold()

    @rule()
    def fold(self) -> None:
        for _ in range(5):
            self.shop.index.fold()

    @precondition(lambda self: self.build is None and self.shop.index.live)
    @rule()
    def start_build(self) -> None:
        self.build = self.shop.index.start_build()

    @precondition(lambda self: self.build is not None)
    @rule(extended=st.booleans())
    def finish_build(self, extended: bool) -> None:
        build, self.build = self.build, None
        assert build is not None
        assert build.run(lambda: False)
        if extended and self.shop.index.extend(build):
            assert build.run(lambda: False)
        self.shop.index.adopt(build)

    @precondition(lambda self: self.build is None and self.shop.index.live)
    @rule(seed=seeds, items=st.sampled_from([1, 2, 3, 40]))
    def build_while_items_change(self, seed: int, items: int) -> None:
        self.change_and_fold(seed, items, 6)
        self.start_build()
        self.change_and_fold(seed + 6, items, 30)
        self.finish_build(seed % 2 == 0)

    @precondition(lambda self: self.build is not None)
    @rule()
    def call_off_build(self) -> None:
        assert self.build is not None
        self.shop.index.drop(self.build)
        self.build = None

    @rule()
    def snapshot(self) -> None:
        positions = {TOPIC: self.follower.positions()}
        snapshots.write(self.folder, self.shop, Taken(NOW_MS, SPACE, self.extent(), positions))

    @precondition(lambda self: bool(snapshots.kept(self.folder)))
    @rule(seed=seeds)
    def damage_the_newest_snapshot(self, seed: int) -> None:
        files = [path for path in sorted(snapshots.kept(self.folder)[0].iterdir()) if path.stat().st_size]
        path = random.Random(seed).choice(files)
        content = bytearray(path.read_bytes())
        content[seed % len(content)] ^= 1 << seed % 8
        path.write_bytes(content)

    @rule()
    def compact(self) -> None:
        """The log forgets every record that a newer one of its key follows."""
        newest = {record.key: record for record in self.log}
        self.log = sorted(newest.values(), key=lambda record: record.offset)

    @rule()
    def crash_and_restart(self) -> None:
        self.start()

    @rule(item_id=item_ids)
    def replay_an_old_record(self, item_id: str) -> None:
        """A reader that begins anew gives records again; they change nothing."""
        self.follow([record for record in self.log if record.key == item_id.encode()])

    @invariant()
    def it_answers_as_the_dict_does(self) -> None:
        query = unit(len(self.log) + 77)
        found = asyncio.run(self.shop.nearest(query, 10, NOTHING, None))
        scores = {item_id: float(vector @ query) for item_id, vector in self.on_show.items()}
        best = sorted(scores.values(), reverse=True)[:10]
        assert len(self.shop) == len(self.on_show)
        assert len(set(found.item_ids)) == len(found.item_ids) == len(best)
        assert set(found.item_ids) <= scores.keys(), "what was deleted never returns"
        np.testing.assert_allclose(found.scores, [scores[item_id] for item_id in found.item_ids], atol=1e-5)
        self.asked += len(best)
        self.hits += sum(score >= best[-1] - 1e-5 for score in found.scores.tolist())


TestShop = Shop.TestCase
TestShop.settings = examples(30, stateful_step_count=60, suppress_health_check=[HealthCheck.too_slow])
