"""Calculates the needs of an index of any size from measurements with 100,000 items; nothing is run.

    python -m benchmarks.scaling [--mib 110 --build-s 30 --searches-per-s 5000]

Figures that are not given are read from build/bench-index.json (make bench-index). docs/scaling.md explains the columns
and the formulas.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.layout import BUILD

MEASURED_ITEMS = 100_000
SIZES = (100_000, 1_000_000, 10_000_000, 100_000_000, 1_500_000_000)
_MIB, _GIB = 1024**2, 1024**3


@dataclass(frozen=True, slots=True)
class MeasuredProcess:
    """One process with 100,000 items on this machine, at *dimension*."""

    mib: float  # memory of all items
    build_s: float  # the graph, on *cores* cores
    searches_per_s: float  # on one core, k = 50
    dimension: int = 128
    cores: int = 2


@dataclass(frozen=True, slots=True)
class Nodes:
    """What an engine runs on."""

    memory_gib: float = 64.0
    filled: float = 0.6  # the rest is for what grows, compaction and the caches
    cores: int = 16


@dataclass(frozen=True, slots=True)
class Needs:
    """What an index of *items* needs."""

    items: int
    process_gib: float
    build_s: float
    log_gib: float
    engine_gib: float
    shards: int
    searches_of_a_copy: float


def engine_bytes(dimension: int, *, links: int = 16, printed: int = 300, facts: int = 16, value: int = 4) -> int:
    """Memory of one item in a query node: vector, graph, what filters look at, and what answers print.

    A graph of M links has 2M on its ground floor, 4 bytes each, and a fifteenth of the items on the floors above. A
    *value* of the vector has 4 bytes, or 1 when it is quantised.
    """
    graph = 4 * (2 * links + 1) + 4 * (links + 1) // (links - 1)
    columns = 20 + 8 + 8 + 8 + 8 + 8 * facts + 32  # id, hash, version, price, listed_ms, facts, numbers
    return value * dimension + graph + columns + printed


def record_bytes(dimension: int, *, shown: int = 300) -> int:
    """One record of ``item-vectors``: head, what is shown, FP32 and FP16 vector, and Kafka's own."""
    return 36 + shown + 6 * dimension + 30


def needs(items: int, measured: MeasuredProcess, nodes: Nodes) -> Needs:
    """Memory grows with the items; time to build and to search also with the logarithm of the items in a graph."""
    slower = math.log(items) / math.log(MEASURED_ITEMS)
    engine = items * engine_bytes(measured.dimension)
    shards = max(1, math.ceil(engine / (nodes.memory_gib * nodes.filled * _GIB)))
    in_a_shard = max(MEASURED_ITEMS, items / shards)
    slower_there = math.log(in_a_shard) / math.log(MEASURED_ITEMS)
    # Every shard is searched for every query, so a copy of all shards answers as many queries as one.
    return Needs(
        items,
        items / MEASURED_ITEMS * measured.mib * _MIB / _GIB,
        items / MEASURED_ITEMS * measured.build_s * slower,
        items * record_bytes(measured.dimension) / _GIB,
        engine / _GIB,
        shards,
        nodes.cores * measured.searches_per_s / slower_there,
    )


def read_measured(found: Mapping[str, Any]) -> MeasuredProcess:
    """What bench-index.json says."""
    return MeasuredProcess(found["mib_per_100k"]["steady"], found["build_s"], found["reads_beside"]["rps"])


def table(rows: Sequence[Needs]) -> str:
    """A Markdown table."""
    lines = [
        "| items | one process: memory | its build on 2 cores | the topic | an engine: memory | query nodes of a copy "
        "| searches/s of a copy |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.items:,} | {row.process_gib:,.1f} GiB | {_time(row.build_s)} | {row.log_gib:,.1f} GiB "
        f"| {row.engine_gib:,.1f} GiB | {row.shards:,} | {_round(row.searches_of_a_copy):,} |"
        for row in rows
    ]
    return "\n".join(lines)


def _time(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} s"


def _round(number: float) -> int:
    """*number* with two significant digits: more would suggest false precision."""
    digits = max(0, len(str(int(number))) - 2)
    return int(round(number, -digits))


def _file(path: Path) -> MeasuredProcess | None:
    return read_measured(json.loads(path.read_text())) if path.exists() else None


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=main.__doc__)
    for name, kind in (("mib", float), ("build-s", float), ("searches-per-s", float), ("dimension", int)):
        parser.add_argument(f"--{name}", type=kind)
    given = parser.parse_args()
    file = BUILD / "bench-index.json"
    base = _file(file)
    values = {name: getattr(given, name) for name in ("mib", "build_s", "searches_per_s", "dimension")}
    known = {name: value for name, value in values.items() if value is not None}
    if base is None and not {"mib", "build_s", "searches_per_s"} <= known.keys():
        parser.error(f"{file.name} is not there: run `make bench-index`, or give --mib, --build-s and --searches-per-s")
    fields = {} if base is None else {name: getattr(base, name) for name in MeasuredProcess.__slots__}
    measured = MeasuredProcess(**{**fields, **known})
    print(f"From {measured}, query nodes {Nodes()}:\n")
    print(table([needs(items, measured, Nodes()) for items in SIZES]))


if __name__ == "__main__":
    main()
