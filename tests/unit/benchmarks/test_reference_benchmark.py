"""This tree beside another: what the ratio of two trees' rounds says, where figures come from, what a commit is."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.reference.figures import (
    ALL_PARTS,
    AT_REST,
    CostFigure,
    Costs,
    CostsTaken,
    Round,
    as_plain,
    figures_of,
    important,
    rows,
)
from benchmarks.reference.processor_time import parsed, used_s
from benchmarks.reference.ratios import coverage, median_interval, ratio
from benchmarks.reference.report import floors_table, table_of
from benchmarks.reference.trees import commit_of, is_same_list
from local.layout import ROOT
from nearline.errors import Misconfigured, Unavailable

FLOORS = [{"30": 1.0, "1000": 2.0}, {"30": 3.0, "1000": 4.5}]


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    found = ratio([10, 22, 30], [10, 20, 40])
    assert found is not None
    assert (found.median, found.rounds) == (1.0, 3)
    assert (found.interval.low, found.interval.high) == (0.75, 1.1)


def test_there_is_no_ratio_to_a_tree_without_such_a_cost() -> None:
    assert ratio([1, 2], [0, 2]) is None
    assert ratio([], []) is None


@pytest.mark.parametrize(
    ("count", "low", "high", "covered"),
    [(1, 1, 1, 0.0), (2, 1, 2, 0.5), (5, 1, 5, 0.9375), (8, 2, 7, 0.9297), (9, 2, 8, 0.9609), (20, 6, 15, 0.9586)],
)
def test_the_interval_is_the_narrowest_that_covers_nine_tenths(count: int, low: int, high: int, covered: float) -> None:
    found = median_interval(list(range(count, 0, -1)))
    assert (found.low, found.high) == (low, high)
    assert found.coverage == pytest.approx(covered, abs=1e-4)


def test_coverage_is_the_chance_that_values_lie_on_both_sides_of_the_median() -> None:
    assert coverage(3, 1) == pytest.approx(1 - 2 * 0.5**3)


@pytest.mark.parametrize(
    ("these", "is_more"),
    [
        ([1.05, 1.06, 1.07, 1.08, 1.09], True),
        ([1.01, 1.02, 1.02, 1.02, 1.03], False),  # surely more, but by less than three hundredths
        ([0.99, 1.06, 1.07, 1.08, 1.09], False),  # the interval contains 1
        ([0.80, 0.81, 0.82, 0.83, 0.84], False),
    ],
)
def test_a_cost_is_higher_if_the_median_is_above_1_03_and_the_interval_above_1(
    these: list[float], is_more: bool
) -> None:
    found = ratio(these, [1.0] * 5)
    assert found is not None
    assert found.costs_more is is_more


def test_a_stat_line_is_read_whatever_the_program_is_called() -> None:
    line = "42 (a (b) c) S 7 42 42 0 -1 4194560 1 2 3 4 150 50 25 75 20 0 1 0 99 0 0"
    stat = parsed(line)
    assert stat.parent == 7
    assert stat.used_s == pytest.approx(300 / os.sysconf("SC_CLK_TCK"))


BUSY = "import time\nwhile time.process_time() < 0.2: pass\n"
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {BUSY!r}])
print("done", flush=True)
child = subprocess.Popen([sys.executable, "-c", {BUSY + 'print("done", flush=True); input()'!r}], stdin=sys.stdin)
child.wait()
"""


def test_processor_time_holds_children_that_run_and_those_that_have_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=-1, stdout=-1, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        parent.stdout.readline()
        ended = used_s({"parent": parent.pid})["parent"]
        parent.stdout.readline()
        both = used_s({"parent": parent.pid})["parent"]
        parent.stdin.write("\n")
        parent.stdin.flush()
    assert ended >= 0.18  # in hundredths of a second, each of its four terms cut off
    assert both >= 0.36
    with pytest.raises(Unavailable, match="parent ended while it was measured"):
        used_s({"parent": parent.pid})


def test_own_processor_time_grows_by_what_was_computed() -> None:
    before, started = used_s({"me": os.getpid()})["me"], time.process_time()
    while time.process_time() < started + 0.1:
        pass
    assert used_s({"me": os.getpid()})["me"] - before >= 0.09


def taken(door: float, job: float) -> CostsTaken:
    """A thousand clicks in two seconds, with the processor time that two parts used meanwhile."""
    return CostsTaken(Costs({"door": door, "job": job}, 2.0), "click", 1_000, {("lag", "s"): 0.5})


RESTING = Costs({"door": 1.0, "job": 0.0}, 10.0)  # a tenth of a core


def test_what_a_system_uses_at_rest_is_taken_off_and_stands_apart() -> None:
    found = figures_of({"clicks": taken(1.2, 3.0)}, RESTING)
    assert found[CostFigure("clicks", "door", "us a click")] == pytest.approx(1_000)
    assert found[CostFigure("clicks", ALL_PARTS, "us a click")] == pytest.approx(4_000)
    assert found[CostFigure("clicks", "lag", "s")] == 0.5
    assert found[CostFigure(AT_REST, "door", "cores")] == pytest.approx(0.1)


def test_the_moments_at_rest_of_a_round_count_together() -> None:
    resting = Costs({"job": 1.0}, 2.0)
    resting.add(Costs({"job": 3.0, "door": 0.5}, 6.0))
    assert (resting.used_s, resting.took_s) == ({"job": 4.0, "door": 0.5}, 8.0)


def rounds_of(door: float, other_door: float) -> list[Round]:
    """Five rounds of two trees that differ in what one part costs."""
    this, that = (figures_of({"clicks": taken(cost, 3.0)}, RESTING) for cost in (door, other_door))
    return [Round(this, that, FLOORS, 0.25) for _ in range(5)]


def test_every_cost_has_a_verdict_and_a_time_on_the_clock_has_none() -> None:
    verdicts = {row.figure.name: row.verdict for row in rows(rounds_of(1.5, 1.2)) if row.figure.measurement == "clicks"}
    assert verdicts == {ALL_PARTS: "MORE", "door": "MORE", "job": "not more", "lag": ""}


def test_parts_of_a_fiftieth_and_less_are_left_to_the_file() -> None:
    shown = {row.figure.name for row in important(rows(rounds_of(0.25, 0.25))) if row.figure.measurement == "clicks"}
    assert shown == {ALL_PARTS, "job", "lag"}


def test_a_part_that_the_other_tree_lacks_is_shown_without_a_ratio() -> None:
    this = figures_of({"clicks": taken(1.2, 3.0)}, RESTING)
    that = figures_of({"clicks": CostsTaken(Costs({"job": 3.0}, 2.0), "click", 1_000, {})}, Costs({}, 1.0))
    door = next(row for row in rows([Round(this, that, FLOORS, 0.0)]) if row.figure.name == "door")
    assert door.this == pytest.approx(1_000)
    assert door.that == 0.0
    assert door.ratio is None


def test_the_tables_show_both_trees_the_interval_and_the_empty_server_of_each_round() -> None:
    rounds, page = rounds_of(1.5, 1.2), io.StringIO()
    console = Console(width=150, file=page)
    console.print(table_of(important(rows(rounds)), "5d8ff67"))
    console.print(floors_table(rounds))
    text = page.getvalue()
    assert "1.300" in text
    assert "1.300 - 1.300" in text
    assert "5 rounds; an interval covers the median with 94%" in text
    assert "2.0, 4.5" in text
    assert "0.25" in text


def test_the_file_has_every_round_and_the_comparison() -> None:
    plain = as_plain(rounds_of(1.5, 1.2))
    assert len(plain["rounds"]) == 5
    assert plain["rounds"][0]["that"]["clicks"]["door, us a click"] == pytest.approx(1_000)
    door = next(row for row in plain["comparison"] if (row["measurement"], row["name"]) == ("clicks", "door"))
    assert (door["ratio"]["median"], door["verdict"]) == (pytest.approx(1.3), "MORE")


def test_a_reference_is_a_commit_and_another_word_is_refused() -> None:
    assert len(commit_of("HEAD")) == 40
    with pytest.raises(Misconfigured, match="REF=no-such-commit"):
        commit_of("no-such-commit")


def test_an_environment_is_shared_where_its_list_is_the_same(tmp_path: Path) -> None:
    lists = tmp_path / "requirements"
    lists.mkdir()
    (lists / "services.txt").write_bytes((ROOT / "requirements" / "services.txt").read_bytes())
    (lists / "flink.txt").write_text("")
    assert is_same_list("services", tmp_path)
    assert not is_same_list("flink", tmp_path)
