"""Measures the cost of instrumentation: the processor time of a click and of an answer, with and without it.

    .venv/services/bin/python -m benchmarks.instrumentation

A click's cost is our code's: ingest's validation, the job's reducer, user_tower's round with its store and its update.
The log's clients, Flink, HTTP and the model are left out, so the share is higher than in the system. With: events have
their time of production, delays are measured, a hundredth is traced, log lines have their request's ids. Without: none
of it. Both take turns in one process, the one first, then the other.
"""

import argparse
import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray

from benchmarks.exposures import SPACE as ANSWERS_SPACE
from benchmarks.exposures import USERS, K, world
from benchmarks.stage import LoadedSystem
from flink_jobs.last_n.user_reducer import UserReducer
from flink_jobs.last_n.user_state import decode_state
from nearline.adapters.memory import MemoryStore
from nearline.adapters.traces import OtelSpans, to_nowhere
from nearline.events import Event, decode_event
from nearline.features import Features
from nearline.item_table import ItemTable
from nearline.item_vectors import ItemFields, ItemVector
from nearline.log import Record
from nearline.seen import parse_seen_policy
from nearline.space import Space
from nearline.topics import USER_SEQUENCES
from nearline.tracing import ClickTraces
from services.ingest import clicks
from services.retrieval import fast_path
from services.retrieval.api import refuse_what_is_not
from services.retrieval.fast_path import FastPath
from services.retrieval.recommender import Recommender
from services.retrieval.users.reader import UserReader
from services.retrieval.users.trace_ends import TracedClicks
from services.user_tower.freshness import Freshness
from services.user_tower.updates import Updates
from services.user_tower.worker import UserWorker

PAIRS = 20
SHARE = 0.01
_SPACE = Space(1, 64)
_CLICKS, _ROUND, _WINDOW = 3_000, 20, 50  # of a turn, of a poll, of a user
_ITEMS = 5_000
_ANSWERS = 1_000  # of a turn
_DAY_MS = 24 * 3600 * 1000


class _Prepared:
    """A reader of prepared records, and towers that answer at once."""

    def __init__(self) -> None:
        self.polls: list[list[Record]] = []
        self.features = Features()
        self._vector = np.full(64, 0.125, np.float32)

    async def poll(self) -> list[Record]:
        return self.polls.pop(0)

    async def stay(self) -> None:
        """Nothing to stay in."""

    def done(self, records: list[Record]) -> None:
        """Nothing to commit."""

    async def encode_users(self, batch: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        return np.tile(self._vector, (len(batch["vectors"]), 1))


async def _to_nobody(*_: object) -> None:
    """A stand-in for the log."""


@dataclass
class _Way:
    """A click's way through our code, with or without instrumentation."""

    spans: OtelSpans | None
    table: ItemTable

    def __post_init__(self) -> None:
        self.traces = None if self.spans is None else ClickTraces(self.spans, SHARE)
        self.reducer = UserReducer(_WINDOW, 7 * _DAY_MS, 400 * _DAY_MS, parse_seen_policy(""))
        self.states: dict[str, bytes] = {}
        self.seen: dict[str, bytes] = {}
        self.prepared = _Prepared()
        self.updates = Updates(_SPACE, _to_nobody)
        self.sent = 0
        self.worker = UserWorker(
            _SPACE,
            reader=self.prepared,
            table=self.table,
            towers=self.prepared,
            store=MemoryStore(ttl_ms=10**9),
            dead_letters=_to_nobody,
            announce=self.updates.announce,
            policy=parse_seen_policy(""),
            freshness=Freshness(self.spans),
        )

    async def round(self, users: int) -> None:
        """Process one click of each of *users*."""
        records = [self._sequence(self._event(number)) for number in range(users)]
        self.prepared.polls = [[record for record in records if record is not None]]
        await self.worker.step()
        await self.updates.send()

    def _event(self, number: int) -> bytes:
        self.sent += 1
        now_ms = time.time_ns() // 1_000_000
        body: dict[str, object] = {
            "event_id": f"event-{self.sent}",
            "user_id": f"user-{number}",
            "item_id": f"item-{(number * 31 + self.sent) % _ITEMS}",
            "type": "click",
            "context": {"country": "GB"},
        }
        if self.traces is None:
            (verdict,) = clicks.validate([body], now_ms=now_ms)
        else:
            started_ns, traces = time.time_ns(), self.traces
            (verdict,) = clicks.validate(
                [body], now_ms=now_ms, begin=lambda one, told: traces.begin(one, told, started_ns)
            )
        assert isinstance(verdict, clicks.AcceptedEvent)
        if verdict.span is not None:
            verdict.span.end(time.time_ns(), event_id=verdict.event_id)
        return verdict.value

    def _sequence(self, value: bytes) -> Record | None:
        now_ms = time.time_ns() // 1_000_000
        event: Event = decode_event(value, append_ms=now_ms)
        if self.spans is None:
            event = replace(event, produced_ms=None)
        user = event.user_id
        state = decode_state(self.states.get(user))
        outcome = self.reducer.apply(state, event, lambda: self.seen.get(user), append_ms=now_ms)
        if outcome.state is not None:
            self.states[user] = outcome.state
        if outcome.seen is not None:
            self.seen[user] = outcome.seen
        if outcome.sequence is None:
            return None
        return Record(USER_SEQUENCES, 0, 0, now_ms, user.encode(), outcome.sequence)


def _table() -> ItemTable:
    table, rng = ItemTable(_SPACE), np.random.default_rng(1)
    for number in range(_ITEMS):
        vector = rng.normal(size=64).astype(np.float16)
        table.put(ItemVector(f"item-{number}", 1, ItemFields("x"), None, vector, "d"))
    return table


async def _click_pairs(spans: OtelSpans, pairs: int) -> dict[str, float]:
    table = _table()
    told, silent = _Way(spans, table), _Way(None, table)

    async def turn(way: _Way) -> None:
        for _ in range(_CLICKS // _ROUND):
            await way.round(_ROUND)

    return await _in_pairs(lambda: turn(told), lambda: turn(silent), pairs, _CLICKS)


async def _answer_pairs(spans: OtelSpans, pairs: int) -> dict[str, float]:
    catalogue, guard = await world()
    traced = TracedClicks(spans)
    users = UserReader(guard, ANSWERS_SPACE, traced=traced)
    told = FastPath(_nothing, Recommender(catalogue, users, ANSWERS_SPACE, traced=traced), refuse_what_is_not)
    answers = Recommender(catalogue, UserReader(guard, ANSWERS_SPACE), ANSWERS_SPACE)
    silent = FastPath(_nothing, answers, refuse_what_is_not)
    names = vars(fast_path)
    in_request = names["in_request"]

    async def turn(app: FastPath, notes: Callable[..., None]) -> None:
        names["in_request"] = notes
        for number in range(_ANSWERS):
            await app(_request(number), _to_nobody, _to_nobody)  # type: ignore[arg-type]
        names["in_request"] = in_request

    return await _in_pairs(lambda: turn(told, in_request), lambda: turn(silent, lambda request: None), pairs, _ANSWERS)


def _request(number: int) -> dict[str, Any]:
    path = f"/recommend/user-{number % USERS}"
    return {"type": "http", "method": "GET", "path": path, "query_string": b"k=%d" % K, "headers": [(b"host", b"x")]}


async def _nothing(*_: object) -> None:
    raise AssertionError("the fast path passed a request on")


async def _in_pairs(
    told: Callable[[], Awaitable[None]], silent: Callable[[], Awaitable[None]], pairs: int, count: int
) -> dict[str, float]:
    """Processor microseconds of each of *count*, with and without, and by which share the one is above the other."""
    await silent()
    await told()
    gc.collect()
    gc.freeze()  # otherwise a collection for both would be charged to one of them
    taken: list[tuple[float, float]] = []
    for number in range(pairs):
        if number % 2:
            after = await _cpu_us(told, count)
            taken.append((await _cpu_us(silent, count), after))
        else:
            before = await _cpu_us(silent, count)
            taken.append((before, await _cpu_us(told, count)))
    shares = [after / before - 1 for before, after in taken]
    return {
        "without_us": round(statistics.median(before for before, _ in taken), 2),
        "with_us": round(statistics.median(after for _, after in taken), 2),
        "share": round(statistics.median(shares), 4),
        "share_least": round(min(shares), 4),
        "share_most": round(max(shares), 4),
        "pairs": pairs,
    }


async def _cpu_us(turn: Callable[[], Awaitable[None]], count: int) -> float:
    started = time.process_time()
    await turn()
    return (time.process_time() - started) / count * 1e6


async def costs(pairs: int) -> dict[str, Any]:
    """``{"click": …, "answer": …}``."""
    spans = to_nowhere("benchmark")
    try:
        return {"click": await _click_pairs(spans, pairs), "answer": await _answer_pairs(spans, pairs)}
    finally:
        await spans.close()


def measure(stage: LoadedSystem) -> dict[str, Any]:
    """``{"instrumentation": {"click": …, "answer": …}}``: needs nothing of the system, which rests meanwhile."""
    stage.say(f"what measuring costs: {stage.scale.pairs} pairs")
    return {"instrumentation": asyncio.run(costs(stage.scale.pairs))}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    pairs = parser.parse_args().pairs
    with suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for what, found in runner.run(costs(pairs)).items():
            print(
                f"{what:<8} {found['without_us']:8.1f} us without, {found['with_us']:8.1f} us with: "
                f"{found['share']:+.1%} ({found['share_least']:+.1%} to {found['share_most']:+.1%}, {pairs} pairs)"
            )


if __name__ == "__main__":
    main()
