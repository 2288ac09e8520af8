"""Metrics by hand, as fractions."""

from fractions import Fraction
from math import log2

import numpy as np
import pytest

from training.data import Baskets
from training.evaluate import Question, judge, ndcg, recall, table, top

NOBODY = Baskets(np.array([0]), np.array([1]), np.array([0]))


def question(targets: list[int], seen: list[int], items: int = 6) -> Question:
    asked = np.zeros((2, 1, items), dtype=bool)
    asked[0, 0, targets] = True
    asked[1, 0, seen] = True
    return Question(NOBODY, asked[0], asked[1])


def test_recall_divides_by_what_could_have_been_found() -> None:
    targets = np.array([[1, 1, 1, 0, 0], [0, 0, 0, 0, 1]], dtype=bool)
    ranked = np.array([[0, 4], [0, 4]])
    assert [Fraction(r).limit_denominator() for r in recall(ranked, targets)] == [Fraction(1, 2), Fraction(1, 1)]


def test_ndcg_counts_a_hit_by_its_place() -> None:
    targets = np.array([[1, 0, 1, 0]], dtype=bool)
    # Hits at places 2 and 3 of 3; the best ranking has them at 1 and 2.
    expected = (1 / log2(3) + 1 / log2(4)) / (1 + 1 / log2(3))
    assert ndcg(np.array([[1, 0, 2]]), targets)[0] == pytest.approx(expected)


def test_equal_scores_rank_by_column() -> None:
    assert top(np.zeros((1, 5), dtype=np.float32), 3).tolist() == [[0, 1, 2]]


def test_new_items_only_takes_repeats_out_of_targets_and_answers() -> None:
    """scores: 0 > 1 > 2 > 3 > 4 > 5, bought now: 0, 2, 4, bought before: 0, 1"""
    scores = -np.arange(6, dtype=np.float32)[None, :]
    figures = judge(scores, question([0, 2, 4], [0, 1]), k=2)
    assert Fraction(figures["recall@2_new"]).limit_denominator() == Fraction(1, 2)  # answers 2, 3; targets 2, 4
    assert Fraction(figures["recall@2_all"]).limit_denominator() == Fraction(1, 2)  # answers 0, 1; two of three fit


def test_a_user_who_only_repeats_is_not_asked_for_new_items() -> None:
    scores = np.zeros((2, 6), dtype=np.float32)
    both = [question([0], [0]), question([1], [0])]
    asked = Baskets(np.array([0, 1]), np.array([1, 2]), np.array([0, 0]))
    joined = Question(asked, np.vstack([q.targets for q in both]), np.vstack([q.seen for q in both]))
    figures = judge(scores, joined, k=1)
    assert (figures["users_new"], figures["users_all"]) == (1, 2)
    assert figures["recall@1_new"] == 1


def test_the_table_has_a_row_for_each_ranking() -> None:
    lines = table({"one": {"recall@1_new": 0.5, "users_new": 3}, "two": {"recall@1_new": 0.25}}).splitlines()
    assert [line.split() for line in lines] == [["recall@1_new"], ["one", "0.5000"], ["two", "0.2500"]]
