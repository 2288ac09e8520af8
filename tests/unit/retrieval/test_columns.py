"""Columns and masks: what passes a filter, whatever came, changed and went since it was last asked for."""

import tracemalloc
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nearline.filters import FilterError, Node, parse
from nearline.item_vectors import ItemFields
from services.retrieval.in_process import columns as module
from services.retrieval.in_process.columns import FieldColumns, Journal
from services.retrieval.in_process.masks import Masks
from tests.support.expressions import FIELDS, FILTERS, Meaning
from tests.support.properties import examples

SLOTS = [*range(12), 1_023, 1_024, 2_500]


class Shelf:
    """Items by slot in a plain dict, and the same in columns."""

    def __init__(self, columns: FieldColumns | None = None) -> None:
        self.columns = columns or FieldColumns()
        self.masks = Masks(self.columns, most=3)
        self.items: dict[int, dict[str, Any]] = {}

    def put(self, slot: int, item: dict[str, Any]) -> None:
        self.clear(slot)
        self.columns.put(slot, ItemFields("title", **item))
        self.items[slot] = item

    def clear(self, slot: int) -> None:
        if slot in self.items:
            self.columns.clear(slot, self.items.pop(slot).get("attributes", {}))

    def check(self, meaning: Meaning) -> None:
        expression, passes = meaning
        rows = self.masks.rows(parse(expression))
        expected = sorted(slot for slot, item in self.items.items() if passes(item))
        assert np.flatnonzero(rows.passing).tolist() == rows.slots.tolist() == expected
        assert rows.count == len(expected)


STEPS = st.lists(st.tuples(st.sampled_from(SLOTS), st.none() | FIELDS, st.integers(0, 7)), max_size=40)


@given(st.lists(FILTERS, min_size=1, max_size=5), STEPS)
@examples(150)
def test_the_mask_equals_the_filter_applied_to_each_item(filters: list[Meaning], steps: list[Any]) -> None:
    """Five filters for a cache of three, each asked for now and then; slots are used again, far apart and reordered."""
    shelf = Shelf()
    for slot, item, asked in steps:
        if item is None:
            shelf.clear(slot)
        else:
            shelf.put(slot, item)
        if asked < len(filters):
            shelf.check(filters[asked])
    for meaning in filters:
        shelf.check(meaning)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.6, 1.0])
def test_an_attribute_on_few_items_and_on_many_means_the_same(share: float) -> None:
    """5,000 slots change 20,000 times: columns are sorted, become dense, and grow."""
    random, shelf = np.random.default_rng(7), Shelf()
    number: Meaning = ("attributes.n < 3 or attributes.n = 7", lambda item: _number(item) in (0, 1, 2, 7))
    text: Meaning = ('attributes.n in ("t5", "t6")', lambda item: item["attributes"].get("n") in ("t5", "t6"))
    for nth in range(20_000):
        slot = int(random.integers(0, 1_000 + nth // 5))
        value = [int(random.integers(0, 9)), f"t{random.integers(0, 9)}", True][nth % 3]
        attributes = {"n": value} if random.random() < share else {}
        shelf.put(slot, {"attributes": attributes})
        if nth % 999 == 0:
            shelf.check(number)
            shelf.check(text)
    shelf.check(number)
    shelf.check(text)


def _number(item: Mapping[str, Any]) -> Any:
    value = item["attributes"].get("n")
    return None if isinstance(value, bool) else value


def test_an_attribute_that_was_common_may_become_rare() -> None:
    """The first 900 items have it, and of the next 20,000 one in a hundred."""
    shelf = Shelf()
    for slot in range(21_000):
        has = slot < 900 or slot % 100 == 0
        shelf.put(slot, {"attributes": {"a": slot % 7, "b": f"t{slot % 5}"} if has else {}})
    shelf.check(("attributes.a >= 5", lambda item: item["attributes"].get("a", 0) >= 5))
    shelf.check(('attributes.b = "t0"', lambda item: item["attributes"].get("b") == "t0"))
    for slot in (3, 10, 899, 20_900):
        shelf.clear(slot)
    shelf.check(("attributes.a is missing", lambda item: "a" not in item["attributes"]))


def test_case_and_type_make_values_different() -> None:
    shelf = Shelf()
    for slot, value in enumerate(["Red", "red", "1", 1, 1.0, True]):
        shelf.put(slot, {"attributes": {"a": value}})

    def passing(expression: str) -> list[int]:
        return [int(slot) for slot in shelf.masks.rows(parse(expression)).slots]

    assert passing('attributes.a = "red"') == [1]
    assert passing('attributes.a = "1"') == [2]
    assert passing("attributes.a = 1") == [3, 4]
    assert passing("attributes.a = true") == [5]
    assert passing("attributes.a != true") == [0, 1, 2, 3, 4]
    assert passing("attributes.a >= 0") == [3, 4]


class Counted(FieldColumns):
    """Columns that remember how many slots they looked at, each time."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[int] = []

    def passing(self, node: Node, slots: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
        self.looks.append(self.slots if slots is None else len(slots))
        return super().passing(node, slots)


def test_only_what_changed_is_looked_at_again() -> None:
    counted, wanted = Counted(), parse("price < 100")
    shelf = Shelf(counted)
    for slot in range(5_000):
        shelf.put(slot, {"price": float(slot)})
    for slots in ((7, 7), (8,), (), (4_000, 5_000)):
        assert shelf.masks.rows(wanted).count == 100
        for slot in slots:
            shelf.put(slot, {"price": 5.0})
    assert shelf.masks.rows(wanted).count == 102
    assert counted.looks == [counted.slots, 1, 1, 2]


def test_a_filter_that_was_long_not_asked_for_is_made_anew() -> None:
    shelf, wanted = Shelf(), ("price = 1", lambda item: item["price"] == 1)
    for slot in range(2_000):
        shelf.put(slot, {"price": 1.0})
    shelf.check(wanted)
    for nth in range(module._JOURNAL + 10):
        shelf.put(nth % 100, {"price": 2.0})
    shelf.check(wanted)


def test_a_journal_forgets_the_older_half() -> None:
    journal = Journal()
    for slot in range(module._JOURNAL + 1):
        journal.note(slot % 10)
    assert journal.since(0) is None
    assert journal.end == module._JOURNAL + 1
    assert journal.since(journal.end - 2).tolist() == [5, 6]  # type: ignore[union-attr]
    assert journal.since(journal.end).tolist() == []  # type: ignore[union-attr]


def test_masks_keep_to_their_bounds() -> None:
    shelf = Shelf()
    for slot in range(3_000):
        shelf.put(slot, {"price": float(slot)})
    masks = Masks(shelf.columns, most=10, most_bytes=20_000)
    for bound in range(30):
        masks.rows(parse(f"price < {bound}"))
    assert len(masks) == 20_000 // shelf.columns.slots
    masks = Masks(shelf.columns, most=10, most_bytes=10**9)
    first = masks.rows(parse("price < 0"))
    for bound in range(30):
        masks.rows(parse(f"price < {bound}"))
        assert masks.rows(parse("price < 0")) is first
    assert len(masks) == 10


def test_many_rare_attributes_cost_what_few_common_ones_do() -> None:
    """6,400 attributes on a hundredth of 4,000 items each; a value at every slot for each would take 210 MB."""
    random = np.random.default_rng(3)
    tracemalloc.start()
    try:
        columns = FieldColumns()
        columns.reserve(4_000)
        for slot in range(4_000):
            names = random.integers(0, 6_400, 64).tolist()
            columns.put(slot, ItemFields("t", attributes={f"a{name}": slot for name in names}))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 50e6
    assert columns.passing(parse("attributes.a17 is not missing").node).sum() > 10


def test_an_attribute_that_no_item_has_is_refused_with_those_that_are_like_it() -> None:
    shelf = Shelf()
    shelf.columns.check(parse("attributes.anything = 1"))  # no item is available yet: the attribute may come
    shelf.put(0, {"attributes": {"colour": "red", "two words": 1}})
    shelf.columns.check(parse('attributes.colour != "blue" and attributes."two words" < 3'))
    with pytest.raises(FilterError, match=r"did you mean attributes\.colour\?") as refused:
        shelf.columns.check(parse('price < 3 or attributes.color = "red"'))
    assert refused.value.position == 13
    with pytest.raises(FilterError, match=r'did you mean attributes\."two words"\?'):
        shelf.columns.check(parse("attributes.twowords is missing"))
    shelf.put(0, {"attributes": {}})
    with pytest.raises(FilterError, match="no item has the attribute 'colour'"):
        shelf.columns.check(parse('attributes.colour = "red"'))


def test_an_attribute_of_another_type_than_every_items_is_refused() -> None:
    shelf = Shelf()
    shelf.put(0, {"attributes": {"size": "M"}})
    shelf.put(1, {"attributes": {"size": 38}})
    for fits in ('attributes.size in ("M", true)', "attributes.size < 40", "attributes.size is missing"):
        shelf.columns.check(parse(fits))
    with pytest.raises(FilterError, match="'size' is a number or text") as refused:
        shelf.columns.check(parse("price < 3 and attributes.size = true"))
    assert refused.value.position == 14
    shelf.clear(1)
    with pytest.raises(FilterError, match="'size' is text"):
        shelf.columns.check(parse("attributes.size >= 38"))
