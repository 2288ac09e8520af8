"""Items: validation."""

import orjson
import pytest

from nearline.errors import BadInput
from nearline.items import MAX_ITEM_BYTES, Item, decode_item, encode_item

GOOD = {"v": 1, "title": "RED MUG"}


def test_an_item_comes_back_as_it_was_sent() -> None:
    item = Item(
        "Mug", "for tea", "mugs", "en", 1.25, "ACME", 1_700_000_000_000, False, {"colour": "red", "n": 2, "new": True}
    )
    assert decode_item(encode_item(item)) == item


def test_a_title_is_all_that_an_item_needs() -> None:
    assert decode_item(orjson.dumps(GOOD)) == Item("RED MUG")


@pytest.mark.parametrize(
    ("raw", "reason", "words"),
    [
        (b"{", "not_json", "not JSON"),
        (orjson.dumps({"v": 1}), "no_title", "needs a title"),
        (orjson.dumps({"v": 1, "title": "  "}), "no_title", "needs a title"),
        (orjson.dumps({**GOOD, "title": "x" * 1_001}), "too_large", "1,000"),
        (orjson.dumps({**GOOD, "description": "x" * MAX_ITEM_BYTES}), "too_large", "bytes"),
        (orjson.dumps({**GOOD, "prize": 1}), "unknown_field", "did you mean 'price'"),
        (orjson.dumps({**GOOD, "price": -1}), "wrong_type", "price"),
        (orjson.dumps({**GOOD, "price": True}), "wrong_type", "price"),
        (orjson.dumps({**GOOD, "available": "yes"}), "wrong_type", "available"),
        (orjson.dumps({**GOOD, "listed_ms": 1_700_000_000}), "impossible_time", "milliseconds"),
        (orjson.dumps({**GOOD, "attributes": {"a": [1]}}), "wrong_type", "'a'"),
        (orjson.dumps({**GOOD, "v": 9}), "unknown_version", "must be 1"),
    ],
)
def test_a_bad_item_is_refused_with_a_reason_that_helps(raw: bytes, reason: str, words: str) -> None:
    with pytest.raises(BadInput) as refused:
        decode_item(raw)
    assert refused.value.reason == reason
    assert words in str(refused.value)
