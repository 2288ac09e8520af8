"""The page's figures are of one whole run of one commit."""

import copy
import json
from typing import Any

import pytest

from benchmarks.__main__ import MEASUREMENTS
from nearline.errors import Misconfigured
from tools.bench_docs import NOT_RUN, PAGE, RESULTS, check, section, with_section

COMMIT = "0123456789abcdef"
TAKEN = {
    "commit": COMMIT,
    "date": "2026-12-01T00:00:00+00:00",
    "seed": 1,
    "machine": {"cores": 2, "processor": "AMD", "memory_gib": 23.5, "python": "3.11.7"},
    "others_cores": {"a program": 0.01},
    "empty_answer_p99_ms": [{"30": 1.0, "1000": 0.9}, {"30": 1.0, "1000": 1.4}],
}
WHOLE: dict[str, Any] = {"taken": {name: TAKEN for name in MEASUREMENTS}, "sustained_clicks_per_s": 5_706.0}


def test_the_page_shows_the_kept_results_and_nothing_else() -> None:
    page = PAGE.read_text()
    kept = section(json.loads(RESULTS.read_text())) if RESULTS.exists() else NOT_RUN
    assert with_section(page, kept) == page, "run python -m tools.bench_docs"


def test_a_table_that_would_mix_two_commits_is_refused() -> None:
    mixed = copy.deepcopy(WHOLE)
    mixed["taken"]["sustained"] = TAKEN | {"commit": "fedcba9876543210"}
    with pytest.raises(Misconfigured, match=r"figures of one commit.*fedcba987: sustained"):
        section(mixed)


@pytest.mark.parametrize(
    ("results", "problem"),
    [
        (WHOLE | {"quick": True}, "quick"),
        ({"taken": {"sustained": TAKEN}}, "not measured: freshness"),
        ({"taken": {name: TAKEN | {"commit": COMMIT + "+"} for name in MEASUREMENTS}}, "with changes"),
        ({"taken": {name: TAKEN | {"commit": ""} for name in MEASUREMENTS}}, "no commit"),
    ],
)
def test_a_run_that_is_not_whole_is_refused(results: dict[str, Any], problem: str) -> None:
    with pytest.raises(Misconfigured, match=problem):
        check(results)


def test_a_figure_stands_beside_its_bounds() -> None:
    rows = section(WHOLE).splitlines()
    assert "| clicks sustained to stored vectors | 5,706 /s | 2,000 /s | 6,000 /s | must |" in rows
    assert any("commit 0123456" in row for row in rows)
