"""Writes of user documents, in any order: replicas that are slow and overlap, and a store that was lost.

The workers are real, and so is LMDB. What they are given is scripted, and who of them goes on is drawn by Hypothesis:
each read and each write of the store waits at a turnstile.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from flink_jobs.last_n.user_reducer import UserReducer
from flink_jobs.last_n.user_state import decode_state
from nearline.adapters.lmdb import LmdbStore
from nearline.adapters.memory import MemoryStore
from nearline.events import Event
from nearline.hashing import hash64
from nearline.item_table import ItemTable
from nearline.item_vectors import ItemFields, ItemVector
from nearline.log import Record
from nearline.seen import FOREVER_S, SeenSnapshot, encode_seen, parse_seen_policy
from nearline.sequences import UserSequence, encode_sequence, erased_sequence
from nearline.space import Space
from nearline.store import JUST_NOW, UserStore
from nearline.user_commands import Entry, Erase, Remove
from nearline.user_documents import UserDocument, decode_stored_user
from services.user_tower.worker import UserWorker
from tests.support.fakes import Outbox, ScriptedReader, ScriptedTowers
from tests.support.properties import examples

SPACE = Space(1, 64)
NOW_MS = 1_732_100_000_000
FOR_EVER_MS = 10**13  # the versions here are small numbers, and not the times that the time to live counts from
DAY_MS = 24 * 3600 * 1000
WINDOW = 4
# The fixture is a folder; each example is a user of its own in it.
SLOW_WRITERS = examples(300, suppress_health_check=[HealthCheck.function_scoped_fixture])
USERS = count()
STEPS = st.lists(st.sampled_from(["event", "event", "erase", "snapshot", "remove"]), min_size=1, max_size=9)


def known_items() -> ItemTable:
    table = ItemTable(SPACE)
    for number in range(200):
        vector = np.random.default_rng(number).normal(size=64).astype(np.float16)
        table.put(ItemVector(f"i{number}", 1, ItemFields(f"i{number}"), None, vector, "d"))
    return table


TABLE = known_items()


class Job:
    """What the job makes of one user's events, in short: a window of the newest, and snapshots of all items.

    It sends a snapshot with each removal and erasure, when told to, and after every second new event.
    """

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.version = 0
        self.items: list[str] = []
        self.records: list[Record] = []
        self.unsaid = 0

    def step(self, kind: str) -> None:
        self.version += 1
        if kind == "event":
            self.items.append(f"i{self.version}")
            self.unsaid += 1
        elif kind == "erase" or (kind == "remove" and len(self.items) <= 1):
            self.items = []
            self._append("user-sequences", encode_sequence(erased_sequence(self.user_id, self.version)))
        elif kind == "remove":
            self.items.pop()
        if self.items and kind != "snapshot":
            self._append("user-sequences", encode_sequence(self._sequence()))
        if kind != "event" or self.unsaid >= WINDOW // 2:
            self._append("user-seen", encode_seen(self._snapshot()))

    def _sequence(self) -> UserSequence:
        items = self.items[-WINDOW:]
        times = [NOW_MS + int(item[1:]) for item in items]
        n = len(items)
        return UserSequence(self.user_id, self.version, items, times, ["view"] * n, [1.0] * n, list(items))

    def _snapshot(self) -> SeenSnapshot:
        self.unsaid = 0
        n = len(self.items)
        hashes = np.array(sorted(hash64(item) for item in self.items), np.uint64)
        return SeenSnapshot(self.version, hashes, np.full(n, FOREVER_S, np.uint32), np.zeros(n, np.bool_))

    def _append(self, topic: str, value: bytes) -> None:
        self.records.append(Record(topic, 0, len(self.records), NOW_MS, self.user_id.encode(), value))


def log_of(kinds: Sequence[str]) -> Job:
    job = Job(f"u{next(USERS)}")
    for kind in kinds:
        job.step(kind)
    return job


def worker_on(store: UserStore, polls: list[list[Record]], policy: str = "") -> UserWorker:
    return UserWorker(
        SPACE,
        reader=ScriptedReader(*polls),
        table=TABLE,
        towers=ScriptedTowers(),
        store=store,
        dead_letters=Outbox(),
        announce=lambda *_: None,
        policy=parse_seen_policy(policy),
        now_ms=lambda: NOW_MS,
        retry_s=0.0,
    )


async def run(store: UserStore, polls: list[list[Record]], policy: str = "") -> None:
    """Deal with all of *polls*; a write that lost too many races is tried again in a further round."""
    worker = worker_on(store, polls, policy)
    for _ in range(5 + len(polls)):
        await worker.step()
    assert worker._waiting == []


async def document(store: UserStore, user_id: str) -> UserDocument:
    """The stored document with all seen items."""
    found = decode_stored_user(await store.get_with_seen(user_id), SPACE)
    assert found is not None
    return found


def facts(found: UserDocument) -> dict[str, object]:
    """All that a document says but for when it was stored, and its user's last erasure: compaction removes that."""
    return {
        "order": found.order,
        "erased": found.erased,
        "newest": (found.newest_event_id, found.as_of_ms),
        "seen": found.seen.tolist(),
        "purchased": found.purchased.tolist(),
        "until_s": None if found.until_s is None else found.until_s.tolist(),
        "events": found.events.tolist(),
        "vector": None if found.vector is None else found.vector.tolist(),
    }


class Turnstile:
    """Lets one of those who wait go on at a time: the one that is drawn."""

    def __init__(self, drawn: Sequence[int]) -> None:
        self._drawn = list(drawn)
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    async def turn(self, who: int) -> None:
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((who, gate))
        await gate

    async def drive(self, works: Sequence[Awaitable[None]]) -> None:
        tasks = [asyncio.ensure_future(work) for work in works]
        while alive := [task for task in tasks if not task.done()]:
            if len(self._waiting) < len(alive):
                await asyncio.sleep(0)
                continue
            drawn = self._drawn.pop(0) if self._drawn else 0
            _, gate = self._waiting.pop(drawn % len(self._waiting))
            gate.set_result(None)
            await asyncio.sleep(0)
        for task in tasks:
            task.result()


class Gated(MemoryStore):
    """A *store* whose reads and writes wait for their turn; *wrote* looks at each write."""

    def __init__(self, store: UserStore, who: int, turnstile: Turnstile, wrote: Callable[[], Awaitable[None]]) -> None:
        super().__init__(ttl_ms=1)
        self._store, self._who, self._turnstile, self._wrote = store, who, turnstile, wrote

    async def get_many(self, user_ids: Sequence[str]) -> list[bytes | None]:
        await self._turnstile.turn(self._who)
        return await self._store.get_many(user_ids)

    async def put_seen_if_newer(self, snapshots: Mapping[str, bytes], since_ms: Mapping[str, int] = JUST_NOW) -> None:
        await self._turnstile.turn(self._who)
        await self._store.put_seen_if_newer(snapshots, since_ms)

    async def put_many_if_newer(self, documents: Mapping[str, bytes], since_ms: Mapping[str, int] = JUST_NOW) -> int:
        await self._turnstile.turn(self._who)
        written = await self._store.put_many_if_newer(documents, since_ms)
        await self._wrote()
        return written


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[LmdbStore]:
    store = LmdbStore(folder, SPACE, ttl_ms=FOR_EVER_MS, writer=True, now_ms=lambda: NOW_MS)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


# An erasure falls between the read and the write of one who writes the click after it.
@example(["event", "erase", "event"], 1, 3, [0, 0, 1, 1, 1, 1, 0, 0])
@SLOW_WRITERS
@given(STEPS, st.integers(0, 20), st.integers(0, 20), st.lists(st.integers(0, 1), max_size=60))
def test_slow_and_overlapping_writers_end_in_one_document_and_what_was_erased_never_returns(
    tmp_path: Path, kinds: list[str], first_ends: int, second_begins: int, drawn: list[int]
) -> None:
    job = log_of(kinds)
    records = [[record] for record in job.records]
    ends = min(first_ends, len(records))
    begins = min(second_begins, ends)

    async def story() -> None:
        async with opened(tmp_path) as store:
            alone = MemoryStore(ttl_ms=FOR_EVER_MS, now_ms=lambda: NOW_MS)
            await run(alone, records)
            await race(store, job, drawn, records[:ends], records[begins:])
            found, expected = await document(store, job.user_id), await document(alone, job.user_id)
            assert facts(found) == facts(expected)
            assert found.erased_version == expected.erased_version

    asyncio.run(story())


async def race(store: UserStore, job: Job, drawn: Sequence[int], *parts: list[list[Record]]) -> None:
    """Workers deal with *parts* at once; no write may bring back what an acknowledged erasure took."""
    turnstile = Turnstile(drawn)
    erased = 0

    async def wrote() -> None:
        nonlocal erased
        found = await document(store, job.user_id)
        erased = max(erased, found.history_version if found.erased else 0)
        gone = {hash64(f"i{version}") for version in range(erased + 1)}
        assert gone.isdisjoint(found.seen.tolist())
        assert gone.isdisjoint(found.events.tolist())
        assert gone.isdisjoint(found.recent.hashes.tolist())
        assert found.vector is None or found.vector_version > erased
        assert found.erased_version >= erased

    await turnstile.drive([run(Gated(store, who, turnstile, wrote), part) for who, part in enumerate(parts)])


@examples(200)
@given(STEPS.filter(lambda kinds: "event" in kinds), st.randoms(use_true_random=False))
def test_after_the_loss_of_the_store_both_topics_give_the_same_seen(kinds: list[str], chance: random.Random) -> None:
    """Compaction left the newest record of each topic, and either may be read first."""
    job = log_of(kinds)

    async def story() -> None:
        first, again = (MemoryStore(ttl_ms=FOR_EVER_MS, now_ms=lambda: NOW_MS) for _ in range(2))
        await run(first, polls_of(late_snapshots(job.records, chance), chance))
        newest = {record.topic: record for record in job.records}
        compacted = list(newest.values())
        chance.shuffle(compacted)
        await run(again, polls_of(compacted, chance))
        expected = sorted(hash64(item) for item in job.items)
        assert (await document(first, job.user_id)).seen.tolist() == expected
        assert facts(await document(again, job.user_id)) == facts(await document(first, job.user_id))

    asyncio.run(story())


@examples(200)
@given(
    st.lists(st.sampled_from(["event"] * 6 + ["remove", "erase"]), min_size=1, max_size=25),
    st.sampled_from(["", "view=1d", "purchase=30d, view=never"]),
    st.randoms(use_true_random=False),
)
def test_the_job_output_rebuilds_the_same_document_after_the_store_is_lost(
    kinds: list[str], policy: str, chance: random.Random
) -> None:
    """The job's own reducer, with events out of order, repeated items, and snapshots that come late."""
    records = told_by_the_job(f"u{next(USERS)}", ["event", *kinds], policy, chance)

    async def story() -> None:
        first, again = (MemoryStore(ttl_ms=FOR_EVER_MS, now_ms=lambda: NOW_MS) for _ in range(2))
        await run(first, polls_of(late_snapshots(records, chance), chance), policy)
        compacted = list({record.topic: record for record in records}.values())
        chance.shuffle(compacted)
        await run(again, polls_of(compacted, chance), policy)
        assert facts(await document(again, records[0].id)) == facts(await document(first, records[0].id))

    asyncio.run(story())


def told_by_the_job(user_id: str, kinds: list[str], policy: str, chance: random.Random) -> list[Record]:
    """What the job appends for a log of *kinds*: its sequences and snapshots of the user, in their order."""
    reducer = UserReducer(WINDOW, 7 * DAY_MS, 400 * DAY_MS, parse_seen_policy(policy))
    state: bytes | None = None
    seen: list[bytes | None] = [None]
    records: list[Record] = []
    for number, kind in enumerate(kinds):
        append_ms = NOW_MS + 10 * number
        outcome = reducer.apply(
            decode_state(state), entry(user_id, kind, number, append_ms, chance), lambda: seen[-1], append_ms=append_ms
        )
        state = state if outcome.state is None else outcome.state
        seen.append(seen[-1] if outcome.seen is None else outcome.seen)
        for topic, value in (("user-sequences", outcome.sequence), ("user-seen", outcome.snapshot)):
            if value is not None:
                records.append(Record(topic, 0, len(records), append_ms, user_id.encode(), value))
    return records


def entry(user_id: str, kind: str, number: int, append_ms: int, chance: random.Random) -> Entry:
    if kind == "erase":
        return Erase(f"c{number}", user_id, append_ms)
    if kind == "remove":
        return Remove(f"c{number}", user_id, f"e{chance.randrange(max(0, number - 4), number + 1)}", append_ms)
    item, type_ = f"i{chance.randrange(12)}", chance.choice(["view", "view", "purchase"])
    return Event(f"e{number}", user_id, item, type_, append_ms - chance.randrange(60))


@examples(200)
@given(st.lists(st.just("event"), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_items_of_a_sequence_stay_seen_however_late_snapshots_come(kinds: list[str], chance: random.Random) -> None:
    job = log_of(kinds)

    async def story() -> None:
        store = MemoryStore(ttl_ms=FOR_EVER_MS, now_ms=lambda: NOW_MS)
        shown: set[int] = set()
        worker = worker_on(store, [[record] for record in late_snapshots(job.records, chance)])
        for record in list(worker._reader.polls):  # type: ignore[attr-defined]
            await worker.step()
            found = await document(store, job.user_id)
            if record[0].topic == "user-sequences":
                shown |= {hash64(f"i{version}") for version in range(1, found.vector_version + 1)}
            assert shown <= set(found.seen.tolist())

    asyncio.run(story())


def late_snapshots(records: Sequence[Record], chance: random.Random) -> list[Record]:
    """The records with each topic in its order, and the topics in none."""
    topics = [[r for r in records if r.topic == topic] for topic in ("user-sequences", "user-seen")]
    mixed: list[Record] = []
    while some := [topic for topic in topics if topic]:
        mixed.append(chance.choice(some).pop(0))
    return mixed


def polls_of(records: Sequence[Record], chance: random.Random) -> list[list[Record]]:
    polls: list[list[Record]] = []
    for record in records:
        if polls and chance.random() < 0.5:
            polls[-1].append(record)
        else:
            polls.append([record])
    return polls


@pytest.mark.anyio
async def test_a_write_that_always_loses_is_given_up_for_a_while() -> None:
    """The worker holds its records and tries again later; it doesn't spin."""

    class AlwaysAhead(MemoryStore):
        puts = 0

        async def put_many_if_newer(
            self, documents: Mapping[str, bytes], since_ms: Mapping[str, int] = JUST_NOW
        ) -> int:
            self.puts += 1
            return 0

    job = log_of(["event"])
    store = AlwaysAhead(ttl_ms=FOR_EVER_MS, now_ms=lambda: NOW_MS)
    worker = worker_on(store, [[record] for record in job.records])
    await worker.step()
    assert store.puts == 10  # of the document and, since that is held, of what was seen
    assert len(worker._waiting) == 1
