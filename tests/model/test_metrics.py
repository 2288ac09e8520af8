"""Metrics by hand, as fractions, and against ranx where it means the same."""

import warnings
from collections.abc import Callable
from fractions import Fraction
from math import log2

import numpy as np
import pytest

from training.arrays import Ints, Shares
from training.evaluation import metrics
from training.evaluation.bootstrap import figures, resampled_means
from training.evaluation.metrics import NOTHING, Targets, make_targets, top

Metric = Callable[[Ints, Targets], Shares]


def targets_of(*users: list[int]) -> Targets:
    rows = np.repeat(np.arange(len(users)), [len(items) for items in users])
    return make_targets(rows, np.concatenate([np.array(items) for items in users]), len(users))


def fractions(shares: Shares) -> list[Fraction]:
    return [Fraction(share).limit_denominator(1_000) for share in shares]


def test_recall_divides_by_what_could_have_been_found() -> None:
    found = metrics.recall(np.array([[0, 4], [0, 4], [3, 1]]), targets_of([0, 1, 2], [4], [0]))
    assert fractions(found) == [Fraction(1, 2), Fraction(1), Fraction(0)]


def test_ndcg_counts_a_hit_by_its_place() -> None:
    """Hits at places 2 and 3 of 3; the best ranking has them at 1 and 2."""
    expected = (1 / log2(3) + 1 / log2(4)) / (1 + 1 / log2(3))
    assert metrics.ndcg(np.array([[1, 0, 2]]), targets_of([0, 2]))[0] == pytest.approx(expected)


def test_more_targets_than_places_can_still_be_answered_perfectly() -> None:
    every = targets_of([0, 1, 2, 3, 4])
    for metric in (metrics.recall, metrics.ndcg, metrics.average_precision, metrics.reciprocal_rank):
        assert metric(np.array([[3, 1]]), every)[0] == pytest.approx(1)


def test_average_precision_is_the_precision_at_each_hit() -> None:
    """Hits at 1 and 3 of 4 places, three targets: (1/1 + 2/3) / 3."""
    found = metrics.average_precision(np.array([[7, 5, 8, 6]]), targets_of([7, 8, 9]))
    assert fractions(found) == [Fraction(5, 9)]


def test_reciprocal_rank_looks_at_the_first_hit_only() -> None:
    found = metrics.reciprocal_rank(np.array([[5, 7, 8], [1, 2, 3]]), targets_of([7, 8], [9]))
    assert fractions(found) == [Fraction(1, 2), Fraction(0)]


def test_a_missing_answer_is_never_a_hit() -> None:
    ranked = np.array([[0, NOTHING, NOTHING]])
    assert metrics.hits(ranked, targets_of([0, 1])).tolist() == [[True, False, False]]
    assert metrics.exposure(ranked, 3).tolist() == [1, 0, 0]


def test_places_of_targets_say_where_each_was_answered() -> None:
    ranked = np.array([[4, 2, 0], [2, 4, NOTHING]])
    assert metrics.places(ranked, targets_of([0, 3, 4], [4, 9])).tolist() == [2, 3, 0, 1, 3]


def test_targets_are_sets() -> None:
    twice = make_targets(np.array([1, 0, 1, 1]), np.array([5, 2, 3, 5]), 3)
    assert (twice.user.tolist(), twice.item.tolist(), twice.sizes.tolist()) == ([0, 1, 1], [2, 3, 5], [1, 2, 0])


def test_coverage_novelty_and_gini_of_what_is_shown() -> None:
    """Four items, answered 3, 1, 0, 0 times; seen 2, 0, 1, 1 times in the fit, so shares 3/8, 1/8, 2/8, 2/8."""
    shown = metrics.exposure(np.array([[0, 1], [0, NOTHING], [0, NOTHING]]), 4)
    assert metrics.coverage(shown) == pytest.approx(2 / 4)
    assert metrics.novelty(shown, np.array([2, 0, 1, 1])) == pytest.approx((3 * log2(8 / 3) + log2(8)) / 4)
    # Sum over pairs of |difference| / (2 n^2 mean): (2 * (2 + 3 + 3 + 1 + 1 + 0)) / (2 * 16 * 1)
    assert metrics.gini(shown) == pytest.approx(20 / 32)
    assert metrics.gini(np.array([5, 5, 5])) == pytest.approx(0)
    assert metrics.gini(np.array([0, 0, 9])) == pytest.approx(2 / 3)


def test_equal_scores_rank_by_column_and_forbidden_ones_never() -> None:
    scores = np.array([[1, 1, 2, 1, 1], [-np.inf, 3, -np.inf, 3, -np.inf]], dtype=np.float32)
    assert top(scores, 3).tolist() == [[2, 0, 1], [1, 3, NOTHING]]
    assert top(scores, 9)[1].tolist() == [1, 3] + [NOTHING] * 7


def test_top_is_the_head_of_a_stable_sort() -> None:
    scores = np.random.default_rng(1).integers(0, 12, (60, 80)).astype(np.float32)  # many ties
    for k in (1, 7, 80):
        assert np.array_equal(top(scores, k), np.argsort(-scores, axis=1, kind="stable")[:, :k])


def test_metrics_agree_with_ranx() -> None:
    """NDCG and MRR are the same there; its recall and MAP divide by all targets, ours by min(k, targets)."""
    random = np.random.default_rng(2)
    k, users = 10, 40
    ranked = np.array([random.permutation(60)[:k] for _ in range(users)])
    targets = targets_of(*[random.permutation(60)[: random.integers(1, 25)].tolist() for _ in range(users)])
    theirs = ranx_figures(ranked, targets, k)
    scale = np.minimum(k, targets.sizes) / targets.sizes
    assert (targets.sizes > k).any()
    assert metrics.ndcg(ranked, targets) == pytest.approx(theirs["ndcg"])
    assert metrics.reciprocal_rank(ranked, targets) == pytest.approx(theirs["mrr"])
    assert metrics.recall(ranked, targets) * scale == pytest.approx(theirs["recall"])
    assert metrics.average_precision(ranked, targets) * scale == pytest.approx(theirs["map"])


def ranx_figures(ranked: Ints, targets: Targets, k: int) -> dict[str, Shares]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library's own source, when it is compiled for the first time
        from ranx import Qrels, Run, evaluate

        users = range(len(ranked))
        wanted = {f"{u:03}": {str(i): 1 for i in targets.item[targets.user == u]} for u in users}
        run = {f"{u:03}": {str(i): float(k - place) for place, i in enumerate(ranked[u])} for u in users}
        names = [f"{name}@{k}" for name in ("recall", "ndcg", "map", "mrr")]
        found = evaluate(Qrels(wanted), Run(run), names, return_mean=False)
    return {name.split("@")[0]: values for name, values in found.items()}


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    truth, users, trials = 0.3, 150, 300
    draws = (random.random((trials, users)) < truth).astype(np.float64)
    covered = [f.low <= truth <= f.high for f in figures(draws, seed=4, resamples=400)]
    assert 0.90 <= np.mean(covered) <= 0.985


def test_the_resamples_are_paired_over_metrics_and_made_by_the_seed() -> None:
    values = np.random.default_rng(5).random((1, 30)).repeat(2, axis=0)
    means = resampled_means(values, seed=6, resamples=50)
    assert np.array_equal(means[0], means[1])
    assert np.array_equal(means, resampled_means(values, seed=6, resamples=50))
    assert not np.array_equal(means, resampled_means(values, seed=7, resamples=50))
