"""Computes the figures of two trees' rounds, side by side with their ratios. Nothing is run here."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from benchmarks.floor import Floor
from benchmarks.reference.ratios import Ratio, ratio

ALL_PARTS = "all parts"
AT_REST = "at rest"
_SHARE = 0.02  # of the whole cost: a part below it has no row of its own


@dataclass(slots=True)
class Costs:
    """Seconds of processor time by part of a system, over *took_s* seconds."""

    used_s: dict[str, float] = field(default_factory=dict)
    took_s: float = 0.0

    def add(self, more: "Costs") -> None:
        """Count *more* of the same system in."""
        self.took_s += more.took_s
        for part, used in more.used_s.items():
            self.used_s[part] = self.used_s.get(part, 0.0) + used


@dataclass(frozen=True, slots=True)
class CostsTaken:
    """One measurement of one tree."""

    spent: Costs
    unit: str  # what was counted: a click, an answer
    count: int
    more: Mapping[tuple[str, str], float]  # by name and unit: what the clock says


class CostFigure(NamedTuple):
    """What a number is: of which measurement, of what, in which unit."""

    measurement: str
    name: str
    unit: str

    @property
    def is_cost(self) -> bool:
        """Whether it is processor time, which other programs disturb little, and not time on the clock."""
        return self.unit.startswith(("us ", "cores"))


Figures = Mapping[CostFigure, float]


def figures_of(taken: Mapping[str, CostsTaken], resting: Costs) -> Figures:
    """One tree's figures of a round; the processor time that it used *resting* is taken off and stands apart."""
    cores = {part: used / resting.took_s for part, used in resting.used_s.items()}
    found: dict[CostFigure, float] = {}
    for name, one in taken.items():
        unit = f"us {'an' if one.unit[0] in 'aeiou' else 'a'} {one.unit}"
        each = {
            part: (used - cores.get(part, 0.0) * one.spent.took_s) / one.count * 1e6
            for part, used in one.spent.used_s.items()
        }
        found |= {CostFigure(name, part, unit): us for part, us in _with_whole(each)}
        found |= {CostFigure(name, *what): value for what, value in one.more.items()}
    return {**found, **{CostFigure(AT_REST, part, "cores"): share for part, share in _with_whole(cores)}}


def _with_whole(by_part: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    yield ALL_PARTS, sum(by_part.values())
    yield from by_part.items()


@dataclass(frozen=True, slots=True)
class Round:
    """The figures of this tree and of the other one, and what the machine was like."""

    this: Figures
    that: Figures
    floors: Sequence[Floor]  # an empty server's p99 in ms, by requests a second: before and after
    others_cores: float  # what programs that are no part of this used meanwhile


@dataclass(frozen=True, slots=True)
class RatioRow:
    """One figure of both trees over all rounds: medians, and the ratio where there is one."""

    figure: CostFigure
    this: float
    that: float
    ratio: Ratio | None

    @property
    def verdict(self) -> str:
        """``MORE`` or ``not more`` of a cost; nothing of a time on the clock, which other programs disturb."""
        if self.ratio is None or not self.figure.is_cost:
            return ""
        return "MORE" if self.ratio.costs_more else "not more"


def rows(rounds: Sequence[Round]) -> list[RatioRow]:
    """All figures in the order in which they were taken; a part that one of the trees lacks costs it nothing."""
    names = dict.fromkeys(figure for one in rounds for side in (one.this, one.that) for figure in side)
    order = list(dict.fromkeys(figure.measurement for figure in names))
    return [_row(figure, rounds) for figure in sorted(names, key=lambda figure: order.index(figure.measurement))]


def _row(figure: CostFigure, rounds: Sequence[Round]) -> RatioRow:
    these = [one.this.get(figure, 0.0) for one in rounds]
    those = [one.that.get(figure, 0.0) for one in rounds]
    return RatioRow(figure, statistics.median(these), statistics.median(those), ratio(these, those))


def important(found: Sequence[RatioRow]) -> list[RatioRow]:
    """The rows for people: of parts only those that matter in a measurement, and at rest only the whole."""
    whole = {row.figure.measurement: max(row.this, row.that) for row in found if row.figure.name == ALL_PARTS}

    def matters(row: RatioRow) -> bool:
        if not row.figure.is_cost or row.figure.name == ALL_PARTS:
            return True
        share = max(row.this, row.that) / whole[row.figure.measurement]
        return row.figure.measurement != AT_REST and share >= _SHARE

    return [row for row in found if matters(row)]


def as_plain(rounds: Sequence[Round]) -> dict[str, Any]:
    """Every round as it was, and the comparison."""
    return {"rounds": [_plain_round(one) for one in rounds], "comparison": [_plain_row(row) for row in rows(rounds)]}


def _plain_round(one: Round) -> dict[str, Any]:
    trees = {"this": _nested(one.this), "that": _nested(one.that)}
    return {**trees, "empty_answer_p99_ms": list(one.floors), "others_cores": one.others_cores}


def _nested(figures: Figures) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for figure, value in figures.items():
        found.setdefault(figure.measurement, {})[f"{figure.name}, {figure.unit}".rstrip(", ")] = round(value, 4)
    return found


def _plain_row(row: RatioRow) -> dict[str, Any]:
    compared = None if row.ratio is None else asdict(row.ratio)
    return {**row.figure._asdict(), "this": row.this, "that": row.that, "ratio": compared, "verdict": row.verdict}
