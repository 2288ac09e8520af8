"""What the commands share: the results file, the names of measurements, and the table with the targets."""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.targets import Target

Found = dict[str, Any]
_COLOURS = {"goal": "green", "must": "yellow", "missed": "red"}


class Kept:
    """A results file: each measurement is written as soon as it is taken, and others stay."""

    def __init__(self, path: Path, facts: Found, *, quick: bool) -> None:
        self._path, self._facts, self._quick = path, facts, quick
        self._found: Found = {} if quick else known(path)

    def keep(self, name: str, found: Found, taken: Found) -> None:
        """Write what measurement *name* has *found*, and how it was *taken*."""
        everything = self._found.get("taken", {}) | {name: taken | self._facts}
        self._found = merged(self._found, found) | {"taken": everything, "quick": self._quick}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._found, indent=2) + "\n")

    def taken(self, name: str) -> Found:
        """How measurement *name* was taken."""
        found: Found = self._found["taken"][name]
        return found


def merged(known: Mapping[str, Any], found: Mapping[str, Any]) -> Found:
    """*known* with what was *found*; where both have an object, its parts stand side by side."""
    both = {name for name in known.keys() & found.keys() if isinstance(known[name], Mapping)}
    return {**known, **found, **{name: {**known[name], **found[name]} for name in both}}


def known(path: Path) -> Found:
    """What earlier runs found; nothing if there was none, or only a quick one, or one that did not say how."""
    try:
        found: Found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return {} if found.get("quick") or "taken" not in found else found


def measurements_named(text: str, known: Iterable[str]) -> list[str]:
    """Those of *known* that *text* names, in the order in which they are taken; ``a`` stands for every ``a.b``."""
    order = list(known)
    named = {wanted: [name for name in order if f"{name}.".startswith(f"{wanted}.")] for wanted in text.split(",")}
    unknown = sorted(wanted for wanted, names in named.items() if not names)
    if unknown:
        raise argparse.ArgumentTypeError(f"no measurement {', '.join(unknown)}; there are {', '.join(order)}")
    return [name for name in order if any(name in names for names in named.values())]


def table_of(title: str, targets: Sequence[Target], results: Mapping[str, Any]) -> Table:
    """Measured, must, goal, and which of the two was met."""
    table = Table(title=title)
    table.add_column("figure")
    for name in ("measured", "must", "goal"):
        table.add_column(name, justify="right")
    table.add_column("met")
    for target in targets:
        verdict = target.verdict(results)
        row = [amount(target, value) for value in (target.measured(results), target.must, target.goal)]
        table.add_row(target.figure, *row, verdict, style=_COLOURS.get(verdict))
    return table


def amount(target: Target, value: float | None) -> str:
    """A figure with its unit; a share has none."""
    if value is None:
        return "-"
    number = f"{value:.4f}" if not target.unit else f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
    return f"{number} {target.unit}".strip()
