"""What is folded into the seen items: of each item and kind the newest, whatever came before and in which order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flink_jobs.last_n.seen_items import NOTHING, SeenItems, united

Told = tuple[int, int, int, int]  # item, kind, time, event
told = st.tuples(st.integers(0, 9), st.integers(1, 3), st.integers(0, 12), st.integers(0, 4))


def items_of(each: list[Told]) -> SeenItems:
    columns = np.array(each, np.int64).reshape(-1, 4)
    items, kinds, times_ms, events = columns.T
    return SeenItems(items.astype(np.uint64), kinds.astype(np.uint8), times_ms, events.astype(np.uint64))


def rows_of(seen: SeenItems) -> list[Told]:
    columns = (seen.items, seen.kinds, seen.times_ms, seen.events)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def one_by_one(known: list[Told], more: list[Told], most: int) -> list[Told]:
    """The same without arrays: the newest of each pair, then all that is not older than the item on the border."""
    newest: dict[tuple[int, int], tuple[int, int]] = {}
    for item, kind, time_ms, event in (*known, *more):
        newest[item, kind] = max((time_ms, event), newest.get((item, kind), (-1, -1)))
    rows = sorted((item, kind, *at) for (item, kind), at in newest.items())
    item_ms: dict[int, int] = {}
    for item, _, time_ms, _ in rows:
        item_ms[item] = max(time_ms, item_ms.get(item, -1))
    if len(item_ms) < most:
        return rows
    border = sorted((time_ms, item) for item, time_ms in item_ms.items())[-most]
    return [row for row in rows if (row[2], row[0]) >= border]


@given(st.lists(st.lists(told, max_size=8), max_size=6), st.integers(1, 11))
def test_every_item_keeps_its_newest_time_however_it_was_told(parts: list[list[Told]], most: int) -> None:
    seen, rows = NOTHING, list[Told]()
    for part in parts:
        rows = one_by_one(rows, part, most)
        seen = united(seen, items_of(part), most=most)
        assert rows_of(seen) == rows


@given(st.lists(told, min_size=1, max_size=12), st.integers(1, 11))
def test_what_was_told_before_is_no_news(part: list[Told], most: int) -> None:
    seen = united(NOTHING, items_of(part), most=most)
    assert united(seen, items_of(part[::-1]), most=most) is seen
