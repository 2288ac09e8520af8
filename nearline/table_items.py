"""The items of a data set: rows of its catalogue as items valid for the topic ``items``; what is changed is counted.

``nearline import`` and training read them by these rules.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from nearline.dataset_description import ITEM_COLUMNS, Table
from nearline.errors import BadInput, Misconfigured
from nearline.events import EARLIEST_MS
from nearline.features import SEVERAL
from nearline.ids import MAX_ID_BYTES
from nearline.items import MAX_ATTRIBUTES, MAX_TEXT, MAX_TITLE, Attribute, Item
from nearline.table_cells import EXACT, dates_in, joined, number, text, text_id, time_in_ms, told, truth
from nearline.table_events import bad_id, last_of_each
from nearline.table_files import MORE_CELLS
from nearline.tables import FILE, ROW, all_there, columns_in, columns_of, read_whole

_TEXTS: Mapping[str, int] = {
    "title": MAX_TITLE,
    "description": MAX_TEXT,
    "category": MAX_TITLE,
    "locale": 35,
    "brand": MAX_TITLE,
}
_MOST_EXPENSIVE = 1e12
_FURTHEST_AHEAD = timedelta(days=366)  # an item may be announced; a placeholder such as 9999-12-31 is no day
_NUMBER = r"^-?(0|[1-9]\d*)(\.\d+)?$"
_DIGITS = 15  # that a floating number keeps
MORE_ATTRIBUTES = "more_attributes"  # of an export: what does not fit into columns
_NAMES_OF_ALL = "categories"
_PANDAS = r"^__index_level_\d+__$|^Unnamed: \d+$"
_LOST = ("price", "listed_ms", "available")
_SHOWN = 3


@dataclass(frozen=True)
class DatasetItems:
    """Items by id in the order of their file, the attributes that they have, and what was dropped or defaulted."""

    items: dict[str, Item]
    attributes: tuple[str, ...]
    counted: Mapping[str, int]
    shown: Mapping[str, list[str]] = field(default_factory=dict)  # for each count the first places
    rows: int = 0


@dataclass
class Losses:
    """Counts what is changed, with the file and row of the first."""

    counted: Counter[str] = field(default_factory=Counter)
    shown: dict[str, list[str]] = field(default_factory=dict)

    def note(self, what: str, count: int, places: list[tuple[str, int, Any]] | None = None) -> None:
        if count:
            self.counted[what] += count
            said = [
                f"{file} row {row}" + ("" if cell is None else f": {cell!r:.60}") for file, row, cell in places or []
            ]
            self.shown.setdefault(what, []).extend(said[:_SHOWN])


def read_items(
    path: Path, table: Table, attributes: tuple[str, ...] | None, *, now: datetime | None = None
) -> DatasetItems:
    """The items in the file *path*; *attributes* names their attribute columns, by default all other columns.

    A row without a valid id is dropped. Of rows with one id the last counts, but a blank cell does not replace a value.
    A blank title becomes the id; a price or time of listing that is none becomes none; an item whose availability is an
    unknown word is not available; texts are cut to the limits of the topic ``items``.
    """
    raw = read_whole(path, table)
    schema = columns_of(raw.lazy())
    theirs = columns_in(schema, table, ITEM_COLUMNS, ("item_id",), path.name, "items")
    losses = Losses()
    columns = attribute_columns(raw, schema, attributes, set(theirs.values()), table, path.name, losses)
    frame = raw.select(
        text_id(schema, theirs["item_id"], table).alias("item_id"),
        *(_text(schema, theirs, name, table).alias(name) for name in _TEXTS),
        *_fields(raw, schema, theirs, table),
        *(value.alias(f"a:{name}") for name, value in columns.items()),
        *([pl.col(MORE_ATTRIBUTES)] if MORE_ATTRIBUTES in schema else []),
        *(_raw(schema, theirs, name) for name in _LOST),
        *(pl.col(name) for name in (FILE, ROW)),
        (pl.col(MORE_CELLS).is_not_null() if MORE_CELLS in raw.columns else pl.lit(False)).alias(MORE_CELLS),
    )
    once = with_ids(frame, losses)
    if once.is_empty():
        raise BadInput("empty", "the items file holds no item with an id; leave the file out to use ids as titles")
    kept = _checked(once, (now or datetime.now(UTC)) + _FURTHEST_AHEAD, losses)
    items = {row["item_id"]: _item(row, tuple(columns), losses.counted) for row in kept.iter_rows(named=True)}
    return DatasetItems(items, tuple(columns), losses.counted, losses.shown, raw.height)


def _text(schema: pl.Schema, theirs: Mapping[str, str], name: str, table: Table) -> pl.Expr:
    if name not in theirs:
        return pl.lit(None, pl.String)
    return text(schema, theirs[name], table, between="\n" if name == "description" else None)


def _fields(raw: pl.DataFrame, schema: pl.Schema, theirs: Mapping[str, str], table: Table) -> list[pl.Expr]:
    fields = []
    if "price" in theirs:
        fields.append(number(schema, theirs["price"], table).alias("price"))
    if "available" in theirs:
        fields.append(truth(schema, theirs["available"], table).alias("available"))
    if "listed_ms" in theirs:
        dates = dates_in(raw.lazy(), theirs["listed_ms"], table, of="items")
        fields.append(time_in_ms(schema, theirs["listed_ms"], table, dates, of="items").alias("listed_ms"))
    there = {name for name in _LOST if name in theirs}
    return [*fields, *(pl.lit(None).alias(name) for name in _LOST if name not in there)]


def _raw(schema: pl.Schema, theirs: Mapping[str, str], name: str) -> pl.Expr:
    """The cell as it stands, to be shown; null where there is nothing to lose."""
    if name not in theirs:
        return pl.lit(None, pl.String).alias(f"raw {name}")
    if name == "price" and schema[theirs[name]].is_float():
        return pl.col(theirs[name]).cast(pl.String).alias(f"raw {name}")  # NaN is shown as what it is
    return told(schema, theirs[name], Table("")).alias(f"raw {name}")


def attribute_columns(
    raw: pl.DataFrame,
    schema: pl.Schema,
    named: tuple[str, ...] | None,
    taken: set[str],
    table: Table,
    file: str,
    losses: Losses,
) -> dict[str, pl.Expr]:
    """The attributes' values by their names: those *named*, or every column that is not *taken* and can be one."""
    all_there(schema, named or (), file)
    found = {}
    for column in named if named is not None else schema:
        if named is None and (column in taken or column == MORE_ATTRIBUTES or not column):
            continue
        if named is None and pl.Series([column]).str.contains(_PANDAS)[0]:
            losses.note(f"columns left out: {column} (pandas' own index)", 1)
        elif not _can_be_attribute(schema[column]):
            if named is not None:
                raise Misconfigured(
                    f"attribute {column!r} holds {schema[column]}; expected numbers, texts, lists or truth"
                )
            losses.note(f"columns left out: {column} holds {schema[column]}", 1)
        else:
            found[column] = _attribute(raw, schema, column, table)
    category = table.columns.get("category", "category")
    if named is None and isinstance(schema.get(category), pl.List) and _NAMES_OF_ALL not in schema:
        found[_NAMES_OF_ALL] = joined(schema, category, table)
    if len(found) > MAX_ATTRIBUTES:
        raise Misconfigured(f"{file} has {len(found)} attributes; name at most {MAX_ATTRIBUTES}: [items] attributes")
    return found


def _can_be_attribute(dtype: pl.DataType) -> bool:
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    plain = inner.is_numeric() or inner in (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null)
    return bool(plain) or isinstance(dtype, pl.Date | pl.Datetime)


def _attribute(raw: pl.DataFrame, schema: pl.Schema, column: str, table: Table) -> pl.Expr:
    """A number, a truth value or a text, the same for every row of the column."""
    dtype, value = schema[column], pl.col(column)
    if dtype == pl.Boolean or dtype == pl.Null:
        return value
    if dtype.is_integer():
        most = raw[column].abs().max()
        return value.cast(pl.String) if most is not None and most > EXACT else value  # type: ignore[operator]
    if dtype.is_numeric():
        return number(schema, column, table)
    if dtype == pl.Date:
        return value.dt.strftime("%Y-%m-%d")
    if isinstance(dtype, pl.Datetime):
        return value.dt.to_string("iso:strict")
    if dtype != pl.String or not raw[column].len():
        return joined(schema, column, table)
    return _plain(raw, schema, column, table)


def _plain(raw: pl.DataFrame, schema: pl.Schema, column: str, table: Table) -> pl.Expr:
    """The texts of a column; as numbers or truth if every one of them is one, without loss."""
    cells = raw.lazy().select(told(schema, column, table)).collect().to_series().drop_nulls()
    if not cells.len():
        return pl.lit(None, pl.String)
    if cells.str.to_lowercase().is_in(["true", "false"]).all():
        return told(schema, column, table).str.to_lowercase() == "true"
    if cells.str.contains(_NUMBER).all() and (cells.str.replace_all(r"\D", "").str.len_chars() <= _DIGITS).all():
        whole = not cells.str.contains(".", literal=True).any()
        return told(schema, column, table).cast(pl.Int64 if whole else pl.Float64)
    return joined(schema, column, table)


def with_ids(frame: pl.DataFrame, losses: Losses, key: str = "item_id", what: str = "items") -> pl.DataFrame:
    """One row for each valid id in *key*: of each column the last value that is not blank."""
    rules = {
        f"{what} dropped: no id": pl.col(key).is_not_null() & (pl.col(key) != ""),
        f"{what} dropped: an id of control characters or over {MAX_ID_BYTES} bytes": ~bad_id(pl.col(key)),
        f"{what} dropped: more cells than the header names": ~pl.col(MORE_CELLS),
    }
    for reason, rule in rules.items():
        lost = frame.filter(~rule)
        losses.note(reason, lost.height, places_of(lost))
        frame = frame.filter(rule)
    repeated = frame.filter(~pl.col(key).is_first_distinct())
    if not repeated.is_empty():
        losses.note(
            f"{what}: rows repeat an id (the last counts, its blanks do not)", repeated.height, places_of(repeated, key)
        )
        frame = last_of_each(frame.lazy(), key).collect()
    return frame


def _checked(frame: pl.DataFrame, latest: datetime, losses: Losses) -> pl.DataFrame:
    """The items with none where a price, a time or a word for availability is none; each is counted."""
    latest_ms = latest.timestamp() * 1000
    price, listed = pl.col("price").cast(pl.Float64), pl.col("listed_ms").cast(pl.Float64)
    good_price = price.is_between(0, _MOST_EXPENSIVE)
    good_listed = listed.is_between(EARLIEST_MS, latest_ms)
    looks = listed.is_between(EARLIEST_MS // 1000, latest_ms // 1000)
    told_price, told_listed, told_word = (pl.col(f"raw {name}").is_not_null() for name in _LOST)
    odd = {
        "prices set to none: not a number from 0 to 1e12": ("price", told_price & ~good_price.fill_null(False)),
        'listed_ms set to none: it looks like seconds, set [items] time_unit = "s"': (
            "listed_ms",
            looks.fill_null(False),
        ),
        "listed_ms set to none: no time between 1980 and a year ahead": (
            "listed_ms",
            told_listed & ~good_listed.fill_null(False) & ~looks.fill_null(False),
        ),
        'items set to not available: an unknown word, name it: [items] availability = { "word" = true }': (
            "available",
            told_word & pl.col("available").is_null(),
        ),
    }
    for what, (name, rule) in odd.items():
        lost = frame.filter(rule)
        losses.note(what, lost.height, places_of(lost, f"raw {name}"))
    return frame.with_columns(
        pl.when(good_price).then(price).alias("price"),
        pl.when(good_listed).then(listed.floor().cast(pl.Int64, strict=False)).alias("listed_ms"),
        pl.coalesce(pl.col("available").cast(pl.Boolean), ~told_word).alias("available"),
    )


def places_of(frame: pl.DataFrame, cell: str | None = None) -> list[tuple[str, int, Any]]:
    first = frame.head(_SHOWN)
    cells = [None] * first.height if cell is None else first[cell].to_list()
    return list(zip(first[FILE].to_list(), first[ROW].to_list(), cells, strict=True))


def _item(row: Mapping[str, Any], attributes: tuple[str, ...], counted: Counter[str]) -> Item:
    texts = {name: _cut(name, row[name] or "", counted) for name in _TEXTS}
    if not texts["title"].strip():
        counted["titles were blank: replaced by the id"] += 1
        texts["title"] = row["item_id"]
    return Item(
        **texts,
        price=row["price"],
        listed_ms=row["listed_ms"],
        available=row["available"] is not False,
        attributes=attributes_of(row, attributes, counted) | more_of(row),
    )


def _cut(name: str, text: str, counted: Counter[str]) -> str:
    if len(text) > _TEXTS[name]:
        counted[f"texts cut: {name} of more than {_TEXTS[name]:,} characters"] += 1
    return text[: _TEXTS[name]]


def attributes_of(row: Mapping[str, Any], names: tuple[str, ...], counted: Counter[str]) -> dict[str, Attribute]:
    """The attributes that this item has: no nulls, no blank texts, no numbers without end."""
    found: dict[str, Attribute] = {}
    for name in names:
        value = row[f"a:{name}"]
        if isinstance(value, float) and not abs(value) < float("inf"):
            counted["attributes left out: not a finite number"] += 1
            continue
        if isinstance(value, str):
            if len(value) > MAX_TITLE:
                counted[f"texts cut: an attribute of more than {MAX_TITLE:,} characters"] += 1
            value = SEVERAL.join(filter(None, (part.strip() for part in value[:MAX_TITLE].split(SEVERAL))))
        if value is not None and value != "":
            found[name] = value
    return found


def more_of(row: Mapping[str, Any]) -> dict[str, Attribute]:
    """The attributes that an export wrote as JSON."""
    return {pair["name"]: orjson.loads(pair["json"]) for pair in row.get(MORE_ATTRIBUTES) or []}
