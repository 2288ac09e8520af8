"""Generates the click load in its own process: users and items by Zipf's law, seeded, at a given rate or flat out.

    python -m benchmarks.traffic --kafka 127.0.0.1:9092 --rate 500 --seconds 30

It prints `started` with the first click, and one JSON object when the last click is in the log. It runs on the same
cores as the system and is part of every figure: 290 us a click at 500 a second, 95 us at 2,000, 30 us flat out.
"""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from local.layout import ROOT
from nearline.adapters.kafka.producer import Producer
from nearline.errors import Unavailable
from nearline.events import Event, encode_event
from nearline.log import Message
from nearline.topics import CLICKS

_TICK_S = 0.005  # clicks leave in groups of this length: at 500 a second, two or three at a time
_LINGER_MS = 5  # the default of Kafka's own producer since 4.0: fewer requests, for generator and broker alike
_BLOCK = 10_000  # clicks that are drawn at once
_FLAT_OUT = 500  # clicks handed over at once when there is no rate


@dataclass(frozen=True, slots=True)
class Sent:
    """What one process of load came to."""

    clicks: int
    seconds: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """Clicks a second that it really sent."""
        return self.clicks / self.seconds


def zipf(count: int) -> NDArray[np.float64]:
    """The probabilities of Zipf's law with exponent 1 over *count* ranks."""
    weights = 1 / np.arange(1, count + 1)
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities


def user_id(number: int) -> str:
    """The id of the load's user *number*."""
    return f"load-{number:05d}"


def item_id(number: int) -> str:
    """The id of item *number* of ``bench_items``."""
    return f"bench-{number:06d}"


def pairs(users: int, items: int, seed: int, *, in_turn: bool = False) -> Iterator[tuple[str, str]]:
    """(user, item) for ever; both by Zipf's law over a seeded order, or the users *in_turn*."""
    random = np.random.default_rng(seed)
    # Which items are popular must not depend on the seed of this load, or every load would have its own hits.
    popular = np.random.default_rng(0).permutation(items)
    start = 0
    while True:
        rows = (start + np.arange(_BLOCK)) % users if in_turn else random.choice(users, _BLOCK, p=zipf(users))
        columns = popular[random.choice(items, _BLOCK, p=zipf(items))]
        start += _BLOCK
        yield from ((user_id(u), item_id(i)) for u, i in zip(rows.tolist(), columns.tolist(), strict=True))


def clicks(source: Iterator[tuple[str, str]], prefix: str) -> Iterator[Message]:
    """A click of this moment for each pair, with an id that no other load has."""
    for number, (user, item) in enumerate(source):
        now = time.time_ns() // 1_000_000
        yield user.encode(), encode_event(Event(f"{prefix}-{number}", user, item, "click", now))


async def send(kafka: str, messages: Iterator[Message], *, rate: float, seconds: float, count: int) -> Sent:
    """Send at *rate* for *seconds*, or with rate 0 *count* clicks flat out; return once all are in the log."""
    async with Producer(kafka, linger_ms=_LINGER_MS) as producer:
        print("started", flush=True)
        started, cpu = time.perf_counter(), time.process_time()
        sent = 0
        total = int(rate * seconds) if rate else count
        while sent < total:
            due = min(total, int((time.perf_counter() - started) * rate) + 1) if rate else min(total, sent + _FLAT_OUT)
            await producer.send_soon(CLICKS, list(islice(messages, due - sent)))
            sent = due
            if rate:
                await asyncio.sleep(_TICK_S)
        await producer.flush()
        return Sent(sent, time.perf_counter() - started, time.process_time() - cpu)


class Load:
    """A running process of load."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_started(self) -> None:
        """Return with its first click; ``Unavailable`` if it ended before."""
        self._line()

    def finish(self) -> Sent:
        """Return when its last click is in the log."""
        sent = Sent(**json.loads(self._line()))
        self._process.wait()
        return sent

    def stop(self) -> None:
        """End it now, if it has not ended; clicks that it had handed over are in the log."""
        self._process.terminate()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Unavailable(f"the click load ended early, exit status {self._process.wait()}")
        return line


@contextmanager
def load(kafka: str, options: Sequence[str]) -> Iterator[Load]:
    """The click load with command-line *options*, sending when this returns; it is ended on leaving."""
    command = [sys.executable, "-m", "benchmarks.traffic", "--kafka", kafka, *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        running = Load(process)
        try:
            running.wait_started()
            yield running
        finally:
            running.stop()


def at_rate(rate: float, seconds: float, *, users: int, items: int, seed: int) -> list[str]:
    """Options for a steady load by Zipf's law."""
    return [*_who(users, items, seed), "--rate", str(rate), "--seconds", str(seconds)]


def flat_out(count: int, *, users: int, items: int, seed: int, in_turn: bool = False) -> list[str]:
    """Options for *count* clicks as fast as the log takes them."""
    return [*_who(users, items, seed), "--count", str(count), *(["--in-turn"] if in_turn else [])]


def _who(users: int, items: int, seed: int) -> list[str]:
    return ["--users", str(users), "--items", str(items), "--seed", str(seed)]


def main() -> None:
    """Send and report; ended by a signal, it sends what it had handed over and says nothing."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description="Clicks into the log: many users, Zipf's law, seeded.")
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--rate", type=float, default=0, help="clicks a second; 0 is flat out")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--count", type=int, default=0, help="how many clicks, when there is no rate")
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--in-turn", action="store_true", help="every user as often as every other")
    given = parser.parse_args()
    source = pairs(given.users, given.items, given.seed, in_turn=given.in_turn)
    messages = clicks(source, f"load-{time.time_ns() // 1_000_000:x}")
    try:
        sent = asyncio.run(send(given.kafka, messages, rate=given.rate, seconds=given.seconds, count=given.count))
    except KeyboardInterrupt:
        return
    print(json.dumps(asdict(sent)), flush=True)


if __name__ == "__main__":
    main()
