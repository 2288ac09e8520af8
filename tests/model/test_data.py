"""Examples are cut by time: nothing of a basket, or after it, is ever in its history."""

import numpy as np
import polars as pl
import pytest

from nearline.features import HISTORY_LENGTH, TYPE_CODES
from training.data import PADDING, Log, baskets, epoch, first_baskets_after, item_counts, make_batch, make_log

HOUR_MS = 3_600_000
#          time  0 h        1 h      3 h
STORY = [("ann", "a", 0), ("ann", "b", 0), ("ann", "c", 1), ("ann", "a", 3), ("ann", "d", 3), ("bob", "b", 2)]


def log_of(story: list[tuple[str, str, int]]) -> Log:
    rows = [
        {"user_id": user, "item_id": item, "type": "purchase", "time_ms": hour * HOUR_MS, "event_id": f"e{n}"}
        for n, (user, item, hour) in enumerate(story)
    ]
    return make_log(pl.DataFrame(rows), ["a", "b", "c", "d"])


@pytest.fixture
def log() -> Log:
    return log_of(STORY)


def test_baskets_with_a_past_are_examples(log: Log) -> None:
    found = baskets(log, before_ms=10 * HOUR_MS)
    assert list(zip(found.start, found.end, found.user_start, strict=True)) == [(2, 3, 0), (3, 5, 0)]


def test_the_items_of_a_basket_are_joint_targets_and_its_history_is_strictly_earlier(log: Log) -> None:
    """ann: [a b] at 0 h, [c] at 1 h, [a d] at 3 h"""
    batch = make_batch(log, baskets(log, before_ms=10 * HOUR_MS))
    assert batch.items[0, :3].tolist() == [1, 0, PADDING]  # b, a
    assert batch.items[1, :4].tolist() == [2, 1, 0, PADDING]  # c, b, a
    assert batch.ages[1, :4].tolist() == pytest.approx([0, np.log(2), np.log(2), 0])
    assert batch.types[1, :4].tolist() == [TYPE_CODES["purchase"]] * 3 + [0]
    pairs = list(zip(batch.target_row.tolist(), batch.target_item.tolist(), batch.target_new.tolist(), strict=True))
    assert pairs == [(0, 2, True), (1, 0, False), (1, 3, True)]
    assert batch.time_ms.tolist() == [HOUR_MS, 3 * HOUR_MS]


def test_a_cut_leaves_later_baskets_out(log: Log) -> None:
    assert baskets(log, before_ms=3 * HOUR_MS).start.tolist() == [2]
    assert item_counts(log, before_ms=HOUR_MS).tolist() == [1, 1, 0, 0]


def test_only_known_users_are_judged_and_only_on_their_first_basket_after_the_cut() -> None:
    log = log_of([*STORY, ("bob", "d", 4), ("new", "a", 3), ("new", "b", 4)])
    judged = first_baskets_after(log, from_ms=1 * HOUR_MS, before_ms=9 * HOUR_MS)
    assert judged.start.tolist() == [2]  # ann's [c]; bob and new had bought nothing before 1 h
    judged = first_baskets_after(log, from_ms=3 * HOUR_MS, before_ms=9 * HOUR_MS)
    assert [log.time_ms[start] // HOUR_MS for start in judged.start] == [3, 4]  # ann's [a d], bob's [d]


def test_histories_cut_at_random_stay_histories() -> None:
    """Whatever is cut: at least one event is left, all are earlier than the basket, newest first, newest age 0."""
    story = [("ann", "abcd"[n % 4], n) for n in range(120)] + [("bob", "a", 0), ("bob", "b", 5)]
    log = log_of(story)
    chosen = baskets(log, before_ms=1_000 * HOUR_MS)
    random = np.random.default_rng(0)
    for _ in range(20):
        batch = make_batch(log, chosen, random)
        known = batch.types > 0
        assert known[:, 0].all()
        assert (known[:, :-1] >= known[:, 1:]).all()
        assert (batch.ages[:, 0] == 0).all()
        assert (np.diff(batch.ages)[known[:, 1:]] >= 0).all()
        assert ((batch.items >= 0) == known).all()
    lengths = known.sum(1)
    assert lengths.min() < 5
    assert lengths.max() == HISTORY_LENGTH


def test_an_epoch_shows_every_example_once_in_full_batches() -> None:
    log = log_of([("ann", "abcd"[n % 4], n) for n in range(14)])
    examples = baskets(log, before_ms=1_000 * HOUR_MS)  # 13 of them
    seen = [
        hour // HOUR_MS
        for batch in epoch(log, examples, batch_size=4, random=np.random.default_rng(0))
        for hour in batch.time_ms
    ]
    assert len(seen) == len(set(seen)) == 12
