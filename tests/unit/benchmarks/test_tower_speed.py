"""The benchmark of the towers: what it asks, how it counts, and what it refuses."""

import asyncio
import io
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from benchmarks.tower_speed import (
    BATCH,
    IN_FLIGHT,
    SIZES,
    TARGETS,
    AnsweredWindow,
    figures,
    full_histories,
    keep_asking,
    repositories_in,
    table_of,
)
from nearline.datasets import Prepared
from nearline.errors import Misconfigured


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_so_many_requests_are_in_flight_and_each_has_a_number_of_its_own(in_flight: int) -> None:
    numbers, flying, most = [], 0, 0

    async def ask(number: int) -> None:
        nonlocal flying, most
        numbers.append(number)
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0)  # gives way, waits for nothing
        flying -= 1

    window = asyncio.run(keep_asking(ask, in_flight=in_flight, seconds=0.02))
    assert most == in_flight
    assert numbers == list(range(len(numbers)))
    assert len(window.latencies_s) == len(numbers)
    assert window.seconds >= 0.02


def test_a_rate_is_vectors_over_the_windows_time_and_percentiles_are_of_all_requests() -> None:
    found = figures(
        [AnsweredWindow([0.001] * 100, 1.0), AnsweredWindow([0.001] * 200, 1.0), AnsweredWindow([0.003] * 100, 0.5)]
    )
    assert found["per_s"] == {"median": 200 * BATCH, "low": 100 * BATCH, "high": 200 * BATCH}
    assert (found["p50_ms"], found["p99_ms"], found["requests"]) == (1.0, 3.0, 400)


def test_only_users_with_a_full_history_are_asked_and_it_ends_with_their_newest_event() -> None:
    rows = [
        {"user_id": user, "item_id": f"i{n}", "type": "purchase", "time_ms": n, "value": 1.0, "event_id": f"{user}{n}"}
        | {"country": "France"}
        for user, events in (("a", 5), ("b", 2), ("c", 3))
        for n in range(events)
    ]
    found = full_histories(Prepared({}, pl.DataFrame(rows), {}, len(rows)), length=3, count=9, seed=1)
    assert {sequence.user_id: sequence.items for sequence in found} == {
        "a": ["i2", "i3", "i4"],
        "c": ["i0", "i1", "i2"],
    }
    assert found[0].contexts == [{"country": "France"}] * 3


def test_without_trained_towers_the_step_before_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="make bench-train"):
        repositories_in(tmp_path)


def test_the_table_holds_every_figure_beside_what_it_must_reach() -> None:
    window = figures([AnsweredWindow([0.004] * 100, 0.4)])  # 16,000 a second
    parts = (*SIZES, "items", "items_with_text")
    results = {part: {str(n): window for n in IN_FLIGHT} for part in parts}
    results["before_a_request"] = {"ms_for_64_users": {"median": 0.9, "low": 0.8, "high": 1.0}}
    page = io.StringIO()
    Console(width=140, file=page).print(table_of(results))
    lines = page.getvalue().splitlines()
    row = next(line for line in lines if "pooled, 2 in flight" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][1:] == [
        "16,000/s",
        "16,000 to 16,000",
        "4.00",
        "4.00",
        "10,000/s",
        "35,000/s",
        "must",
    ]
    assert {target.verdict(results) for target in TARGETS if target.figure.startswith("transformer")} == {"goal"}
