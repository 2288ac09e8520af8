"""Reads a folder of a shop's own tables, as its dataset.toml describes them, into bodies for the API.

Names, units and types become ours here; the API checks each row and says why it refuses one.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from nearline.cli import parquet
from nearline.cli.parquet import Row
from nearline.dataset_description import (
    EVENT_COLUMNS,
    EVENT_TEXTS,
    ITEM_COLUMNS,
    USER_COLUMNS,
    Description,
    Table,
    find_description,
    nearest,
    read_description,
    table_path,
)
from nearline.errors import Misconfigured
from nearline.signals import CONTEXT_KEYS
from nearline.tables import columns_in, joined, scan, text_id, time_in_ms

_ITEM_TEXTS = ("title", "description", "category", "locale", "brand")
_OF_AN_EXPORT = ("more_context", "request_id")
_TOLD = "time as told"
UploadPart = tuple[str, Iterator[Any], int]  # events, items or users; the bodies; how many


def parts_of(folder: Path, description: Path | None, unit: str | None = None) -> list[UploadPart]:
    """The bodies in *folder* for the API: items first, then users and events; *unit* overrides the description's.

    ``Misconfigured`` if there is nothing, or the files do not match the description.
    """
    path = find_description(folder, description)
    about = Description() if path is None else read_description(path)
    if about.preparation is not None:
        raise Misconfigured(f"{folder} needs its own preparation, which only training and the demo have")
    readers: Mapping[str, tuple[str, Callable[[pl.LazyFrame, str], pl.LazyFrame], Callable[[Row], Any]]] = {
        "items": ("items", lambda raw, file: items_in(raw, about, file), parquet.item_of_row),
        "users": ("users", lambda raw, file: users_in(raw, about.users, file), parquet.profile_of_row),
        "interactions": ("events", lambda raw, file: events_in(raw, about, file, unit), _event_of_row),
    }
    parts: list[UploadPart] = []
    for name, (door, read, body) in readers.items():
        if (file := table_path(folder, about, name)) is not None:
            frame = read(scan(file, _texts(about, name)), file.name)
            parts.append((door, map(body, parquet.rows_in(frame, file)), parquet.count_in(frame, file)))
    if not parts:
        raise Misconfigured(f"nothing to import in {folder}: expected interactions, items or users as .parquet or .csv")
    return parts


def _texts(about: Description, name: str) -> set[str]:
    """The names of the text columns in the table *name*, which a CSV reader must not parse as numbers."""
    ours = {"interactions": EVENT_TEXTS, "items": ("item_id", *_ITEM_TEXTS), "users": USER_COLUMNS}[name]
    table: Table = getattr(about, name)
    return {table.columns.get(one, one) for one in ours}


def events_in(raw: pl.LazyFrame, about: Description, file: str, unit: str | None = None) -> pl.LazyFrame:
    """The rows that the filter keeps, with our names and types, times in UTC milliseconds."""
    schema, table = raw.collect_schema(), about.interactions
    theirs = columns_in(schema, table, EVENT_COLUMNS, ("user_id", "item_id", "time"), file, "interactions")
    time = time_in_ms(schema, theirs["time"], unit or about.time_unit)
    told = pl.col(theirs["type"]).cast(pl.String).replace(dict(about.types)) if "type" in theirs else pl.lit("click")
    return raw.filter(_kept(schema, about, file)).select(
        *(text_id(schema, theirs[name]).alias(name) for name in ("user_id", "item_id", "event_id") if name in theirs),
        told.alias("type"),
        pl.when(time.is_finite()).then(time).floor().cast(pl.Int64, strict=False).alias("time"),
        pl.col(theirs["time"]).cast(pl.String).alias(_TOLD),
        *([pl.col(theirs["value"]).cast(pl.Float64, strict=False).alias("value")] if "value" in theirs else []),
        *_signals(schema, theirs, table.separator),
        *(pl.col(name) for name in _OF_AN_EXPORT if name in schema),
    )


def items_in(raw: pl.LazyFrame, about: Description, file: str) -> pl.LazyFrame:
    """The items with our names; attributes are the columns that the description lists, or else all other columns."""
    schema = raw.collect_schema()
    theirs = columns_in(schema, about.items, ITEM_COLUMNS, ("item_id",), file, "items")
    chosen = about.attributes
    if chosen is None:
        chosen = tuple(name for name in schema if name not in theirs.values() and name not in ITEM_COLUMNS)
    _all_there(schema, chosen, file)
    item_id = text_id(schema, theirs["item_id"])
    texts = {name: pl.col(theirs[name]).cast(pl.String) for name in _ITEM_TEXTS if name in theirs}
    title = pl.coalesce(*([texts.pop("title")] if "title" in texts else []), item_id)
    return raw.select(
        item_id.alias("item_id"),
        title.alias("title"),
        *(text.alias(name) for name, text in texts.items()),
        *(pl.col(theirs[name]).alias(name) for name in ("price", "available") if name in theirs),
        *([_listed(schema, theirs["listed_ms"]).alias("listed_ms")] if "listed_ms" in theirs else []),
        *(_attribute(schema, name, about.items.separator) for name in chosen),
    )


def users_in(raw: pl.LazyFrame, table: Table, file: str) -> pl.LazyFrame:
    """The users' declared signals with our names; every other column is an attribute."""
    schema = raw.collect_schema()
    theirs = columns_in(schema, table, USER_COLUMNS, ("user_id",), file, "users")
    others = [name for name in schema if name not in theirs.values() and name not in USER_COLUMNS]
    return raw.select(
        text_id(schema, theirs["user_id"]).alias("user_id"),
        *_signals(schema, theirs, table.separator),
        *(pl.col(name) for name in others),
    )


def _event_of_row(row: Row) -> Row:
    """The body of an event; an invalid time is passed on as it is, and the API refuses it with the reason."""
    told = row.pop(_TOLD)
    body = parquet.event_of_row(row)
    return body if row["time"] is not None else body | {"time_ms": told or ""}


def _kept(schema: pl.Schema, about: Description, file: str) -> pl.Expr:
    _all_there(schema, tuple(about.filter), file)
    kept = pl.lit(True)
    for column, values in about.filter.items():
        kept = kept & pl.col(column).cast(pl.String).is_in([str(value) for value in values]).fill_null(False)
    return kept


def _all_there(schema: pl.Schema, names: tuple[str, ...], file: str) -> None:
    for name in names:
        if name not in schema:
            raise Misconfigured(
                f"{file} has no column {name!r}{nearest(name, schema)}; its columns are {', '.join(schema)}"
            )


def _signals(schema: pl.Schema, theirs: Mapping[str, str], separator: str) -> Iterator[pl.Expr]:
    for key in CONTEXT_KEYS:
        if key not in theirs:
            continue
        value = pl.col(theirs[key])
        if key != "interests":
            yield value.cast(pl.String).str.strip_chars().alias(key)
        elif isinstance(schema[theirs[key]], pl.List | pl.Array):
            yield value.cast(pl.List(pl.String)).alias(key)
        else:
            parts = value.cast(pl.String).str.split(separator).list.eval(pl.element().str.strip_chars())
            yield parts.list.eval(pl.element().filter(pl.element() != "")).alias(key)


def _listed(schema: pl.Schema, column: str) -> pl.Expr:
    dated = isinstance(schema[column], pl.Datetime | pl.Date)
    return time_in_ms(schema, column, None).cast(pl.Int64, strict=False) if dated else pl.col(column)


def _attribute(schema: pl.Schema, column: str, separator: str) -> pl.Expr:
    """An attribute as it is; several values in a text are joined by our own separator."""
    return joined(schema, column, separator).alias(column) if schema[column] == pl.String else pl.col(column)
