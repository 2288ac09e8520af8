"""Items: the catalogue's entries that can be recommended, as in the topic ``items`` (version 1)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import orjson

from nearline.errors import BadInput
from nearline.events import EARLIEST_MS, check_version, load_object, refuse_unknown

MAX_ITEM_BYTES = 256 * 1024
MAX_TITLE = 1_000
MAX_TEXT = 100_000
MAX_ATTRIBUTES = 100
Attribute = float | int | str | bool


@dataclass(frozen=True, slots=True)
class Item:
    """One valid item; its id is the record's key and its version the record's (nearline/versions.py)."""

    title: str
    description: str = ""
    category: str = ""
    locale: str = ""
    price: float | None = None
    brand: str = ""
    listed_ms: int | None = None
    available: bool = True
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


# A record header of a tombstone in ``items``: also delete the item's vector, which histories may otherwise use.
PURGE = ("nearline-purge", b"1")
_FIELDS = frozenset({"v", *(f.name for f in fields(Item))})


def encode_item(item: Item) -> bytes:
    """The item as producers write it; fields at their default are left out."""
    body: dict[str, Any] = {"v": 1, "title": item.title}
    for f in fields(Item)[1:]:
        value = getattr(item, f.name)
        if value != f.default and value != {}:
            body[f.name] = value
    return orjson.dumps(body)


def decode_item(raw: bytes) -> Item:
    """The item in *raw*; ``BadInput`` with the reason if it is invalid. (An empty value is a delete, not an item.)"""
    return item_of(load_object(raw, MAX_ITEM_BYTES))


def item_of(body: Mapping[str, Any]) -> Item:
    """The item in the JSON object *body*; ``BadInput`` with the reason if it is invalid."""
    if not body.keys() <= _FIELDS:
        refuse_unknown(body, _FIELDS, hint="put your own fields under 'attributes'")
    check_version(body)
    title = _text(body, "title", MAX_TITLE)
    if not title.strip():
        expected = "an item needs a title that is not blank"
        raise BadInput("no_title", f"{expected}, came {body.get('title')!r:.80}", field="title")
    return Item(
        title=title,
        description=_text(body, "description", MAX_TEXT),
        category=_text(body, "category", MAX_TITLE),
        locale=_text(body, "locale", 35),
        price=_price(body.get("price")),
        brand=_text(body, "brand", MAX_TITLE),
        listed_ms=_listed(body.get("listed_ms")),
        available=_flag(body.get("available", True)),
        attributes=_attributes(body.get("attributes")),
    )


def _text(body: Mapping[str, Any], name: str, limit: int) -> str:
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        came = f"{type(value).__name__}: {value!r:.80}"
        raise BadInput("wrong_type", f"{name} must be a string, came {came}", field=name)
    if len(value) > limit:
        most = f"at most {limit:,} are accepted"
        raise BadInput("too_large", f"{name} has {len(value):,} characters; {most}", field=name)
    return value


def _price(value: object) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= 1e12:  # type: ignore[arg-type,operator]
        expected = "price must be a number from 0 to 1e12 or null"
        raise BadInput("wrong_type", f"{expected}, came {value!r:.80}", field="price")
    return float(value)  # type: ignore[arg-type]


def _listed(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or value < EARLIEST_MS:
        expected = "listed_ms must be UTC milliseconds after 1980"
        raise BadInput("impossible_time", f"{expected}, came {value!r:.80}", field="listed_ms")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise BadInput("wrong_type", f"available must be true or false, came {value!r:.80}", field="available")
    return value


def _attributes(value: object) -> Mapping[str, Attribute]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_ATTRIBUTES:
        expected = f"attributes must be an object of at most {MAX_ATTRIBUTES}"
        raise BadInput("wrong_type", f"{expected}, came {value!r:.80}", field="attributes")
    for name, attribute in value.items():
        if not isinstance(attribute, str | int | float):
            expected = f"attribute {name!r:.80} must be a number, string or bool"
            raise BadInput("wrong_type", f"{expected}, came {attribute!r:.80}", field="attributes")
    return value
