"""An item as answers print it: made once when the item changes, and not again for each answer."""

from collections.abc import Mapping

import orjson

from nearline.item_vectors import Shown
from nearline.items import Attribute

BEFORE_SCORE = b',"score":'  # a payload ends with this
NO_ATTRIBUTES = b'"attributes":{}' + BEFORE_SCORE


def render(item_id: str, shown: Shown) -> bytes:
    """What an answer prints of an item, made once and not for each answer: its JSON up to the score, after a comma."""
    fields = {
        "item_id": item_id,
        "title": shown.title,
        "category": shown.category,
        "price": shown.price,
        "brand": shown.brand,
        "locale": shown.locale,
        "listed_ms": shown.listed_ms,
        "attributes": shown.attributes,
    }
    return b"," + orjson.dumps(fields)[:-1] + BEFORE_SCORE


def attributes_of(printed: bytes) -> Mapping[str, Attribute]:
    """The attributes in what ``render`` made of an item."""
    attributes: Mapping[str, Attribute] = orjson.loads(printed[1 : -len(BEFORE_SCORE)] + b"}")["attributes"]
    return attributes


def shown_fields(printed: bytes) -> dict[str, object]:
    """What ``Shown`` holds, from what ``render`` made of it; such an item is available."""
    fields: dict[str, object] = orjson.loads(printed[1 : -len(BEFORE_SCORE)] + b"}")
    del fields["item_id"]
    return fields
