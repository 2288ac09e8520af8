"""The guard of costs: what counts as dearer, and which record it compares with."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reference.figures import ALL_PARTS, CostFigure, Figures
from benchmarks.reference.guard import GUARDED, dearer, guarded, recorded

MACHINE = {"processor": "any", "cores": 2}
BEFORE = dict.fromkeys(GUARDED, 100.0)


def figures(click: float, backlog: float, answer: float, drain: float) -> Figures:
    return {
        CostFigure("clicks", ALL_PARTS, "us a click"): click,
        CostFigure("backlog", ALL_PARTS, "us a click"): backlog,
        CostFigure("answers", ALL_PARTS, "us an answer"): answer,
        CostFigure("backlog", "worked off", "clicks/s"): drain,
    }


def test_the_median_of_the_rounds_counts_and_a_drain_is_seconds_for_a_thousand_clicks() -> None:
    rounds = [figures(9_000, 500, 700, 2_000), figures(1_000, 510, 700, 1_000), figures(1_100, 520, 690, 4_000)]
    assert list(guarded(rounds).values()) == [1_100, 510, 700, 0.5]


def test_nothing_is_dearer_below_one_and_a_quarter_times_the_earlier_cost() -> None:
    assert dearer(dict.fromkeys(GUARDED, 124.9), BEFORE) == []


@pytest.mark.parametrize("name", GUARDED)
def test_each_guarded_figure_is_named_with_both_amounts(name: str) -> None:
    (problem,) = dearer({**BEFORE, name: 125.0}, BEFORE)
    assert problem == f"{name}: 125.0, before 100.0 (x 1.25; allowed below x 1.25)"


@pytest.mark.parametrize(
    "record",
    [
        None,
        "not json",
        "[]",
        json.dumps({"machine": {"processor": "another", "cores": 2}, "figures": BEFORE}),
        json.dumps({"machine": MACHINE, "figures": {"us an answer": 1.0}}),
        json.dumps({"machine": MACHINE}),
    ],
)
def test_a_missing_broken_or_foreign_record_is_none(tmp_path: Path, record: str | None) -> None:
    path = tmp_path / "record.json"
    if record is not None:
        path.write_text(record)
    assert recorded(path, MACHINE) is None


def test_the_record_of_this_machine_is_compared_with(tmp_path: Path) -> None:
    record: dict[str, Any] = {"machine": MACHINE, "figures": BEFORE, "commit": "c", "date": "d"}
    (tmp_path / "record.json").write_text(json.dumps(record))
    assert recorded(tmp_path / "record.json", MACHINE) == record
