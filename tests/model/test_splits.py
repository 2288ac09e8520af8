"""Splits: what is fitted and what is judged never share an event, whichever way they are parted."""

import numpy as np
import polars as pl
import pytest

from nearline.errors import Misconfigured
from training.data.examples import Baskets
from training.data.log import Log, make_log
from training.data.splits import (
    LeaveOneOut,
    Split,
    TimeSplit,
    all_baskets_after,
    baskets,
    every_basket,
    first_baskets_after,
    leave_one_out,
    newcomers,
    stage_of,
)

#          time  0         1         3
STORY = [("ann", 0), ("ann", 0), ("ann", 1), ("ann", 3), ("ann", 3), ("bob", 2)]
LATER = [*STORY, ("bob", 4), ("new", 3), ("new", 4)]
SPLITS: list[Split] = [TimeSplit(2, 4), TimeSplit(2, 4, refit=False), LeaveOneOut(), LeaveOneOut(refit=True)]


def log_of(story: list[tuple[str, int]], *, joint: bool = True) -> Log:
    rows = [
        {"user_id": user, "item_id": "ab"[n % 2], "type": "click", "time_ms": time_ms, "event_id": f"{n:03}"}
        for n, (user, time_ms) in enumerate(story)
    ]
    return make_log(pl.DataFrame(rows), ["a", "b"], joint=joint)


def spans(found: Baskets) -> list[tuple[int, int]]:
    return list(zip(found.start.tolist(), found.end.tolist(), strict=True))


def rows_of(found: Baskets) -> set[int]:
    return {row for start, end in spans(found) for row in range(start, end)}


def test_every_event_is_in_one_basket() -> None:
    assert spans(every_basket(log_of(STORY))) == [(0, 2), (2, 3), (3, 5), (5, 6)]


def test_baskets_with_a_past_are_examples() -> None:
    found = baskets(log_of(STORY), before_ms=10)
    assert spans(found) == [(2, 3), (3, 5)]
    assert found.user_start.tolist() == [0, 0]


def test_a_cut_leaves_later_baskets_out() -> None:
    assert baskets(log_of(STORY), before_ms=3).start.tolist() == [2]


def test_only_known_users_are_judged_and_only_on_their_first_basket_after_the_cut() -> None:
    """bob and new had done nothing before 1."""
    log = log_of(LATER)
    assert spans(first_baskets_after(log, from_ms=1, before_ms=9)) == [(2, 3)]
    assert spans(first_baskets_after(log, from_ms=3, before_ms=9)) == [(3, 5), (6, 7)]


def test_all_baskets_after_a_cut_have_a_history_that_may_reach_into_the_window() -> None:
    log = log_of(LATER)
    assert spans(all_baskets_after(log, from_ms=1)) == [(2, 3), (3, 5), (6, 7), (8, 9)]


def test_newcomers_are_the_users_whom_the_window_brings() -> None:
    log = log_of(LATER)
    found = newcomers(log, from_ms=2, before_ms=4)
    assert spans(found) == [(5, 6), (7, 8)]
    assert (found.start == found.user_start).all()


def test_a_time_split_fits_before_the_cut_and_judges_what_follows() -> None:
    log, split = log_of(LATER), TimeSplit(validate_from_ms=1, test_from_ms=3)
    stage = stage_of(log, split, "validation")
    assert np.flatnonzero(stage.fitted).tolist() == [0, 1]
    assert (spans(stage.fit), spans(stage.fit_first)) == ([], [(0, 2)])
    assert spans(stage.judge) == [(2, 3)]
    assert (stage.cut_ms, spans(stage.newcomers)) == (1, [(5, 6)])
    stage = stage_of(log, split, "test")
    assert np.flatnonzero(stage.fitted).tolist() == [0, 1, 2, 5]
    assert spans(stage.fit) == [(2, 3)]
    assert spans(stage.judge) == [(3, 5), (6, 7)]
    assert spans(stage.judge_all) == [(3, 5), (6, 7), (8, 9)]


def test_an_event_at_the_moment_of_the_cut_is_judged_not_fitted() -> None:
    stage = stage_of(log_of([("ann", 1), ("ann", 2)]), TimeSplit(1, 2), "test")
    assert stage.fitted.tolist() == [True, False]
    assert spans(stage.judge) == [(1, 2)]


def test_leaving_one_out_takes_the_last_two_of_each_user() -> None:
    log = log_of([("ann", time_ms) for time_ms in range(5)] + [("bob", 7), ("bob", 8), ("bob", 9)])
    parts = leave_one_out(log)
    assert spans(parts.test) == [(4, 5), (7, 8)]
    assert spans(parts.validation) == [(3, 4), (6, 7)]
    assert spans(parts.train) == [(1, 2), (2, 3)]


def test_users_of_fewer_than_three_baskets_only_train() -> None:
    log = log_of([("ann", 1), ("ann", 2), ("bob", 1)])
    stage = stage_of(log, LeaveOneOut(), "test")
    assert stage.fitted.all()
    assert len(stage.judge) == 0
    assert spans(stage.fit) == [(1, 2)]


def test_leaving_one_out_follows_the_order_where_times_are_equal() -> None:
    log = log_of([("ann", 1)] * 4, joint=False)
    assert spans(leave_one_out(log).test) == [(3, 4)]
    assert leave_one_out(log).test.user_start.tolist() == [0]


def test_a_joint_basket_is_left_out_whole() -> None:
    stage = stage_of(log_of([("ann", 1), ("ann", 2), ("ann", 3), ("ann", 3)]), LeaveOneOut(), "test")
    assert spans(stage.judge) == [(2, 4)]
    assert stage.fitted.tolist() == [True, False, False, False]


def test_leaving_one_out_has_no_moment_and_no_newcomers() -> None:
    stage = stage_of(log_of([("ann", t) for t in range(4)]), LeaveOneOut(), "validation")
    assert stage.cut_ms is None
    assert len(stage.newcomers) == 0


def test_the_test_of_leave_one_out_fits_what_validation_did_unless_it_refits() -> None:
    log = log_of([("ann", t) for t in range(4)])
    assert stage_of(log, LeaveOneOut(), "test").fitted.tolist() == [True, True, False, False]
    assert stage_of(log, LeaveOneOut(refit=True), "test").fitted.tolist() == [True, True, True, False]
    assert stage_of(log, LeaveOneOut(refit=True), "validation").fitted.tolist() == [True, True, False, False]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", ["validation", "test"])
def test_evaluation_baskets_are_never_in_the_training_part(split: Split, name: str) -> None:
    random = np.random.default_rng(3)
    story = [(f"u{random.integers(20):02}", int(random.integers(7))) for _ in range(300)]
    stage = stage_of(log_of(sorted(story)), split, name)
    fitted = set(np.flatnonzero(stage.fitted).tolist())
    assert len(stage.judge) > 0
    for judged in (stage.judge, stage.judge_all, stage.newcomers):
        assert not fitted & rows_of(judged)
    assert rows_of(stage.fit) | rows_of(stage.fit_first) == fitted
    assert (stage.judge.user_start < stage.judge.start).all()
    assert len(np.unique(stage.judge.user_start)) == len(stage.judge)


def test_the_judged_baskets_of_a_stage_that_does_not_exist_are_refused() -> None:
    with pytest.raises(Misconfigured, match="validation, test"):
        stage_of(log_of(STORY), LeaveOneOut(), "tset")


def test_an_empty_log_splits_into_nothing() -> None:
    empty = make_log(pl.DataFrame(schema={"user_id": str, "item_id": str, "type": str, "time_ms": int}), ["a"])
    for split in SPLITS:
        assert len(stage_of(empty, split, "test").judge) == 0
