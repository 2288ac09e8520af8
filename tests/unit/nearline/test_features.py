"""Features must be the same on every machine and in every year: towers on disk were trained on them."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nearline.errors import Misconfigured
from nearline.events import EVENT_TYPES
from nearline.features import (
    AGES,
    ATTENTION_MASK,
    CONTEXT,
    CONTEXT_COUNT,
    DIMENSION,
    INPUT_IDS,
    TEXT_BUCKETS,
    TOKEN_COUNT,
    TOKENS,
    TYPE_CODES,
    TYPES,
    VECTORS,
    Features,
    TextEncoder,
    ages,
    context_token,
    digest_of,
    features_of,
    id_token,
    sentence,
)
from nearline.items import Attribute, Item
from nearline.sequences import UserSequence
from nearline.signals import Context

FEATURES = Features()
LANTERN = Item("White metal LANTERN", category="Candles", price=3.39)
HOUR_MS = 3_600_000


def sequence(
    items: list[str],
    times_ms: list[int],
    types: list[str] | None = None,
    contexts: list[Context | None] | None = None,
) -> UserSequence:
    kinds, ids = types or ["click"] * len(items), [f"e{i}" for i in range(len(items))]
    return UserSequence("u", 1, items, times_ms, kinds, [1.0] * len(items), ids, contexts or [])


def test_tokens_of_yesterday_are_tokens_of_today() -> None:
    """Golden: the committed towers were trained on exactly these."""
    assert FEATURES.item_tokens("71053", LANTERN)[:8] == [1384616728, 4296, 12740, 18360, 17410, 18303, 6850, 14527]
    parts: dict[str, Attribute] = {"colour": "red|blue", "size": 90.0, "new": True}
    mug = Item("Becher", "für Tee", "Mugs", "de", 3.39, "ACME", attributes=parts)
    assert FEATURES.item_tokens("m", mug) == [
        *(537974759, 14407, 14781, 19647, 4116),  # id, category, brand, locale, title
        *(8430, 12010, 15938, 18898),  # colours, new, size
        *(18046, 6583),  # description
        *(14773, 17822, 6619, 7941, 7398, 14198),  # trigrams of the title
    ]
    context = {"country": "United Kingdom", "device": "phone", "referrer": "search", "interests": ["tea", "lamps"]}
    assert FEATURES.user_context([context]).tolist() == [[2183, 1607, 239, 3326, 1462, 0, 0, 0]]
    assert FEATURES.digest == "afd2599f91b495ea"


def test_case_width_and_repeats_do_not_matter() -> None:
    # The first word is WHITE in the wide letters of East Asian fonts.
    shouted = Item("\uff37\uff28\uff29\uff34\uff25 metal lantern LANTERN metal lantern", category=" candles ")
    assert set(FEATURES.item_tokens("x", Item("white metal lantern", category="candles"))) < set(
        FEATURES.item_tokens("x", shouted)
    )
    assert len(set(FEATURES.item_tokens("x", shouted))) == len(FEATURES.item_tokens("x", shouted))


def test_the_first_slot_is_the_id_and_nothing_else_depends_on_it() -> None:
    one, other = FEATURES.item_tokens("a", LANTERN), FEATURES.item_tokens("b", LANTERN)
    assert one[0] == id_token("a") != other[0] == id_token("b")
    assert one[1:] == other[1:]


@given(st.text(max_size=200), st.text(max_size=100), st.text(max_size=30), st.text(max_size=30))
def test_any_text_becomes_tokens_within_bounds(title: str, description: str, category: str, brand: str) -> None:
    item = Item(title, description=description, category=category, brand=brand)
    tokens = FEATURES.item_tokens("id", item)
    assert 1 <= len(tokens) <= TOKEN_COUNT
    assert all(1 <= token < TEXT_BUCKETS for token in tokens[1:])
    assert 1 <= tokens[0] < 2**31


@pytest.mark.parametrize("title", ["🕯️", "🕯️🕯️", "שלום עולם", "مصباح أبيض", "白い灯籠", "\u200f\u202eabc", "ﷺ" * 500])
def test_signs_right_to_left_and_unspaced_titles_are_told_apart_from_nothing(title: str) -> None:
    assert len(FEATURES.item_tokens("x", Item(title))) > 1


def test_a_title_of_a_million_letters_costs_as_little_as_one_of_two_thousand() -> None:
    assert FEATURES.item_tokens("x", Item("lamp " * 200_000)) == FEATURES.item_tokens("x", Item("lamp " * 400))
    assert len(FEATURES.item_tokens("x", Item("a" * 1_000_000))) <= TOKEN_COUNT


@pytest.mark.parametrize("price", [None, 0.0, 0.01, 3.39, 1e12])
def test_numbers_are_small_and_finite_at_any_price(price: float | None) -> None:
    numbers = FEATURES.item_numbers(Item("lamp", price=price))
    assert len(numbers) == FEATURES.numeric_count
    assert all(0 <= number <= 3 for number in numbers)
    assert numbers[1] == float(bool(price))


def test_item_inputs_are_the_towers_tensors() -> None:
    inputs = FEATURES.item_inputs([("71053", LANTERN), ("x", Item("lamp"))])
    assert shapes(inputs, rows=2) == FEATURES.item_tensors()
    assert inputs[TOKENS][1, -1] == 0


def shapes(arrays: dict[str, NDArray[Any]], *, rows: int) -> dict[str, tuple[str, list[int]]]:
    """Type and shape of arrays as Triton would write them, without the batch, which must be *rows*."""
    assert {len(array) for array in arrays.values()} == {rows}
    kinds = {"int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32"}
    return {name: (kinds[array.dtype.name], list(array.shape[1:])) for name, array in arrays.items()}


def counted(texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Stands for a tokenizer of length 8: as many 7s as a text has words."""
    mask = np.array([[int(at < len(text.split())) for at in range(8)] for text in texts], np.int64)
    return mask * 7, mask


def test_towers_with_a_text_encoder_read_its_tokens_of_title_and_description() -> None:
    features = Features(text_encoder=TextEncoder("ab" * 32, 8))
    inputs = features.item_inputs([("x", Item("Lamp", description="for tea")), ("y", Item("a mug"))], counted)
    assert shapes(inputs, rows=2) == features.item_tensors()
    assert inputs[ATTENTION_MASK].sum(axis=1).tolist() == [3, 2]
    assert inputs[INPUT_IDS][1].tolist() == [7, 7, 0, 0, 0, 0, 0, 0]
    assert sentence(Item("Lamp", description="for tea")) == "Lamp. for tea"


def test_a_text_encoder_without_its_tokenizer_is_refused_by_the_settings_name() -> None:
    with pytest.raises(Misconfigured, match="NEARLINE_TOKENIZER"):
        Features(text_encoder=TextEncoder("ab" * 32, 8)).item_inputs([("x", LANTERN)])


def test_tokens_of_the_last_declared_signals_are_cut_first() -> None:
    long = Item(
        " ".join(f"first{at}" for at in range(20)),
        category="candles",
        locale="en",
        attributes={f"a{at:02}": "x" for at in range(30)},
    )
    full = FEATURES.item_tokens("x", long)
    short = Features(token_count=10).item_tokens("x", long)
    assert (len(full), len(short)) == (TOKEN_COUNT, 10)
    assert full[:10] == short


def test_row_0_is_the_newest_event_and_the_rest_is_padding() -> None:
    """a at 0 h, b at 1 h, c at 3 h   ->   c, b, a, then nothing"""
    rows, ages_, types = FEATURES.user_rows(
        [sequence(["a", "b", "c"], [0, HOUR_MS, 3 * HOUR_MS], ["view", "click", "purchase"])],
        {"a": 10, "c": 12},
    )
    assert rows[0, :4].tolist() == [12, -1, 10, -1]
    assert types[0, :4].tolist() == [TYPE_CODES["purchase"], TYPE_CODES["click"], TYPE_CODES["view"], 0]
    np.testing.assert_allclose(ages_[0, :4], np.log1p([0, 2, 3, 0]), rtol=1e-6)


def test_a_long_history_is_cut_to_its_newest_fifty_events() -> None:
    items = [str(number) for number in range(60)]
    rows, _, types = FEATURES.user_rows([sequence(items, list(range(60)))], {item: int(item) for item in items})
    assert rows[0].tolist() == list(range(59, 9, -1))
    assert (types[0] > 0).all()


def test_users_of_one_batch_do_not_touch_each_other() -> None:
    sequences = [sequence(["a"], [5]), sequence(["b", "a"], [1, HOUR_MS + 1]), sequence(["c"], [7])]
    row_of = {"a": 1, "b": 2}
    together = FEATURES.user_rows(sequences, row_of)
    for at, one in enumerate(sequences):
        for whole, alone in zip(together, FEATURES.user_rows([one], row_of), strict=True):
            np.testing.assert_array_equal(whole[at], alone[0])


def test_ages_do_not_know_the_wall_clock() -> None:
    """Shifting a whole history by ten years changes nothing."""
    early, late = sequence(["a", "b"], [0, 9]), sequence(["a", "b"], [315_360_000_000, 315_360_000_009])
    for left, right in zip(FEATURES.user_rows([early], {}), FEATURES.user_rows([late], {}), strict=True):
        np.testing.assert_array_equal(left, right)


def test_an_age_is_never_negative() -> None:
    assert ages(np.array([-5, 0, HOUR_MS])).tolist() == pytest.approx([0, 0, np.log(2)])


def gathered(features: Features, codes: list[int], rows: list[int]) -> dict[str, NDArray[Any]]:
    """The batch of one user with events of these types, newest first, in these rows of a matrix of three."""
    length = features.history_length
    matrix = np.arange(3 * DIMENSION, dtype=np.float16).reshape(3, DIMENSION) + 1
    row_index, types = np.full((1, length), -1, np.int32), np.full((1, length), 2, np.int32)
    row_index[0, : len(rows)], types[0, : len(codes)] = rows, codes
    ones = np.ones((1, length), np.float32)
    return features.user_batch(matrix, row_index, ones, types, features.user_context([{"device": "phone"}]))


def test_a_gathered_batch_masks_what_it_does_not_know() -> None:
    batch = gathered(FEATURES, [2, 2], [2, 0])
    np.testing.assert_array_equal(batch[VECTORS][0, :2, 0], [2 * DIMENSION + 1, 1])
    assert not batch[VECTORS][0, 2:].any()
    assert batch[TYPES][0].tolist() == [2, 2] + [0] * 48
    assert batch[AGES][0].tolist() == [1, 1] + [0] * 48
    assert batch[CONTEXT][0, 0] == context_token("device", "phone")
    assert shapes(batch, rows=1) == FEATURES.user_tensors()


def test_a_type_that_the_towers_never_saw_is_masked() -> None:
    batch = gathered(Features(types=3), [3, 4], [0, 1])
    assert batch[TYPES][0, :2].tolist() == [3, 0]
    assert batch[AGES][0, :2].tolist() == [1, 0]
    assert not batch[VECTORS][0, 1].any()


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize(("item", "kind"), [("unlisted", "click"), ("b", "hologram")])
def test_an_event_that_is_not_known_changes_nothing_wherever_it_stands(at: int, item: str, kind: str) -> None:
    """Neither the others' ages nor their places: the tower's input is the same as without it."""
    matrix = np.arange(3 * DIMENSION, dtype=np.float16).reshape(3, DIMENSION) + 1
    items, times, kinds = ["a", "b"], [HOUR_MS, 3 * HOUR_MS], ["view", "click"]
    without = sequence(items, times, kinds)
    items, times, kinds = items.copy(), times.copy(), kinds.copy()
    items.insert(at, item)
    times.insert(at, at * 2 * HOUR_MS)
    kinds.insert(at, kind)
    batches = [
        FEATURES.user_batch(matrix, *FEATURES.user_rows([one], {"a": 0, "b": 1}), FEATURES.contexts_of([one]))
        for one in (without, sequence(items, times, kinds))
    ]
    for name, expected in batches[0].items():
        np.testing.assert_array_equal(batches[1][name], expected, name)


def test_an_event_of_a_type_that_this_build_does_not_know_is_masked() -> None:
    """A newer job may write it before this service is replaced."""
    _, _, types = Features().user_rows([sequence(["a", "b"], [0, 1], ["view", "hologram"])], {"a": 0, "b": 1})
    assert types[0, :2].tolist() == [0, TYPE_CODES["view"]]


def test_a_users_context_is_the_newest_value_of_each_signal() -> None:
    said: list[Context | None] = [{"country": "GB", "device": "phone"}, None, {"device": "desk"}]
    tokens = FEATURES.contexts_of([sequence(["a", "b", "c"], [1, 2, 3], contexts=said), sequence(["a"], [1])])
    expected = [context_token("country", "gb"), context_token("device", "desk")]
    assert tokens.tolist() == [expected + [0] * (CONTEXT_COUNT - 2), [0] * CONTEXT_COUNT]


def test_a_context_applies_until_a_newer_one_arrives() -> None:
    short = Features(history_length=2)
    before: list[Context | None] = [{"device": "phone"}, None, None]
    assert short.contexts_of([sequence(["a", "b", "c"], [1, 2, 3], contexts=before)])[0, 0] > 0


def test_a_context_with_more_values_than_slots_is_cut() -> None:
    tokens = FEATURES.user_context([{"interests": [str(n) for n in range(30)]}])
    assert tokens.shape == (1, CONTEXT_COUNT)
    assert tokens.all()


def test_the_values_of_one_signal_are_not_those_of_another() -> None:
    assert context_token("country", "gb") != context_token("referrer", "gb")
    assert context_token("country", " GB ") == context_token("country", "gb")


@pytest.mark.parametrize(
    "features",
    [
        FEATURES,
        Features(dimension=32, history_length=200),
        Features(token_count=40, text_buckets=1_000),
        Features(types=5),
        Features(text_encoder=TextEncoder("ab" * 32, 16)),
        Features(item=FEATURES.item[:6], user=FEATURES.user[:2]),
    ],
    ids=["default", "sizes", "tokens", "types", "encoder", "signals"],
)
def test_a_declaration_comes_back_from_json_as_the_same_features(features: Features) -> None:
    said = json.loads(json.dumps(features.declaration()))
    assert features_of(said) == features
    assert digest_of(said) == features.digest


def test_anything_in_the_declaration_changes_the_digest_and_the_order_of_its_keys_does_not() -> None:
    others = [Features(dimension=32), Features(types=5), Features(item=FEATURES.item[:-1])]
    assert len({features.digest for features in [FEATURES, *others]}) == 4
    assert digest_of(dict(reversed(FEATURES.declaration().items()))) == FEATURES.digest


def test_event_types_keep_their_codes() -> None:
    """A new type goes to the end: the committed towers know these by number."""
    assert [TYPE_CODES[name] for name in EVENT_TYPES] == list(range(1, len(EVENT_TYPES) + 1))
    assert TYPE_CODES["view"] == 1
    assert TYPE_CODES["skip"] == 7
