"""Examples are cut by time: nothing of a basket, or after it, is ever in its history."""

import numpy as np
import polars as pl
import pytest

from nearline.features import HISTORY_LENGTH, TYPE_CODES
from training.data.examples import PADDING, Baskets, epoch, item_counts, make_batch, together
from training.data.log import Log, make_log
from training.data.splits import baskets, events_before, newcomers

HOUR_MS = 3_600_000
LATE = 1_000 * HOUR_MS
#          time  0 h        1 h      3 h
STORY = [("ann", "a", 0), ("ann", "b", 0), ("ann", "c", 1), ("ann", "a", 3), ("ann", "d", 3), ("bob", "b", 2)]


def log_of(story: list[tuple[str, str, int]], *, joint: bool = True, **columns: list[str | None]) -> Log:
    rows = [
        {"user_id": user, "item_id": item, "type": "purchase", "time_ms": hour * HOUR_MS, "event_id": f"e{n:03}"}
        for n, (user, item, hour) in enumerate(story)
    ]
    extra = [pl.Series(name, values, dtype=pl.String) for name, values in columns.items()]
    return make_log(pl.DataFrame(rows).with_columns(extra), ["a", "b", "c", "d"], joint=joint)


@pytest.fixture
def log() -> Log:
    return log_of(STORY)


def test_the_items_of_a_basket_are_joint_targets_and_its_history_is_strictly_earlier(log: Log) -> None:
    """ann: [a b] at 0 h, [c] at 1 h, [a d] at 3 h"""
    batch = make_batch(log, baskets(log, before_ms=LATE))
    assert batch.items[0, :3].tolist() == [1, 0, PADDING]  # b, a
    assert batch.items[1, :4].tolist() == [2, 1, 0, PADDING]  # c, b, a
    assert batch.ages[1, :4].tolist() == pytest.approx([0, np.log(2), np.log(2), 0])
    assert batch.types[1, :4].tolist() == [TYPE_CODES["purchase"]] * 3 + [0]
    pairs = list(zip(batch.target_row.tolist(), batch.target_item.tolist(), batch.target_new.tolist(), strict=True))
    assert pairs == [(0, 2, True), (1, 0, False), (1, 3, True)]
    assert batch.target_kind.tolist() == [TYPE_CODES["purchase"]] * 3
    assert batch.time_ms.tolist() == [HOUR_MS, 3 * HOUR_MS]


def test_without_joint_targets_what_stands_earlier_at_the_same_time_is_history() -> None:
    log = log_of(STORY[:2], joint=False)
    batch = make_batch(log, baskets(log, before_ms=LATE))
    assert batch.items[0, :2].tolist() == [0, PADDING]
    assert batch.target_item.tolist() == [1]


def test_a_history_is_as_long_as_the_run_says(log: Log) -> None:
    batch = make_batch(log, baskets(log, before_ms=LATE), length=2)
    assert batch.items.tolist() == [[1, 0], [2, 1]]
    assert batch.ages.shape == batch.types.shape == (2, 2)


def test_no_history_is_all_padding(log: Log) -> None:
    batch = make_batch(log, newcomers(log, before_ms=LATE), length=3)
    assert batch.items.tolist() == [[PADDING] * 3] * 2
    assert not batch.ages.any()
    assert not batch.types.any()
    assert batch.target_item.tolist() == [0, 1, 1]


def test_the_context_is_that_of_the_newest_event_shown_else_that_of_the_target() -> None:
    story = [("ann", "a", 0), ("ann", "b", 1), ("ann", "c", 2), ("bob", "a", 0), ("bob", "b", 1)]
    log = log_of(story, country=["France", None, "Spain", None, "Italy"])
    batch = make_batch(log, baskets(log, before_ms=LATE))
    assert [log.contexts[row]["country"] for row in batch.context] == ["France", "France", "Italy"]
    first = make_batch(log, newcomers(log, before_ms=LATE))
    assert [log.contexts[row] for row in first.context] == [{"country": "France"}, {}]


def test_one_users_context_never_reaches_the_next_user() -> None:
    log = log_of([("ann", "a", 0), ("bob", "a", 1), ("bob", "b", 2)], country=["France", None, None])
    assert make_batch(log, baskets(log, before_ms=LATE)).context.tolist() == [0]


def test_histories_cut_at_random_stay_histories() -> None:
    """Whatever is cut: at least one event is left, all are earlier than the basket, newest first, newest age 0."""
    log = log_of([("ann", "abcd"[n % 4], n) for n in range(120)] + [("bob", "a", 0), ("bob", "b", 5)])
    chosen = baskets(log, before_ms=LATE)
    random = np.random.default_rng(0)
    for _ in range(20):
        batch = make_batch(log, chosen, random=random)
        known = batch.types > 0
        assert known[:, 0].all()
        assert (known[:, :-1] >= known[:, 1:]).all()
        assert (batch.ages[:, 0] == 0).all()
        assert (np.diff(batch.ages)[known[:, 1:]] >= 0).all()
        assert ((batch.items >= 0) == known).all()
    lengths = known.sum(1)
    assert lengths.min() < 5
    assert lengths.max() == HISTORY_LENGTH


def test_histories_hold_no_event_of_the_basket_or_later() -> None:
    """Items are numbered by time, so the newest item shown tells when the history ended."""
    items = [f"{n:03}" for n in range(60)]
    rows = {"user_id": ["ann"] * 60, "item_id": items, "type": ["click"] * 60, "time_ms": range(60)}
    log = make_log(pl.DataFrame(rows), items)
    chosen = together(baskets(log, before_ms=LATE), newcomers(log, before_ms=LATE))
    assert chosen.start.tolist() == list(range(60))
    random = np.random.default_rng(0)
    for _ in range(20):
        batch = make_batch(log, chosen, length=20, random=random)
        assert (batch.items.max(1) < chosen.start).all()
        assert (batch.items[0] == PADDING).all()


def test_an_epoch_has_every_example_once_in_full_batches() -> None:
    log = log_of([("ann", "abcd"[n % 4], n) for n in range(14)])
    examples = baskets(log, before_ms=LATE)  # 13 of them
    random = np.random.default_rng(0)
    seen = [hour for batch in epoch(log, examples, batch_size=4, random=random) for hour in batch.time_ms]
    assert len(seen) == len(set(seen)) == 12


def test_an_epoch_without_examples_has_no_batch(log: Log) -> None:
    nobody = Baskets(*[np.zeros(0, dtype=np.int64)] * 3)
    assert list(epoch(log, nobody, batch_size=4, random=np.random.default_rng(0))) == []


def test_items_are_counted_in_the_chosen_events_only(log: Log) -> None:
    assert item_counts(log, events_before(log, HOUR_MS)).tolist() == [1, 1, 0, 0]
    assert item_counts(log, np.zeros(len(log), dtype=bool)).tolist() == [0, 0, 0, 0]
