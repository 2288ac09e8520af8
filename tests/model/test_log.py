"""The log's columns: one order, joint or single baskets, contexts as serving merges them, in memory or mapped."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from nearline.features import TYPE_CODES
from training.data.log import COLUMNS, Contexts, Log, columns_of, make_log, only, open_log, write_log

ITEMS = ["a", "b", "c", "d"]
Row = dict[str, object]


def event(user: str, item: str, hour: int, **more: object) -> Row:
    return {"user_id": user, "item_id": item, "type": "click", "time_ms": hour * 3_600_000, **more}


def log_of(*rows: Row, joint: bool = True) -> Log:
    return make_log(pl.DataFrame(list(rows)), ITEMS, joint=joint)


def test_events_are_sorted_by_user_then_time_then_event_id() -> None:
    log = log_of(
        event("bob", "b", 0, event_id="x"),
        event("ann", "c", 2, event_id="x"),
        event("ann", "b", 1, event_id="2"),
        event("ann", "a", 1, event_id="1"),
    )
    assert log.item.tolist() == [0, 1, 2, 1]
    assert log.user.tolist() == [0, 0, 0, 1]
    assert log.user_start.tolist() == [0, 0, 0, 3]
    assert log.users == 2


def test_the_order_column_breaks_ties_before_the_event_id_does() -> None:
    log = log_of(event("ann", "a", 1, order=2, event_id="1"), event("ann", "b", 1, order=1, event_id="2"))
    assert log.item.tolist() == [1, 0]


def test_events_of_one_time_are_one_basket_only_where_they_are_joint() -> None:
    rows = [event("ann", "a", 0), event("ann", "b", 0), event("ann", "c", 1)]
    assert log_of(*rows).basket_start.tolist() == [0, 0, 2]
    assert log_of(*rows, joint=False).basket_start.tolist() == [0, 1, 2]


def test_two_users_at_one_time_are_two_baskets() -> None:
    assert log_of(event("ann", "a", 0), event("bob", "a", 0)).basket_start.tolist() == [0, 1]


def test_the_first_time_is_once_for_each_user_and_item() -> None:
    log = log_of(event("ann", "a", 0), event("ann", "a", 1), event("ann", "b", 2), event("bob", "a", 0))
    assert log.first_time.tolist() == [True, False, True, True]


def test_types_are_the_models_codes() -> None:
    rows = [{**event("ann", "a", hour), "type": kind} for hour, kind in enumerate(TYPE_CODES)]
    assert log_of(*rows).kind.tolist() == list(TYPE_CODES.values())


def test_a_context_is_the_newest_value_of_each_signal_up_to_the_event() -> None:
    """country is told first, the device with the third event; a user who tells nothing has row 0."""
    log = log_of(
        event("ann", "a", 0, country=None, device=None),
        event("ann", "b", 1, country="France", device=None),
        event("ann", "c", 2, country=None, device="phone"),
        event("bob", "c", 2, country="", device=None),
    )
    assert log.contexts[0] == {}
    assert [log.contexts[row] for row in log.context] == [
        {},
        {"country": "France"},
        {"country": "France", "device": "phone"},
        {},
    ]


def test_interests_are_lists() -> None:
    log = log_of(event("ann", "a", 0, interests="tea|dogs|tea"))
    assert log.contexts[log.context[0]] == {"interests": ["tea", "dogs"]}


def test_equal_contexts_share_a_row() -> None:
    log = log_of(*(event(user, "a", 0, country="France") for user in ("ann", "bob", "cem")))
    assert log.context.tolist() == [1, 1, 1]


def test_a_log_of_some_events_is_the_log_of_these_events() -> None:
    rows = [
        event("ann", "a", 0),
        event("ann", "a", 1),
        event("ann", "b", 1),
        event("bob", "c", 3),
        event("bob", "a", 4),
    ]
    kept = np.array([False, True, True, False, True])
    left, expected = only(log_of(*rows), kept), log_of(*(row for row, keep in zip(rows, kept, strict=True) if keep))
    same(left, expected)


def test_a_log_of_no_events_is_empty() -> None:
    log = only(log_of(event("ann", "a", 0)), np.array([False]))
    assert len(log) == log.users == 0


def test_a_log_written_in_parts_is_the_log_of_all(tmp_path: Path) -> None:
    rows = [
        event(user, item, hour, country=land, value=hour / 2)
        for user, land in (("ann", "France"), ("bob", "Spain"), ("cem", "France"))
        for hour, item in enumerate("abac")
    ]
    contexts = Contexts()
    parts = [pl.DataFrame([row for row in rows if row["user_id"] in users]) for users in (("ann", "bob"), ("cem",))]
    write_log((columns_of(part, ITEMS, contexts, joint=True) for part in parts), contexts, tmp_path)
    read = open_log(tmp_path, ITEMS)
    assert isinstance(read.item, np.memmap)
    same(read, log_of(*rows))


def test_an_empty_log_can_be_written_and_read(tmp_path: Path) -> None:
    write_log([], Contexts(), tmp_path)
    assert len(open_log(tmp_path, ITEMS)) == 0


def test_an_item_that_is_not_in_the_catalogue_is_refused() -> None:
    with pytest.raises(pl.exceptions.PolarsError, match="z"):
        log_of(event("ann", "z", 0))


def same(left: Log, right: Log) -> None:
    assert left.item_ids == right.item_ids
    assert left.contexts == right.contexts
    for name in COLUMNS:
        column, other = getattr(left, name), getattr(right, name)
        assert column.dtype == other.dtype
        assert column.tolist() == other.tolist(), name
