"""The JSON of an item in answers, made once when the item changes and not for each answer."""

from collections.abc import Mapping, Sequence

import numpy as np
import orjson

from nearline.item_vectors import ItemFields
from nearline.items import Attribute
from services.retrieval.items.interface import Candidates, Scores

BEFORE_SCORE = b',"score":'  # the JSON from ``render`` ends with this
NO_ATTRIBUTES = b'"attributes":{}' + BEFORE_SCORE


def render(item_id: str, shown: ItemFields) -> bytes:
    """The item's JSON up to the score, after a comma."""
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
    """The attributes in the JSON from ``render``."""
    attributes: Mapping[str, Attribute] = orjson.loads(printed[1 : -len(BEFORE_SCORE)] + b"}")["attributes"]
    return attributes


def shown_fields(printed: bytes) -> dict[str, object]:
    """The fields of ``ItemFields`` in the JSON from ``render``, of an available item."""
    fields: dict[str, object] = orjson.loads(printed[1 : -len(BEFORE_SCORE)] + b"}")
    del fields["item_id"]
    return fields


def print_scores(scores: Scores) -> bytes:
    """*scores* as JSON, separated by commas."""
    return orjson.dumps(np.ascontiguousarray(scores), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def print_items(items: Candidates) -> bytes:
    """*items* with their scores as JSON, joined by commas."""
    return closed(items.printed, print_scores(items.scores).split(b",")) if len(items) else b""


def closed(starts: Sequence[bytes], scores: Sequence[bytes], end: bytes = b"", notes: Sequence[bytes] = ()) -> bytes:
    """The JSON of items from their pieces, joined by commas; *notes* are empty or one for each item."""
    pieces = zip(starts, scores, notes or [b""] * len(starts), strict=True)
    return b"".join([b"%b%b%b%b}" % (start, score, end, note) for start, score, note in pieces])[1:]
