"""``python -m benchmarks.tower_speed``: measures how many users and new items a second the real Triton encodes here.

Runs in the services' environment, on the towers that ``benchmarks.train_speed`` left (`make bench-train` does both).
The client is the services' own and runs on the same cores. Users are asked 64 at a time with the FP16 vectors of full
histories of 50 events, new items 64 at a time; a request is timed from the arrays in memory to the checked vectors,
and for "text in" the hashing of the items' words is part of it. One and two requests are in flight.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.about import about, load_average
from benchmarks.neighbours import watch
from benchmarks.targets import Target
from local.layout import BUILD, ROOT
from local.triton import running_triton
from nearline.adapters.triton import TritonTowers
from nearline.datasets import Prepared, load_online_retail
from nearline.errors import Misconfigured, NearlineError
from nearline.features import DIMENSION, HISTORY_LENGTH, Arrays, Features
from nearline.items import Item
from nearline.sequences import UserSequence
from nearline.signals import Context
from nearline.space import Space

OUT = BUILD / "bench-train"
BATCH = 64
SIZES = ("pooled", "transformer", "causal")
IN_FLIGHT = (1, 2)
_BATCHES = 16  # different ones, sent in turn
_TIMEOUT_MS = 10_000
_COLUMNS = ("item_id", "time_ms", "type", "value", "event_id")
_WIDTH = 140  # where there is no terminal that says how wide it is


@dataclass(frozen=True, slots=True)
class SpeedScale:
    """How thorough; ``quick`` is for trying the benchmark, not for figures."""

    windows: int = 5
    window_s: float = 5.0
    warm_up_s: float = 3.0
    calls: int = 200  # of the micro-benchmark, in each window


QUICK = SpeedScale(windows=3, window_s=0.5, warm_up_s=0.5, calls=10)


def _users_per_s(size: str, in_flight: int, must: float, goal: float) -> Target:
    path = (size, str(in_flight), "per_s", "median")
    return Target(f"{size}, {in_flight} in flight", path, must, goal, "/s", True)


def _items_per_s(what: str, label: str, in_flight: int, must: float | None, goal: float | None) -> Target:
    path = (what, str(in_flight), "per_s", "median")
    return Target(f"new items, {label}, {in_flight} in flight", path, must, goal, "/s", True)


TARGETS = (
    *(_users_per_s("pooled", in_flight, 10_000, 35_000) for in_flight in IN_FLIGHT),
    *(_users_per_s(size, in_flight, 5_000, 14_000) for size in SIZES[1:] for in_flight in IN_FLIGHT),
    *(_items_per_s("items_with_text", "text in", in_flight, 500, 2_000) for in_flight in IN_FLIGHT),
    *(_items_per_s("items", "arrays in", in_flight, None, None) for in_flight in IN_FLIGHT),
)


@dataclass(frozen=True)
class AnsweredWindow:
    """What was answered in one stretch of time."""

    latencies_s: list[float]
    seconds: float


async def keep_asking(ask: Callable[[int], Awaitable[object]], *, in_flight: int, seconds: float) -> AnsweredWindow:
    """Ask for *seconds* with *in_flight* requests at a time; *ask* gets the request's number."""
    numbers, latencies = iter(range(2**62)), list[float]()
    began = time.perf_counter()

    async def one_after_the_other() -> None:
        while time.perf_counter() - began < seconds:
            sent = time.perf_counter()
            await ask(next(numbers))
            latencies.append(time.perf_counter() - sent)

    await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))
    return AnsweredWindow(latencies, time.perf_counter() - began)


def figures(windows: Sequence[AnsweredWindow]) -> dict[str, Any]:
    """Rate with its spread over windows, and the percentiles of all requests."""
    latencies = np.concatenate([window.latencies_s for window in windows]) * 1e3
    p50, p99 = np.percentile(latencies, [50, 99])
    return {
        "per_s": spread([len(window.latencies_s) * BATCH / window.seconds for window in windows]),
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
        "requests": len(latencies),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {name: float(f(values)) for name, f in (("median", statistics.median), ("low", min), ("high", max))}


def measure(ask: Callable[[int], Awaitable[object]], scale: SpeedScale) -> Callable[[], Awaitable[dict[str, Any]]]:
    """A measurement of *ask* with each number of requests in flight."""

    async def measured() -> dict[str, Any]:
        found = {}
        for in_flight in IN_FLIGHT:
            await keep_asking(ask, in_flight=in_flight, seconds=scale.warm_up_s)
            windows = [
                await keep_asking(ask, in_flight=in_flight, seconds=scale.window_s) for _ in range(scale.windows)
            ]
            found[str(in_flight)] = figures(windows)
        return found

    return measured


def full_histories(prepared: Prepared, *, length: int, count: int, seed: int) -> list[UserSequence]:
    """The last *length* events of *count* users who have as many, as the job would keep them."""
    grouped = prepared.events.sort("time_ms", "event_id").group_by("user_id", maintain_order=True)
    kept = grouped.tail(length).group_by("user_id", maintain_order=True).agg(pl.all()).sort("user_id")
    full = kept.filter(pl.col("item_id").list.len() == length)
    return [_sequence(row) for row in full.sample(min(count, full.height), seed=seed).iter_rows(named=True)]


def _sequence(row: Mapping[str, Any]) -> UserSequence:
    contexts: list[Context | None] = [{"country": country} for country in row.get("country", [])]
    items, times_ms, types, values, ids = (row[name] for name in _COLUMNS)
    return UserSequence(row["user_id"], 1, items, times_ms, types, values, ids, contexts)


@dataclass(frozen=True)
class EncodeLoad:
    """What is asked, the same for both sizes."""

    sequences: list[UserSequence]
    items: list[tuple[str, Item]]  # the catalogue
    new_items: list[list[tuple[str, Item]]]  # batches of items that no tower ever trained on

    def user_batches(self, features: Features, matrix: NDArray[np.float16]) -> list[Arrays]:
        """The user tower's inputs, 64 users each."""
        row_of = {item_id: row for row, (item_id, _) in enumerate(self.items)}
        starts = range(0, len(self.sequences) - BATCH + 1, BATCH)
        return [user_batch(features, self.sequences[at : at + BATCH], matrix, row_of) for at in starts]


def user_batch(
    features: Features, sequences: Sequence[UserSequence], matrix: NDArray[np.float16], row_of: Mapping[str, int]
) -> Arrays:
    """The whole way from sequences to the user tower's input, as ``user_tower`` goes it."""
    rows = features.user_rows(sequences, row_of)
    return features.user_batch(matrix, *rows, features.contexts_of(sequences))


def make_load(data: Path, seed: int) -> EncodeLoad:
    """Users and items of Online Retail; the new items have its texts and other ids."""
    prepared = load_online_retail(data)
    items = list(prepared.items.items())
    order = np.random.default_rng(seed).permutation(len(items))
    new = [(f"new-{number}", items[number][1]) for number in order[: _BATCHES * BATCH]]
    return EncodeLoad(
        full_histories(prepared, length=HISTORY_LENGTH, count=_BATCHES * BATCH, seed=seed),
        items,
        [new[at : at + BATCH] for at in range(0, len(new) - BATCH + 1, BATCH)],
    )


async def measure_towers(url: str, load: EncodeLoad, scale: SpeedScale, *, items_too: bool) -> dict[str, Any]:
    """The user tower at *url*, and with *items_too* its item tower and what is computed before a request."""
    towers = TritonTowers(url, Space(1, DIMENSION), timeout_ms=_TIMEOUT_MS)
    await towers.open()
    try:
        features = towers.features
        matrix = await _history_vectors(towers, load.items)
        batches = load.user_batches(features, matrix)
        found = {"users": await measure(lambda n: towers.encode_users(batches[n % len(batches)]), scale)()}
        if items_too:
            found |= await _measure_items(towers, load, scale)
            found["before_a_request"] = time_preparation(features, load, matrix, scale)
        return found
    finally:
        await towers.close()


async def _measure_items(towers: TritonTowers, load: EncodeLoad, scale: SpeedScale) -> dict[str, Any]:
    features, new = towers.features, load.new_items
    inputs = [features.item_inputs(batch) for batch in new]

    def with_text(number: int) -> Awaitable[object]:
        return towers.encode_items(features.item_inputs(new[number % len(new)]))

    return {
        "items": await measure(lambda n: towers.encode_items(inputs[n % len(inputs)]), scale)(),
        "items_with_text": await measure(with_text, scale)(),
    }


async def _history_vectors(towers: TritonTowers, items: list[tuple[str, Item]]) -> NDArray[np.float16]:
    chunks = [items[at : at + BATCH] for at in range(0, len(items), BATCH)]
    vectors = [(await towers.encode_items(towers.features.item_inputs(chunk)))[1] for chunk in chunks]
    return np.concatenate(vectors).astype(np.float16)


def time_preparation(
    features: Features, load: EncodeLoad, matrix: NDArray[np.float16], scale: SpeedScale
) -> dict[str, dict[str, float]]:
    """Milliseconds for 64 users from sequences to the tower's input, and for 64 items from texts, on one core."""
    row_of = {item_id: row for row, (item_id, _) in enumerate(load.items)}
    users = cycle([load.sequences[at : at + BATCH] for at in range(0, len(load.sequences) - BATCH + 1, BATCH)])
    items = cycle(load.new_items)
    return {
        "ms_for_64_users": _timed(lambda: user_batch(features, next(users), matrix, row_of), scale),
        "ms_for_64_items": _timed(lambda: features.item_inputs(next(items)), scale),
    }


def _timed(call: Callable[[], object], scale: SpeedScale) -> dict[str, float]:
    def window() -> float:
        began = time.perf_counter()
        for _ in range(scale.calls):
            call()
        return (time.perf_counter() - began) / scale.calls * 1e3

    window()  # warms up
    return spread([window() for _ in range(scale.windows)])


def run(
    repositories: Mapping[str, Path], load: EncodeLoad, scale: SpeedScale, say: Callable[[str], None]
) -> dict[str, Any]:
    """Every size, one server after the other."""
    results: dict[str, Any] = {"load_average_before": load_average()}
    others = watch()
    for size, repository in repositories.items():
        say(f"{time.strftime('%H:%M:%S')} {size}")
        with running_triton(repository) as server:
            found = asyncio.run(measure_towers(server.url, load, scale, items_too=size == SIZES[0]))
        results[size] = found.pop("users")
        results |= found
    return results | {"others_cores": others(), "load_average_after": load_average()}


def repositories_in(folder: Path) -> dict[str, Path]:
    """The model repository of each size; ``Misconfigured`` if one was not made."""
    found = {size: folder / size for size in SIZES}
    for path in found.values():
        if not (path / "user_tower" / "config.pbtxt").is_file():
            raise Misconfigured(
                f"no towers in {path}: `make bench-train` makes them (python -m benchmarks.train_speed)"
            )
    return found


def table_of(results: Mapping[str, Any]) -> Table:
    """Measured, spread over windows, time of a request, must, goal, and which of the two was met."""
    table = Table(title=f"Towers in Triton, {BATCH} in a request, client on the same cores")
    table.add_column("users or items", no_wrap=True)
    for name in ("median", "lowest to highest", "p50 ms", "p99 ms", "must", "goal"):
        table.add_column(name, justify="right")
    table.add_column("met")
    for target in TARGETS:
        found = results[target.path[0]][target.path[1]]
        rate = found["per_s"]
        row = [f"{rate['median']:,.0f}/s", f"{rate['low']:,.0f} to {rate['high']:,.0f}"]
        row += [f"{found['p50_ms']:.2f}", f"{found['p99_ms']:.2f}"]
        bounds = ["-" if bound is None else f"{bound:,.0f}/s" for bound in (target.must, target.goal)]
        table.add_row(target.figure, *row, *bounds, "" if target.goal is None else target.verdict(results))
    for name, figure in results["before_a_request"].items():
        words = name.replace("_", " ")
        table.add_row(words, f"{figure['median']:.2f} ms", f"{figure['low']:.2f} to {figure['high']:.2f}", *[""] * 5)
    return table


def main() -> None:
    """Measure, write the JSON, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tower_speed", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="short windows: to try it, not for figures")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "online-retail")
    parser.add_argument("--out", type=Path, default=OUT, help="where train_speed left the towers")
    given = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    try:
        repositories = repositories_in(given.out / "towers")
        load = make_load(given.data, given.seed)
        results = run(repositories, load, QUICK if given.quick else SpeedScale(), console.print)
    except NearlineError as problem:
        sys.exit(f"tower_speed: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
    command = " ".join(["python -m benchmarks.tower_speed", *sys.argv[1:]])
    source = about(given.seed, command=command) | {"quick": given.quick}
    path = given.out / "towers.json"
    path.write_text(json.dumps(results | source, indent=2) + "\n")
    console.print(table_of(results))
    console.print(f"others used {results['others_cores']:.2f} cores; everything: {path}")


if __name__ == "__main__":
    main()
