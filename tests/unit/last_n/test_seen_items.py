"""What is folded into the seen items: of each item and kind the newest, whatever came before and in which order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flink_jobs.last_n.history import Met
from flink_jobs.last_n.seen_items import (
    NOTHING,
    SeenItems,
    decode_seen_items,
    encode_seen_items,
    fold,
    snapshot_of,
    united,
)
from nearline.events import EVENT_TYPES
from nearline.hashing import hash64
from nearline.seen import MOST_BOUGHT, MOST_ITEMS, decode_seen, encode_seen, parse_seen_policy

Told = tuple[int, int, int, int]  # item, kind, time, event
VIEW, CLICK, PURCHASE = (EVENT_TYPES.index(kind) + 1 for kind in ("view", "click", "purchase"))
told = st.tuples(st.integers(0, 9), st.sampled_from((VIEW, CLICK, PURCHASE)), st.integers(0, 12), st.integers(0, 4))


def items_of(each: list[Told]) -> SeenItems:
    columns = np.array(each, np.int64).reshape(-1, 4)
    items, kinds, times_ms, events = columns.T
    return SeenItems(items.astype(np.uint64), kinds.astype(np.uint8), times_ms, events.astype(np.uint64))


def rows_of(seen: SeenItems) -> list[Told]:
    columns = (seen.items, seen.kinds, seen.times_ms, seen.events)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def one_by_one(known: list[Told], more: list[Told], most: int, most_bought: int) -> list[Told]:
    """The same without arrays: the newest of each pair, then all that is not older than the item on the border, and the
    newest purchases."""
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
    bought = sorted((row[2], row[0]) for row in rows if row[1] == PURCHASE)[-most_bought:]
    return [row for row in rows if (row[2], row[0]) >= border or (row[1] == PURCHASE and (row[2], row[0]) in bought)]


@given(st.lists(st.lists(told, max_size=8), max_size=6), st.integers(1, 11), st.integers(1, 11))
def test_every_item_keeps_its_newest_time_however_it_was_told(
    parts: list[list[Told]], most: int, most_bought: int
) -> None:
    seen, rows = NOTHING, list[Told]()
    for part in parts:
        rows = one_by_one(rows, part, most, most_bought)
        seen = united(seen, items_of(part), most=most, most_bought=most_bought)
        assert rows_of(seen) == rows
    at_once = united(NOTHING, items_of([each for part in parts for each in part]), most=most, most_bought=most_bought)
    assert rows_of(at_once) == rows


@given(st.lists(told, min_size=1, max_size=12), st.integers(1, 11))
def test_what_was_told_before_is_no_news(part: list[Told], most: int) -> None:
    seen = united(NOTHING, items_of(part), most=most)
    assert united(seen, items_of(part[::-1]), most=most) is seen


def events(kind: str, *names: str, from_ms: int) -> list[Met]:
    return [(name, kind, from_ms + nth, f"e-{name}") for nth, name in enumerate(names)]


def test_what_a_person_bought_stays_seen_however_much_they_look_at_afterwards() -> None:
    """A fridge is bought, and a hundred more items than are kept are viewed."""
    policy = parse_seen_policy("")
    views = [f"v{nth}" for nth in range(MOST_ITEMS + 100)]
    seen = fold(NOTHING, events("view", "fridge", from_ms=1), policy)
    seen = fold(seen, events("purchase", "fridge", from_ms=2), policy)
    for at in range(0, len(views), 25):
        seen = fold(seen, events("view", *views[at : at + 25], from_ms=3 + at), policy)
    seen = decode_seen_items(encode_seen_items(seen))
    snapshot = decode_seen(encode_seen(snapshot_of(seen, policy, 7)))
    assert snapshot.hashes[snapshot.bought].tolist() == [hash64("fridge")]
    assert set(snapshot.hashes.tolist()) == {hash64(name) for name in ("fridge", *views[-MOST_ITEMS:])}


def test_purchases_have_a_bound_too() -> None:
    policy = parse_seen_policy("")
    bought = [f"b{nth}" for nth in range(MOST_BOUGHT + 3)]
    seen = fold(NOTHING, events("purchase", *bought, from_ms=1), policy)
    assert set(seen.items.tolist()) == {hash64(name) for name in bought[-MOST_BOUGHT:]}
