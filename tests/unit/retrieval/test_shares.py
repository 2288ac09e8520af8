"""The share of time that folding and measuring take while requests keep the service busy."""

import pytest

from services.retrieval.in_process.loop_budget import EASY_ROWS, MOST_ROWS, SLICE_S, fold_slice_s, measure_slice_s

FOLD_S = 0.0005  # of one row, beside a build


def settled_delta(between_s: float, changes_per_s: float, seconds: float = 120.0) -> float:
    """The most rows of a delta where requests take *between_s* from one slice to the next."""
    delta, now, most = 1_000.0, 0.0, 0.0
    while now < seconds:
        slice_s = fold_slice_s(between_s, round(delta))
        now += between_s + slice_s
        delta = max(1_000.0, delta + (between_s + slice_s) * changes_per_s - slice_s / FOLD_S)
        most = max(most, delta)
    return most


@pytest.mark.parametrize("between_s", [0.001, 0.03, 0.3, 2.0])
def test_a_delta_stays_below_five_thousand_rows_however_long_requests_take(between_s: float) -> None:
    """At 500 changes a second a row that takes half a millisecond is a quarter of all time."""
    assert settled_delta(between_s, 500) <= MOST_ROWS


def test_the_larger_the_delta_the_longer_the_slice() -> None:
    slices = [fold_slice_s(0.5, rows) for rows in range(0, 10_000, 250)]
    assert slices == sorted(slices)
    assert slices[0] < slices[-1] / 10


def test_an_idle_service_works_in_short_slices() -> None:
    assert fold_slice_s(0.0, 50_000) == SLICE_S
    assert measure_slice_s(0.0) == 0


@pytest.mark.parametrize("waited_s", [0.0, 0.01, 1.0, 60.0])
def test_a_small_delta_keeps_no_request_waiting_for_more_than_20_ms(waited_s: float) -> None:
    assert fold_slice_s(waited_s, EASY_ROWS) <= 0.02


def test_requests_keep_a_third_of_the_time_however_large_the_delta_is() -> None:
    assert all(fold_slice_s(waited_s, 1_000_000) <= 1.5 * waited_s + SLICE_S for waited_s in (0.001, 0.1, 1.0))


def test_measuring_takes_a_tenth_of_the_time_and_a_quarter_of_a_second_at_most() -> None:
    assert measure_slice_s(0.1) == pytest.approx(0.01)
    assert measure_slice_s(60.0) == 0.25
