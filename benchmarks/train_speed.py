"""``python -m benchmarks.train_speed``: measures how fast the towers are trained, and with how much memory.

Runs in the training environment; `make bench-train` runs it before ``benchmarks.tower_speed``, for which it leaves the
fp32 towers of both sizes in ``<out>/towers/``. Each size and precision is trained in its own process, on the same
random baskets: one round to warm up, then some timed rounds. An example is one basket with its history of up to 50
events. The peak is the process's memory during training, including torch and the data.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.about import about, load_average
from benchmarks.neighbours import watch
from local.layout import BUILD, ROOT
from nearline.errors import NearlineError
from training.data.dataset import load_dataset
from training.data.splits import TEST
from training.export import export_towers
from training.fit import Watcher, fit
from training.recipe import BF16, CAUSAL, FP32, POOLED, TRANSFORMER, Recipe
from training.runs import make_task
from training.task import Task

OUT = BUILD / "bench-train"
SIZES, PRECISIONS = (POOLED, TRANSFORMER, CAUSAL), (FP32, BF16)
EXAMPLES, ROUNDS = 8_192, 5
QUICK_EXAMPLES, QUICK_ROUNDS = 1_024, 3
_WIDTH = 140  # where there is no terminal that says how wide it is
_KIB_IN_MIB = 1024


class EpochClock(Watcher):
    """Notes when each epoch ended."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def epoch(self, epoch: int, loss: float, temperature: float) -> None:
        """An epoch ended."""
        self.ended.append(time.perf_counter())


def rates(ended: Sequence[float], examples: int) -> list[float]:
    """Examples/s of each round of *examples* after the first, which warms up."""
    return [examples / (after - before) for before, after in pairwise(ended)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {name: float(f(values)) for name, f in (("median", statistics.median), ("low", min), ("high", max))}


def measure(task: Task, recipe: Recipe, *, seed: int, rounds: int, towers: Path | None) -> dict[str, Any]:
    """One size and precision, in this process; with *towers* what was learnt is exported there."""
    before = _resident_mib()
    _forget_peak()
    clock = EpochClock()
    fitted = fit(task, replace(recipe, epochs=1 + rounds), seed=seed, watcher=clock)
    peak = _peak_mib()
    if towers is not None:
        export_towers(fitted.towers, task.features, task.items, towers, space=1, facts={"recipe": recipe.as_plain()})
    return {
        "examples_per_s": spread(rates(clock.ended, fitted.examples)),
        "peak_mib": round(peak),
        "before_mib": round(before),
        "examples": fitted.examples,
        "losses": [round(loss, 3) for loss in fitted.losses],
    }


def _status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) / _KIB_IN_MIB for line in lines if line.startswith(f"{name}:")), 0.0)


def _resident_mib() -> float:
    return _status_mib("VmRSS")


def _peak_mib() -> float:
    return _status_mib("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB_IN_MIB


def _forget_peak() -> None:
    """Let the peak count from now on: reading the data took more than learning does. Not every kernel can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def run_all(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Every size and precision, each in its own process, one after the other."""
    results: dict[str, Any] = {"load_average_before": load_average()}
    others = watch()
    for size in SIZES:
        for precision in PRECISIONS:
            console.print(f"{time.strftime('%H:%M:%S')} {size}, {precision}")
            results.setdefault(size, {})[precision] = _in_a_process(given, size, precision)
    return results | {"others_cores": others(), "load_average_after": load_average()}


def _in_a_process(given: argparse.Namespace, size: str, precision: str) -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.train_speed", *sys.argv[1:], "--one", size, precision]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise NearlineError(f"{size}, {precision} ended with {done.returncode}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def run_one(given: argparse.Namespace) -> dict[str, Any]:
    """The size and precision of ``--one``."""
    size, precision = given.one
    torch.set_num_threads(given.threads)
    recipe = Recipe(user_tower=size, packed=size == CAUSAL, precision=precision)
    data = load_dataset(given.data)
    task = make_task(data, data.stage(TEST), recipe.features())
    count, rounds = (QUICK_EXAMPLES, QUICK_ROUNDS) if given.quick else (EXAMPLES, ROUNDS)
    drawn = np.random.default_rng(given.seed).permutation(len(task.examples))[:count]
    towers = given.out / "towers" / size if precision == FP32 else None
    few = replace(task, examples=task.examples.take(np.sort(drawn)))
    return measure(few, recipe, seed=given.seed, rounds=rounds, towers=towers)


def table_of(results: Mapping[str, Any]) -> Table:
    """One row for each size and precision."""
    table = Table(title="Learning on Online Retail, on this machine's processors")
    table.add_column("user tower")
    table.add_column("precision")
    for name in ("examples/s", "lowest to highest", "peak", "of it before"):
        table.add_column(name, justify="right")
    for size in SIZES:
        for precision, found in results.get(size, {}).items():
            rate = found["examples_per_s"]
            row = (f"{rate['median']:,.0f}", f"{rate['low']:,.0f} to {rate['high']:,.0f}")
            table.add_row(size, precision, *row, f"{found['peak_mib']:,} MiB", f"{found['before_mib']:,} MiB")
    return table


def main() -> None:
    """Measure, write the JSON, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_speed", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few examples: to try it, not for figures")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "online-retail")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "PRECISION"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run_one(given)))
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    command = " ".join(["python -m benchmarks.train_speed", *sys.argv[1:]])
    try:
        results = run_all(given, console) | about(given.seed, command=command)
    except NearlineError as problem:
        sys.exit(f"train_speed: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
    given.out.mkdir(parents=True, exist_ok=True)
    found = results | {"quick": given.quick, "threads": given.threads, "torch": torch.__version__}
    (given.out / "training.json").write_text(json.dumps(found, indent=2) + "\n")
    console.print(table_of(results))
    console.print(f"others used {results['others_cores']:.2f} cores; everything: {given.out / 'training.json'}")


if __name__ == "__main__":
    main()
