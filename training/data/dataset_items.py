"""Reads a data set's catalogue: ``items.parquet`` as items valid for the topic ``items``; defaults are counted."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from nearline.dataset_description import ITEM_COLUMNS, Table, nearest
from nearline.errors import BadInput, Misconfigured
from nearline.features import SEVERAL
from nearline.ids import MAX_ID_BYTES
from nearline.items import MAX_ATTRIBUTES, MAX_TEXT, MAX_TITLE, Attribute, Item
from nearline.tables import columns_in, joined, scan, text_id, time_in_ms

_TEXTS: Mapping[str, int] = {
    "title": MAX_TITLE,
    "description": MAX_TEXT,
    "category": MAX_TITLE,
    "locale": 35,
    "brand": MAX_TITLE,
}
_MOST_EXPENSIVE = 1e12
CONTROL = r"[\x00-\x1f\x7f-\x{9f}]"


@dataclass(frozen=True)
class DatasetItems:
    """Items by id in the order of their file, the attributes that they have, and what was dropped or defaulted."""

    items: dict[str, Item]
    attributes: tuple[str, ...]
    counted: Mapping[str, int]


def read_items(path: Path, table: Table, attributes: tuple[str, ...] | None) -> DatasetItems:
    """The items in the file *path*; *attributes* names their attribute columns, by default all other columns.

    A row without a valid id is dropped; of two rows with one id the last counts. A blank title becomes the id, a price
    that is not a number from 0 on becomes none, texts are cut to the limits of the topic ``items``.
    """
    raw = scan(path, texts_of(table)).collect()
    theirs = columns_in(raw.schema, table, ITEM_COLUMNS, ("item_id",), path.name, "items")
    chosen = _attribute_columns(raw.schema, attributes, set(theirs.values()), path.name)
    frame = raw.select(
        text_id(raw.schema, theirs["item_id"]).alias("item_id"),
        *(_text(theirs, name).alias(name) for name in _TEXTS),
        *(_given(raw.schema, theirs, name).alias(name) for name in ("price", "listed_ms", "available")),
        *(_attribute(raw.schema, name, table.separator).alias(f"a:{name}") for name in chosen),
    )
    counted: Counter[str] = Counter()
    kept = _with_ids(frame, counted)
    items = {row["item_id"]: _item(row, chosen, counted) for row in kept.iter_rows(named=True)}
    return DatasetItems(items, chosen, counted)


def texts_of(table: Table) -> set[str]:
    """The names of the text columns, which a CSV reader must not parse as numbers."""
    return {table.columns.get(name, name) for name in ("item_id", *_TEXTS)}


def bad_id(value: pl.Expr) -> pl.Expr:
    """Whether an id can not be the key of a record or document."""
    return (value.str.len_bytes() > MAX_ID_BYTES) | value.str.contains(CONTROL)


def _text(theirs: Mapping[str, str], name: str) -> pl.Expr:
    return pl.col(theirs[name]).cast(pl.String) if name in theirs else pl.lit(None, pl.String)


def _given(schema: pl.Schema, theirs: Mapping[str, str], name: str) -> pl.Expr:
    """The column with the item's type; values that cannot be converted count as not finite or missing."""
    if name not in theirs:
        return pl.lit(None)
    value = pl.col(theirs[name])
    if name == "price":
        return value.cast(pl.Float64, strict=False).fill_null(pl.when(value.is_not_null()).then(float("nan")))
    if name == "available":
        return value.cast(pl.Boolean, strict=False)
    dated = isinstance(schema[theirs[name]], pl.Datetime | pl.Date)
    return (time_in_ms(schema, theirs[name], None) if dated else value).cast(pl.Int64, strict=False)


def _attribute_columns(schema: pl.Schema, told: tuple[str, ...] | None, taken: set[str], file: str) -> tuple[str, ...]:
    columns = told if told is not None else tuple(c for c in schema if c not in taken and _can_be_attribute(schema[c]))
    for column in columns:
        if column not in schema:
            raise Misconfigured(
                f"{file} has no column {column!r}{nearest(column, schema)}; its columns are {', '.join(schema)}"
            )
        if not _can_be_attribute(schema[column]):
            raise Misconfigured(f"attribute {column!r} holds {schema[column]}; expected numbers, texts, lists or truth")
    if len(columns) > MAX_ATTRIBUTES:
        raise Misconfigured(f"{file} has {len(columns)} attributes; name at most {MAX_ATTRIBUTES}: [items] attributes")
    return columns


def _can_be_attribute(dtype: pl.DataType) -> bool:
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    return inner.is_numeric() or inner in (pl.String, pl.Categorical, pl.Enum, pl.Boolean)


def _attribute(schema: pl.Schema, column: str, separator: str) -> pl.Expr:
    dtype = schema[column]
    if dtype == pl.Boolean or dtype.is_integer():
        return pl.col(column)
    if dtype.is_numeric():
        return pl.col(column).cast(pl.Float64)
    return joined(schema, column, separator)


def _with_ids(frame: pl.DataFrame, counted: Counter[str]) -> pl.DataFrame:
    rules = {
        "items dropped: no id": pl.col("item_id").is_not_null() & (pl.col("item_id") != ""),
        f"items dropped: an id of control characters or over {MAX_ID_BYTES} bytes": ~bad_id(pl.col("item_id")),
    }
    for reason, rule in rules.items():
        left = frame.filter(rule)
        counted[reason] += frame.height - left.height
        frame = left
    last = frame.unique("item_id", keep="last", maintain_order=True)
    counted["items dropped: the id comes again further down"] += frame.height - last.height
    if last.is_empty():
        raise BadInput("empty", "the items file holds no item with an id; leave the file out to use ids as titles")
    return last


def _item(row: Mapping[str, Any], attributes: tuple[str, ...], counted: Counter[str]) -> Item:
    texts = {name: _cut(name, row[name] or "", counted) for name in _TEXTS}
    if not texts["title"].strip():
        counted["titles were blank: replaced by the id"] += 1
        texts["title"] = row["item_id"]
    return Item(
        **texts,
        price=_price(row["price"], counted),
        listed_ms=row["listed_ms"],
        available=row["available"] is not False,
        attributes=_attributes(row, attributes, counted),
    )


def _cut(name: str, text: str, counted: Counter[str]) -> str:
    if len(text) > _TEXTS[name]:
        counted[f"texts cut: {name} of more than {_TEXTS[name]:,} characters"] += 1
    return text[: _TEXTS[name]]


def _price(price: float | None, counted: Counter[str]) -> float | None:
    if price is None or 0 <= price <= _MOST_EXPENSIVE:
        return price
    counted["prices set to none: not a number from 0 to 1e12"] += 1
    return None


def _attributes(row: Mapping[str, Any], names: tuple[str, ...], counted: Counter[str]) -> dict[str, Attribute]:
    """The attributes that this item has: no nulls, no blank texts, no numbers without end."""
    found: dict[str, Attribute] = {}
    for name in names:
        value = row[f"a:{name}"]
        if isinstance(value, float) and not abs(value) < float("inf"):
            counted["attributes left out: not a finite number"] += 1
            continue
        if isinstance(value, str):
            value = SEVERAL.join(filter(None, (part.strip() for part in value[:MAX_TITLE].split(SEVERAL))))
        if value is not None and value != "":
            found[name] = value
    return found
