"""``python -m benchmarks.index``: measures the index; prints one table, writes ``build/bench-index.json``.

It measures recall under changes, reads beside them, how soon a vector is searchable in the running system, a filter,
memory, a build and a restart. Each measurement has its own processes, which end with it. Measurements that are not
repeated stay in the file, with the commit and the time of their own run under ``taken``. docs/benchmarks.md explains
each figure.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.about import about, load_average
from benchmarks.index import churn, peers, served
from benchmarks.index.churn import QUICK, ChurnScale
from benchmarks.index.vectors import TowerVectors, source
from benchmarks.neighbours import watch
from benchmarks.results import Found, Kept, measurements_named, table_of
from benchmarks.targets import Target
from local.layout import BUILD
from local.system import interrupt_on_sigterm
from nearline.errors import NearlineError

_WIDTH = 150  # where there is no terminal that says how wide it is
console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)


@dataclass(frozen=True)
class BenchSetup:
    """The input of every measurement."""

    source: TowerVectors
    scale: ChurnScale
    seed: int
    data: Path
    say: Callable[[str], None]


MEASUREMENTS: Mapping[str, Callable[[BenchSetup], Found]] = {
    "quiet": lambda task: churn.measure_filter(task.scale, task.seed, task.say),
    "memory": lambda task: churn.measure_memory(task.scale, task.seed, task.say),
    "served": lambda task: served.measure(
        task.source, items=task.scale.items, probes=task.scale.probes, seed=task.seed, data=task.data, say=task.say
    ),
    "reads": lambda task: churn.measure_reads(task.source, task.scale, task.seed, task.say),
    "overdriven": lambda task: churn.measure_overdriven(task.scale, task.seed, task.say),
    "churn": lambda task: churn.measure(task.scale, task.seed, task.say),
    "peers": lambda task: {
        "peers": peers.compare(
            task.source, items=task.scale.items, queries=task.scale.peer_queries, seed=task.seed, say=task.say
        )
    },
}
USUAL = tuple(name for name in MEASUREMENTS if name != "peers")

TARGETS = (
    Target("recall@10 while everything changes, lowest", ("churn", "recall_at_10"), 0.95, 0.99, "", True),
    Target("  below a fresh build", ("churn", "below_fresh"), 0.01, 0.005, ""),
    Target("reads beside 500 changes/s, p99 <= 20 ms", ("reads_beside", "rps"), 300, None, "/s", True),
    Target("the same, p99 <= 5 ms", ("reads_beside", "at_goal", "rps"), None, 1_500, "/s", True),
    Target("their recall@50", ("reads_beside", "recall_at_50"), 0.95, None, "", True),
    Target("delta at 500 changes/s, most", ("churn", "at_500_per_s", "delta_rows_max"), 5_000, None, "rows"),
    Target("the same, driven past what it can answer", ("overdriven", "delta_rows_max"), 5_000, None, "rows"),
    Target("then within 20 ms at 300 reads/s after", ("overdriven", "recovered_after_s"), 10, None, "s"),
    Target("vector to searchable at 500/s, p99", ("searchable_ms", "p99"), 250, 50, "ms"),
    Target("the same through the tower at 200/s, p99", ("searchable_through_tower_ms", "p99"), 500, 150, "ms"),
    Target("filter that 5 % pass, p99 above none", ("filter_5pct_extra_ms", "p99"), 3, 1, "ms"),
    Target("memory of 100,000 x 128, at rest", ("mib_per_100k", "steady"), 180, 110, "MiB"),
    Target("memory of 100,000 x 128, while folding", ("mib_per_100k", "folding"), 350, 220, "MiB"),
    Target("build of 100,000", ("build_s",), 40, 15, "s"),
    Target("restart to ready", ("restart_s",), 5, None, "s"),
)


def run(task: BenchSetup, names: list[str], keep: Callable[[str, Found, Found], None]) -> Found:
    """Take the measurements *names* in turn; *keep* gets each one's name, result and conditions."""
    results: Found = {}
    for name in names:
        others, started, before = watch(), time.monotonic(), load_average()
        found = MEASUREMENTS[name](task)
        took_s = round(time.monotonic() - started)
        keep(name, found, {"took_s": took_s, "load_average": [before, load_average()], "others_cores": others()})
        results |= found
    return results


def beside_table(results: Mapping[str, Any]) -> Table | None:
    """The comparison with other indexes in the same run; ``None`` if it was not measured."""
    compared = results.get("side_by_side")
    if not compared:
        return None
    title = f"Reads/s beside 500 changes/s, p99 within {compared['bound_ms']:g} ms, all items replaced before"
    table = Table(title=title)
    for name in ("", "turns", "ours is so many times as many", "recall@50"):
        table.add_column(name, justify="left" if not name else "right")
    labels = {"ours": "Nearline", "locked": "hnswlib, add and query under one lock", "flat": "faiss flat, exact"}
    for kind, label in labels.items():
        over = compared["ours_over"].get(kind)
        ratio = "" if over is None else f"{over['median']} ({over['low']}-{over['high']})"
        turns = ", ".join(f"{rate:,}" for rate in compared["rps"][kind])
        known = compared["recall_at_50"].get(kind)
        table.add_row(label, turns, ratio, "" if known is None else f"{known:.3f}")
    return table


def peers_table(peers: Mapping[str, Any]) -> Table:
    """One row for each library and storage."""
    table = Table(title="Other indexes at recall@50 .955 and .99, one thread, one query a call")
    table.add_column("index", no_wrap=True)
    for name in (
        "MiB 64/128 d",
        "build s, 1/2 threads",
        "/s at .955",
        "p50/p99 us",
        "/s at .99",
        "add us",
        "load, GIL held ms",
    ):
        table.add_column(name, justify="right")
    for name, found in peers.items():
        low, high = found["recall"]["0.955"], found["recall"]["0.99"]
        memory, built, load = found["mib_per_100k"], found["build_s"], found["files"]["load"]
        table.add_row(
            name,
            f"{memory['64']:.0f} / {memory['128']:.0f}",
            f"{built['1']:.0f} / {built['2']:.0f}",
            f"{low['per_s']:,}" if "per_s" in low else f"never: {low['most_recall']}",
            f"{low['p50_us']} / {low['p99_us']}" if "per_s" in low else "",
            f"{high['per_s']:,}" if "per_s" in high else f"never: {high['most_recall']}",
            str(found["add_us"]),
            f"{load['s'] * 1e3:.0f}, {load['held_ms']:.0f}",
        )
    return table


def _say(line: str) -> None:
    console.print(f"{time.strftime('%H:%M:%S')} {line.strip()}")


def main() -> None:
    """Measure, write the JSON, print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=__doc__.partition("\n")[0])
    named = partial(measurements_named, known=MEASUREMENTS)
    parser.add_argument("--only", type=named, default=list(USUAL), help=f"of {','.join(MEASUREMENTS)}")
    parser.add_argument("--quick", action="store_true", help="small and short: to try it, not for figures")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, default=BUILD / "bench-index" / "system", help="deleted first")
    parser.add_argument("--out", type=Path, default=BUILD / "bench-index.json")
    given = parser.parse_args()
    interrupt_on_sigterm()
    command = " ".join(["python -m benchmarks.index", *sys.argv[1:]])
    kept = Kept(given.out, about(given.seed, command=command), quick=given.quick)
    try:
        task = BenchSetup(source(given.seed), QUICK if given.quick else ChurnScale(), given.seed, given.data, _say)
        results = run(task, given.only, kept.keep)
    except NearlineError as problem:
        sys.exit(f"bench-index: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
    console.print(table_of("The index on this machine, load generators included", TARGETS, results))
    for table in (beside_table(results), *map(peers_table, [results["peers"]] if "peers" in results else [])):
        if table is not None:
            console.print(table)
    busiest = max(kept.taken(name)["others_cores"] for name in given.only)
    console.print(f"others used {busiest:.2f} cores at most; everything measured: {given.out}")


if __name__ == "__main__":
    main()
