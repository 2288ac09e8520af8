"""``python -m benchmarks.index_bench``: the index measured; one table, and ``build/bench-index.json``.

Recall while everything changes, reads beside it, how soon a vector is searchable in the running system, a filter,
memory, a build, a restart. Each measurement has processes of its own and none is left at exit. What is not measured
again stays in the file as it was, with the commit and the time of its own run under ``taken``. What each figure means
is in docs/benchmarks.md.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import index_churn, index_quiet, index_rivals, index_served
from benchmarks.about import about, load_average
from benchmarks.index_churn import QUICK, ChurnScale
from benchmarks.index_vectors import TowerVectors, source
from benchmarks.neighbours import watch
from benchmarks.targets import Target
from local.layout import BUILD
from local.system import interrupt_on_sigterm
from nearline.errors import NearlineError

BenchResults = dict[str, Any]
_WIDTH = 150  # where there is no terminal that says how wide it is
console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)


@dataclass(frozen=True)
class BenchSetup:
    """What every measurement gets."""

    source: TowerVectors
    scale: ChurnScale
    seed: int
    data: Path
    say: Callable[[str], None]


MEASUREMENTS: Mapping[str, Callable[[BenchSetup], dict[str, Any]]] = {
    "quiet": lambda task: index_quiet.measure_filter(task.scale.items, task.seed, task.say),
    "memory": lambda task: index_quiet.measure_memory(task.scale.items, task.seed, task.say),
    "served": lambda task: index_served.measure(
        task.source, items=task.scale.items, probes=task.scale.probes, seed=task.seed, data=task.data, say=task.say
    ),
    "reads": lambda task: index_churn.measure_reads(task.source, task.scale, task.seed, task.say),
    "overdriven": lambda task: index_churn.measure_overdriven(task.scale, task.seed, task.say),
    "churn": lambda task: index_churn.measure(task.source, task.scale, task.seed, task.say),
    "peers": lambda task: {
        "peers": index_rivals.measure(
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


def run(task: BenchSetup, names: list[str], keep: Callable[[str, BenchResults, BenchResults], None]) -> BenchResults:
    """Take the measurements *names*, one after the other; *keep* gets each one's name, what it found, and how."""
    results: BenchResults = {}
    for name in names:
        others, started, before = watch(), time.monotonic(), load_average()
        found = MEASUREMENTS[name](task)
        took_s = round(time.monotonic() - started)
        keep(name, found, {"took_s": took_s, "load_average": [before, load_average()], "others_cores": others()})
        results |= found
    return results


def table_of(results: Mapping[str, Any]) -> Table:
    """Measured, must, goal, and which of the two was met."""
    table = Table(title="The index on this machine, load generators included")
    table.add_column("figure")
    for name in ("measured", "must", "goal"):
        table.add_column(name, justify="right")
    table.add_column("met")
    colours = {"goal": "green", "must": "yellow", "missed": "red"}
    for target in TARGETS:
        verdict = target.verdict(results)
        row = [amount(target, value) for value in (target.measured(results), target.must, target.goal)]
        table.add_row(target.figure, *row, verdict, style=colours.get(verdict))
    return table


def amount(target: Target, value: float | None) -> str:
    """A figure with its unit; a share has none."""
    if value is None:
        return "-"
    number = f"{value:.4f}" if not target.unit else f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
    return f"{number} {target.unit}".strip()


def beside_table(results: Mapping[str, Any]) -> Table | None:
    """What one would have without us, in the same run; ``None`` if it was not measured."""
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


def known(path: Path) -> BenchResults:
    """What earlier runs found; nothing if there was none, or only a quick one."""
    try:
        found: BenchResults = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return {} if found.get("quick") else found


def _names(text: str) -> list[str]:
    wanted = text.split(",")
    unknown = sorted(set(wanted) - MEASUREMENTS.keys())
    if unknown:
        raise argparse.ArgumentTypeError(f"no measurement {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    return [name for name in MEASUREMENTS if name in wanted]


def _say(line: str) -> None:
    console.print(f"{time.strftime('%H:%M:%S')} {line.strip()}")


def main() -> None:
    """Measure, write the JSON, print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index_bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", type=_names, default=list(USUAL), help=f"of {','.join(MEASUREMENTS)}")
    parser.add_argument("--quick", action="store_true", help="small and short: to try it, not for figures")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, default=BUILD / "bench-index" / "system", help="deleted first")
    parser.add_argument("--out", type=Path, default=BUILD / "bench-index.json")
    given = parser.parse_args()
    interrupt_on_sigterm()
    command = " ".join(["python -m benchmarks.index_bench", *sys.argv[1:]])
    facts = about(given.seed, command=command)
    kept: BenchResults = {} if given.quick else known(given.out)

    def keep(name: str, found: BenchResults, taken: BenchResults) -> None:
        kept.update(found, taken=kept.get("taken", {}) | {name: taken | facts}, quick=given.quick)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(kept, indent=2) + "\n")

    try:
        task = BenchSetup(source(given.seed), QUICK if given.quick else ChurnScale(), given.seed, given.data, _say)
        results = run(task, given.only, keep)
    except NearlineError as problem:
        sys.exit(f"bench-index: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
    console.print(table_of(results))
    for table in (beside_table(results), *(map(peers_table, [results["peers"]] if "peers" in results else []))):
        if table is not None:
            console.print(table)
    busiest = max(kept["taken"][name]["others_cores"] for name in given.only)
    console.print(f"others used {busiest:.2f} cores at most; everything measured: {given.out}")


if __name__ == "__main__":
    main()
