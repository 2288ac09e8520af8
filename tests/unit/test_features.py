"""Features must be the same on every machine and in every year: towers on disk were trained on them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearline.events import EVENT_TYPES
from nearline.features import (
    AGES,
    DIMENSION,
    HISTORY_LENGTH,
    NUMERIC,
    NUMERIC_COUNT,
    TEXT_BUCKETS,
    TOKEN_COUNT,
    TOKENS,
    TYPE_CODES,
    TYPES,
    VECTORS,
    ages,
    features_digest,
    id_token,
    item_inputs,
    item_numbers,
    item_tokens,
    user_batch,
    user_rows,
)
from nearline.items import Item
from nearline.sequences import Sequence

LANTERN = Item("White metal LANTERN", category="Candles", price=3.39)
HOUR_MS = 3_600_000


def sequence(items: list[str], times_ms: list[int], types: list[str] | None = None) -> Sequence:
    kinds = types or ["click"] * len(items)
    return Sequence("u", 1, items, times_ms, kinds, [1.0] * len(items), [f"e{i}" for i in range(len(items))])


def test_tokens_of_yesterday_are_tokens_of_today() -> None:
    """Golden: the committed towers were trained on exactly these."""
    assert item_tokens("71053", LANTERN)[:8] == [1384616728, 4296, 12740, 18360, 17410, 18303, 6850, 14527]
    assert features_digest() == "fc32a51fb8d9efb6"


def test_case_width_and_repeats_do_not_matter() -> None:
    # The first word is WHITE in the wide letters of East Asian fonts.
    shouted = Item("\uff37\uff28\uff29\uff34\uff25 metal lantern LANTERN metal lantern", category=" candles ")
    assert set(item_tokens("x", Item("white metal lantern", category="candles"))) < set(item_tokens("x", shouted))
    assert len(set(item_tokens("x", shouted))) == len(item_tokens("x", shouted))


def test_the_first_slot_is_the_id_and_nothing_else_depends_on_it() -> None:
    one, other = item_tokens("a", LANTERN), item_tokens("b", LANTERN)
    assert one[0] == id_token("a") != other[0] == id_token("b")
    assert one[1:] == other[1:]


@given(st.text(max_size=200), st.text(max_size=100), st.text(max_size=30), st.text(max_size=30))
def test_any_text_becomes_tokens_within_bounds(title: str, description: str, category: str, brand: str) -> None:
    item = Item(title, description=description, category=category, brand=brand)
    tokens = item_tokens("id", item)
    assert 1 <= len(tokens) <= TOKEN_COUNT
    assert all(1 <= token < TEXT_BUCKETS for token in tokens[1:])
    assert 1 <= tokens[0] < 2**31


@pytest.mark.parametrize("title", ["🕯️", "🕯️🕯️", "שלום עולם", "مصباح أبيض", "白い灯籠", "\u200f\u202eabc", "ﷺ" * 500])
def test_signs_right_to_left_and_unspaced_titles_are_told_apart_from_nothing(title: str) -> None:
    assert len(item_tokens("x", Item(title))) > 1


def test_a_title_of_a_million_letters_costs_as_little_as_one_of_two_thousand() -> None:
    assert item_tokens("x", Item("lamp " * 200_000)) == item_tokens("x", Item("lamp " * 400))
    assert len(item_tokens("x", Item("a" * 1_000_000))) <= TOKEN_COUNT


@pytest.mark.parametrize("price", [None, 0.0, 0.01, 3.39, 1e12])
def test_numbers_are_small_and_finite_at_any_price(price: float | None) -> None:
    numbers = item_numbers(Item("lamp", price=price))
    assert len(numbers) == NUMERIC_COUNT
    assert all(0 <= number <= 3 for number in numbers)
    assert numbers[1] == float(bool(price))


def test_item_inputs_are_the_towers_tensors() -> None:
    inputs = item_inputs([("71053", LANTERN), ("x", Item("lamp"))])
    assert {name: (a.shape, a.dtype.name) for name, a in inputs.items()} == {
        TOKENS: ((2, TOKEN_COUNT), "int32"),
        NUMERIC: ((2, NUMERIC_COUNT), "float32"),
    }
    assert inputs[TOKENS][1, -1] == 0


def test_row_0_is_the_newest_event_and_the_rest_is_padding() -> None:
    """a at 0 h, b at 1 h, c at 3 h   ->   c, b, a, then nothing"""
    rows, ages_, types = user_rows(
        [sequence(["a", "b", "c"], [0, HOUR_MS, 3 * HOUR_MS], ["view", "click", "purchase"])],
        {"a": 10, "c": 12},
    )
    assert rows[0, :4].tolist() == [12, -1, 10, -1]
    assert types[0, :4].tolist() == [TYPE_CODES["purchase"], TYPE_CODES["click"], TYPE_CODES["view"], 0]
    np.testing.assert_allclose(ages_[0, :4], np.log1p([0, 2, 3, 0]), rtol=1e-6)


def test_of_a_longer_history_the_newest_fifty_count() -> None:
    items = [str(number) for number in range(60)]
    rows, _, types = user_rows([sequence(items, list(range(60)))], {item: int(item) for item in items})
    assert rows[0].tolist() == list(range(59, 9, -1))
    assert (types[0] > 0).all()


def test_users_of_one_batch_do_not_touch_each_other() -> None:
    sequences = [sequence(["a"], [5]), sequence(["b", "a"], [1, HOUR_MS + 1]), sequence(["c"], [7])]
    row_of = {"a": 1, "b": 2}
    together = user_rows(sequences, row_of)
    for at, one in enumerate(sequences):
        for whole, alone in zip(together, user_rows([one], row_of), strict=True):
            np.testing.assert_array_equal(whole[at], alone[0])


def test_ages_do_not_know_the_wall_clock() -> None:
    """Shifting a whole history by ten years changes nothing."""
    early, late = sequence(["a", "b"], [0, 9]), sequence(["a", "b"], [315_360_000_000, 315_360_000_009])
    for left, right in zip(user_rows([early], {}), user_rows([late], {}), strict=True):
        np.testing.assert_array_equal(left, right)


def test_an_age_is_never_negative() -> None:
    assert ages(np.array([-5, 0, HOUR_MS])).tolist() == pytest.approx([0, 0, np.log(2)])


def test_a_gathered_batch_masks_what_it_does_not_know() -> None:
    matrix = np.arange(3 * DIMENSION, dtype=np.float16).reshape(3, DIMENSION)
    rows = np.full((1, HISTORY_LENGTH), -1, dtype=np.int32)
    rows[0, :2] = [2, 0]
    types = np.full((1, HISTORY_LENGTH), 2, dtype=np.int32)
    batch = user_batch(matrix, rows, np.ones((1, HISTORY_LENGTH), dtype=np.float32), types)
    np.testing.assert_array_equal(batch[VECTORS][0, :2], matrix[[2, 0]])
    assert not batch[VECTORS][0, 2:].any()
    assert batch[TYPES][0].tolist() == [2, 2] + [0] * 48
    assert batch[AGES][0].tolist() == [1, 1] + [0] * 48
    assert {name: a.dtype.name for name, a in batch.items()} == {VECTORS: "float16", AGES: "float32", TYPES: "int32"}


def test_event_types_keep_their_codes() -> None:
    """A new type goes to the end: the committed towers know these by number."""
    assert [TYPE_CODES[name] for name in EVENT_TYPES] == list(range(1, len(EVENT_TYPES) + 1))
    assert TYPE_CODES["view"] == 1
    assert TYPE_CODES["skip"] == 7
