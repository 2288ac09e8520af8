"""``python -m benchmarks.reference.guard``: has a click, an answer or a backlog become dearer? (``make bench-guard``)

It compares this tree's processor time per click and per answer, and the time to work off a backlog, with what the same
command recorded here when it last passed. On a machine without a record it runs commit b14ebb2 beside this tree.
A figure at 1.25 times the earlier one fails. A passing run of a clean checkout becomes the record.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.about import about
from benchmarks.reference.__main__ import compare, say
from benchmarks.reference.figures import ALL_PARTS, CostFigure, Figures, figures_of
from benchmarks.reference.rounds import MEASUREMENTS, QUICK, prepare, taken_alone
from benchmarks.reference.running import running
from benchmarks.reference.trees import this_tree
from local.system import interrupt_on_sigterm
from nearline.errors import NearlineError

LIMIT = 1.25
FIRST = "b14ebb2"  # the first evening's commit, for a machine without a record
ROUNDS = 3
_DRAIN = CostFigure("backlog", "worked off", "clicks/s")
# What is guarded, each as a cost: less is better.
GUARDED = {
    "us a click at a steady rate": CostFigure("clicks", ALL_PARTS, "us a click"),
    "us a click of a backlog": CostFigure("backlog", ALL_PARTS, "us a click"),
    "us an answer": CostFigure("answers", ALL_PARTS, "us an answer"),
    "s for 1,000 clicks of a backlog": _DRAIN,
}


def guarded(rounds: Sequence[Figures]) -> dict[str, float]:
    """The median of each guarded figure over *rounds*, by its name."""
    return {name: statistics.median(_cost(one, figure) for one in rounds) for name, figure in GUARDED.items()}


def _cost(figures: Figures, figure: CostFigure) -> float:
    return 1_000 / figures[figure] if figure is _DRAIN else figures[figure]


def dearer(now: Mapping[str, float], before: Mapping[str, float], limit: float = LIMIT) -> list[str]:
    """A sentence for each figure that is at *limit* times what it was *before*, or above."""
    return [
        f"{name}: {now[name]:,.1f}, before {before[name]:,.1f} "
        f"(x {now[name] / before[name]:.2f}; allowed below x {limit})"
        for name in GUARDED
        if now[name] >= limit * before[name]
    ]


def record_path() -> Path:
    """Where this user's record of this machine lies: outside the checkout, for the next checkout to find."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "nearline" / "bench-guard.json"


def recorded(path: Path, machine: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record in *path*, if there is one of the same *machine* with every guarded figure."""
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        is_usable = record["machine"] == machine and record["figures"].keys() == GUARDED.keys()
    except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return record if is_usable else None


def measured_alone(rounds: int, seed: int) -> dict[str, float]:
    """This tree's figures, with no other tree running."""
    with running(this_tree(), say) as system:
        prepare(system, MEASUREMENTS, QUICK, seed, say)
        found = []
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            found.append(figures_of(*taken_alone(system, list(MEASUREMENTS), QUICK, seed + number)))
    return guarded(found)


def measured_beside(reference: str, rounds: int, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """This tree's figures, and those of *reference*, which runs beside it."""
    both = list(compare(reference, list(MEASUREMENTS), QUICK, seed, rounds))
    return guarded([one.this for one in both]), guarded([one.that for one in both])


def main() -> None:
    """Measure, compare, print, record; exit status 1 if something became dearer, 2 if it could not be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reference.guard", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, default=record_path(), help="default: %(default)s")
    parser.add_argument("--accept", action="store_true", help="record the figures although they are dearer")
    given = parser.parse_args()
    interrupt_on_sigterm()
    facts = about(given.seed, command="python -m benchmarks.reference.guard")
    record = recorded(given.record, facts["machine"])
    try:
        if record is None:
            print(f"no record of this machine in {given.record}: beside commit {FIRST}")
            now, before = measured_beside(FIRST, given.rounds, given.seed)
        else:
            print(f"beside the record of {record['commit'][:7]}, {record['date']}")
            now, before = measured_alone(given.rounds, given.seed), record["figures"]
    except NearlineError as problem:
        print(f"bench-guard: {problem}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    for name, value in now.items():
        print(f"  {name:34} {value:10,.1f}   before {before[name]:10,.1f}   x {value / before[name]:.2f}")
    problems = dearer(now, before)
    if problems:
        print("dearer than before:", *problems, sep="\n  ")
        if not given.accept:
            sys.exit(1)
    if not facts["commit"].endswith("+"):
        given.record.parent.mkdir(parents=True, exist_ok=True)
        given.record.write_text(json.dumps({**facts, "figures": now}, indent=2) + "\n")
        print(f"recorded in {given.record}")


if __name__ == "__main__":
    main()
