"""The graph is searched no wider than its recall demands, and no width is measured that need not be."""

import numpy as np
import pytest

from services.retrieval.in_process.widths import WIDTHS, Moment, Settling, Widths, made_up_queries, rough_width


def settled(start: int, enough_from: float) -> tuple[int, list[int]]:
    """The width that is found, and those that were tried, where every width from *enough_from* is enough."""
    tried: list[int] = []
    settling = Settling(start, 0.9)
    while settling.width is None:
        widths = settling.untried()
        assert widths, "or it would never end"
        tried += widths
        settling.learn({width: float(width >= enough_from) for width in widths})
    return settling.width, tried


@pytest.mark.parametrize("start", [10, 50, 128, 1_000])
@pytest.mark.parametrize("enough_from", WIDTHS)
def test_the_least_width_that_is_enough_is_found_from_anywhere(start: int, enough_from: int) -> None:
    assert settled(start, enough_from)[0] == enough_from


def test_an_unchanged_graph_needs_three_widths_in_one_measurement() -> None:
    assert settled(128, 128) == (128, [112, 128, 144])


def test_the_widest_search_is_used_when_none_reaches_the_recall() -> None:
    assert settled(128, 1e9)[0] == WIDTHS[-1]


def test_a_rough_width_is_the_least_that_is_enough_or_the_greatest() -> None:
    assert rough_width({16: 0.5, 80: 0.97, 160: 0.99}, 0.95) == 80
    assert rough_width({16: 0.5, 80: 0.6, 160: 0.7}, 0.95) == 160


def test_few_results_are_searched_as_wide_as_ten_need_and_many_in_proportion() -> None:
    widths = Widths(of_10=96, of_50=80)
    assert [widths.of(results) for results in (1, 10, 30, 50, 100, 500)] == [96, 96, 88, 80, 160, 800]


def test_possible_exclusions_widen_the_search_by_a_quarter() -> None:
    widths = Widths(of_10=96, of_50=80)
    assert [widths.beside(50, spare) for spare in (0, 32, 40, 228)] == [80, 88, 90, 278]


def cut_at(key: int) -> int:
    return key


def test_recall_is_measured_against_the_live_rows() -> None:
    random = np.random.default_rng(1)
    vectors = random.standard_normal((300, 8)).astype(np.float32)
    live = random.random(300) < 0.5
    for query in random.standard_normal((20, 8)).astype(np.float32):
        order = np.array([row for row in np.argsort(-(vectors @ query)).tolist() if live[row]])
        moment = Moment(query, live, vectors)
        assert moment.recall({50: order[:50], 10: order[:10]}, cut_at) == {50: 1.0, 10: 1.0}
        assert moment.recall({50: order[25:75], 10: order[9:20]}, cut_at) == {50: 0.5, 10: 0.1}


def test_fewer_rows_than_results_can_all_be_found() -> None:
    vectors = np.diag(np.array([4, 3, 2, 1], np.float32))
    moment = Moment(np.ones(4, np.float32), np.array([True, False, True, True]), vectors)
    assert moment.recall({50: np.array([0, 2, 3])}, cut_at) == {50: 1.0}
    assert moment.recall({2: np.array([0, 3])}, cut_at) == {2: 0.5}


def test_a_row_as_near_as_the_last_true_one_counts() -> None:
    """Twenty copies of one vector: any ten of them are the ten nearest."""
    moment = Moment(np.ones(3, np.float32), np.ones(20, bool), np.ones((20, 3), np.float32))
    assert moment.recall({10: np.arange(10, 20)}, cut_at) == {10: 1.0}
    assert moment.recall({10: np.arange(5)}, cut_at) == {10: 0.5}


def test_made_up_users_have_unit_norm_and_are_the_same_each_time() -> None:
    vectors = np.random.default_rng(2).standard_normal((500, 16)).astype(np.float32)
    queries = made_up_queries(np.arange(500), vectors)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(queries, made_up_queries(np.arange(500), vectors))
