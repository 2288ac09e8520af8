"""The graph is searched no wider than its recall demands, and no width is measured that need not be."""

import asyncio

import numpy as np
import pytest

from services.retrieval.widths import WIDTHS, Sample, Widths, least_width, made_up_queries


def settled(start: int, enough_from: float) -> tuple[int, list[int]]:
    """The width that is found, and those that were measured, where every width from *enough_from* is enough."""
    measured: list[int] = []

    async def is_enough(width: int) -> bool:
        measured.append(width)
        return width >= enough_from

    return asyncio.run(least_width(start, is_enough)), measured


@pytest.mark.parametrize("start", [10, 50, 128, 1_000])
@pytest.mark.parametrize("enough_from", WIDTHS)
def test_the_least_width_that_is_enough_is_found_from_anywhere(start: int, enough_from: int) -> None:
    assert settled(start, enough_from)[0] == enough_from


def test_where_nothing_changed_two_widths_are_measured() -> None:
    assert settled(128, 128) == (128, [128, 112])


def test_where_nothing_is_enough_the_widest_is_taken() -> None:
    assert settled(128, 1e9)[0] == WIDTHS[-1]


def test_few_results_are_searched_as_wide_as_ten_need_and_many_in_proportion() -> None:
    widths = Widths(of_10=96, of_50=80)
    assert [widths.of(results) for results in (1, 10, 50, 100, 500)] == [96, 96, 96, 160, 800]


def test_the_truth_is_that_of_the_live_rows() -> None:
    random = np.random.default_rng(1)
    vectors = random.standard_normal((300, 8)).astype(np.float32)
    live = random.random(300) < 0.5
    queries = random.standard_normal((20, 8)).astype(np.float32)
    for query, true in zip(queries, Sample(queries, live, vectors).truth(), strict=True):
        order = [row for row in np.argsort(-(vectors @ query)).tolist() if live[row]]
        assert true.tolist() == order[:50]


def test_fewer_rows_than_results_are_all_true() -> None:
    vectors = np.diag(np.float32([4, 3, 2, 1]))
    sample = Sample(np.ones((1, 4), np.float32), np.array([True, False, True, True]), vectors)
    assert [true.tolist() for true in sample.truth()] == [[0, 2, 3]]


def test_made_up_users_have_unit_norm_and_are_the_same_each_time() -> None:
    vectors = np.random.default_rng(2).standard_normal((500, 16)).astype(np.float32)
    queries = made_up_queries(np.arange(500), vectors)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(queries, made_up_queries(np.arange(500), vectors))
