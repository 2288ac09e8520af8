"""``python -m benchmarks``: measures the whole system on this machine; prints one table, writes ``build/bench.json``.

It starts its own system on free ports; nothing else should run, since the load generators share the machine's cores
with the system. Measurements that are not repeated stay in the file, with the commit and the time of their own run
under ``taken``. docs/benchmarks.md explains each figure.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import (
    canary,
    freshness,
    ingest,
    instrumentation,
    overload,
    recommend,
    resources,
    searchable,
    session,
    sustained,
    waiting,
)
from benchmarks.about import about, load_average
from benchmarks.floor import RATES, Floor, floor_server
from benchmarks.neighbours import watch
from benchmarks.probe import Probe
from benchmarks.results import Found, Kept, measurements_named, merged, table_of
from benchmarks.stage import QUICK, LoadedSystem, Scale, prepare
from benchmarks.synthetic_items import bench_items
from benchmarks.targets import TARGETS
from local.addresses import Ports
from local.layout import BUILD
from local.system import System, embedded_system, interrupt_on_sigterm, reset
from nearline.errors import NearlineError

# In this order: first those that need a quiet system, last those that change it, memory at the very end.
MEASUREMENTS: Mapping[str, Callable[[LoadedSystem], dict[str, Any]]] = {
    "freshness": freshness.measure,
    "searchable": searchable.measure,
    "after": waiting.measure,
    "canary": canary.measure,
    "instrumentation": instrumentation.measure,
    "recommend.idle": recommend.measure_idle,
    "session": session.measure,
    "reads_under_load": recommend.measure_under_load,
    "recommend.diversity_seen": recommend.measure_diversity_seen,
    "overload": overload.measure,
    "events": ingest.measure,
    "sustained": sustained.measure,
    "resources": resources.measure,
}

_QUIET_CORES = 0.1
console = Console(highlight=False)


def run(names: list[str], scale: Scale, seed: int, data: Path, *, keep: Callable[[str, Found, Found], None]) -> Found:
    """Start a system, load it, take the measurements *names*; *keep* gets each one's name, result and conditions."""
    reset(System(data, Ports.free()), lambda line: None)
    results: Found = {}
    with _progress() as progress:
        bar = progress.add_task("starting the system", total=len(names) + 1)

        def say(line: str) -> None:
            progress.update(bar, description=line)
            if not console.is_terminal:
                print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)

        with embedded_system(data, say=say) as system, Probe(system.bootstrap, system.retrieval, system.key) as probe:
            stage = LoadedSystem(system, probe, scale, seed, say, bench_items(scale.items, seed))
            prepare(stage)
            progress.advance(bar)
            with floor_server() as floor:
                for name in names:
                    found, taken = _measured(name, stage, floor)
                    keep(name, found, taken)
                    results = merged(results, found)
                    progress.advance(bar)
    return results


def _measured(name: str, stage: LoadedSystem, floor: Callable[[], Floor]) -> tuple[Found, Found]:
    """The measurement's result, and the machine's state during it."""
    stage.say(f"{name}: what an empty answer takes now")
    floors = [floor()]
    others, started, before = watch(), time.monotonic(), load_average()
    found = MEASUREMENTS[name](stage)
    taken: Found = {
        "took_s": round(time.monotonic() - started),
        "load_average": [before, load_average()],
        "others_cores": others(),
    }
    floors.append(floor())
    return found, taken | {"empty_answer_p99_ms": floors}


def _progress() -> Progress:
    # Drawn once a second: drawing more often would affect the figures.
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, refresh_per_second=1, transient=True)


def _neighbours(others: Mapping[str, float]) -> str:
    """A line for people: how much of the machine other programs used."""
    busiest = max(others, key=lambda name: others[name])
    if others[busiest] <= _QUIET_CORES:
        return f"nothing else ran: others used {others[busiest]:.2f} cores at most"
    return f"[red]others used up to {others[busiest]:.2f} cores ({busiest}): the figures are of what was left[/red]"


def _floor(floors: Sequence[Floor]) -> str:
    """A line for people: what the machine itself added to every latency, at best and at worst."""
    ranges = {rate: sorted(floor[str(rate)] for floor in floors) for rate in RATES}
    told = "; ".join(f"{low:.1f} to {high:.1f} ms at {rate:,}/s" for rate, (low, *_, high) in ranges.items())
    return f"an empty answer's p99 before and after each: {told}"


def main() -> None:
    """Measure, write the JSON, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    named = partial(measurements_named, known=MEASUREMENTS)
    parser.add_argument("--only", type=named, default=list(MEASUREMENTS), help=f"of {','.join(MEASUREMENTS)}")
    parser.add_argument("--quick", action="store_true", help="small and short: for trying it, not for figures")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, default=BUILD / "bench", help="folder of the system; deleted first")
    parser.add_argument("--out", type=Path, default=BUILD / "bench.json")
    given = parser.parse_args()
    interrupt_on_sigterm()
    facts = about(given.seed, command=" ".join(["python -m benchmarks", *sys.argv[1:]]))
    kept = Kept(given.out, facts, quick=given.quick)
    try:
        results = run(given.only, QUICK if given.quick else Scale(), given.seed, given.data, keep=kept.keep)
    except NearlineError as problem:
        sys.exit(f"benchmarks: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
    console.print(table_of("Nearline on this machine, load generators included", TARGETS, results))
    console.print(_neighbours({name: kept.taken(name)["others_cores"] for name in given.only}))
    console.print(_floor([each for name in given.only for each in kept.taken(name)["empty_answer_p99_ms"]]))
    console.print(f"everything measured: {given.out}")


if __name__ == "__main__":
    main()
