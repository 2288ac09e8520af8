"""Folders of Parquet, as ``nearline export`` writes and ``nearline import`` and ``make train DATA=`` read them.

    interactions.parquet  user_id, item_id, time, type, value, event_id, the declared signals of the event's context,
                          what else was in it as JSON (more_context), request_id
    items.parquet         item_id, title, description, category, locale, price, brand, listed_ms, available, a column
                          for each attribute, what does not fit into columns as JSON (more_attributes)
    users.parquet         user_id, the declared signals, attributes as JSON (more_attributes)

Rows are written and read a group at a time, so neither takes memory with their number.
"""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from polars.io.plugins import register_io_source

from nearline.errors import Misconfigured
from nearline.events import Event
from nearline.features import SEVERAL
from nearline.items import MAX_ATTRIBUTES, Attribute, Item
from nearline.profiles import Profile
from nearline.signals import CONTEXT_KEYS

INTERACTIONS, ITEMS, USERS = "interactions.parquet", "items.parquet", "users.parquet"
ROWS_PER_GROUP = 50_000
_MORE_CONTEXT, _MORE_ATTRIBUTES = "more_context", "more_attributes"
_INTERESTS = "interests"
Row = dict[str, Any]
Schema = Mapping[str, pl.DataType | type[pl.DataType]]

_SIGNALS: Schema = {key: pl.List(pl.String) if key == _INTERESTS else pl.String for key in CONTEXT_KEYS}
EVENT_SCHEMA: Schema = {
    "user_id": pl.String,
    "item_id": pl.String,
    "time": pl.Datetime("ms", "UTC"),
    "type": pl.String,
    "value": pl.Float64,
    "event_id": pl.String,
    **_SIGNALS,
    _MORE_CONTEXT: pl.String,
    "request_id": pl.String,
}
ITEM_SCHEMA: Schema = {
    "item_id": pl.String,
    "title": pl.String,
    "description": pl.String,
    "category": pl.String,
    "locale": pl.String,
    "price": pl.Float64,
    "brand": pl.String,
    "listed_ms": pl.Int64,
    "available": pl.Boolean,
}
# Structures, since training reads a list of texts as an attribute.
_PAIRS = pl.List(pl.Struct({"name": pl.String, "json": pl.String}))
USER_SCHEMA: Schema = {"user_id": pl.String, **_SIGNALS, _MORE_ATTRIBUTES: _PAIRS}
_MS_OF: Mapping[str, float] = {"s": 1e3, "ms": 1, "us": 1e-3, "ns": 1e-6}
_EXACT = 2**53  # larger integers are not all exact as floats


def write(file: Path, rows: Iterable[Row], schema: Schema) -> int:
    """Write *rows* to *file* atomically; return how many they were."""
    count = 0

    def source(_columns: object, _predicate: object, _rows: object, _size: object) -> Iterator[pl.DataFrame]:
        nonlocal count
        left = iter(rows)
        while group := list(islice(left, ROWS_PER_GROUP)):
            count += len(group)
            yield pl.DataFrame(group, schema=dict(schema), orient="row")

    new = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        frames = register_io_source(source, schema=dict(schema), is_pure=False)
        frames.sink_parquet(new, row_group_size=ROWS_PER_GROUP, compression="zstd")
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)
    return count


def rows_of(file: Path) -> Iterator[Row]:
    """Yield the rows of the Parquet *file* one by one; ``Misconfigured`` if it is none."""
    return rows_in(pl.scan_parquet(file), file)


def rows_in(frame: pl.LazyFrame, file: Path) -> Iterator[Row]:
    """Yield the rows of *frame*, with one group in memory; ``Misconfigured`` if its *file* cannot be read."""
    try:
        for group in frame.collect_batches(chunk_size=ROWS_PER_GROUP, maintain_order=True):
            yield from group.iter_rows(named=True)
    except pl.exceptions.PolarsError as broken:
        raise Misconfigured(f"{file} cannot be read: {broken}") from None


def count_of(file: Path) -> int:
    """How many rows the Parquet *file* has; ``Misconfigured`` if it is missing or not Parquet."""
    return count_in(pl.scan_parquet(file), file)


def count_in(frame: pl.LazyFrame, file: Path) -> int:
    """How many rows *frame* has; ``Misconfigured`` if its *file* cannot be read."""
    try:
        return int(frame.select(pl.len()).collect().item())
    except (pl.exceptions.PolarsError, OSError) as broken:
        raise Misconfigured(f"{file} cannot be read: {broken}") from None


# --- events ----------------------------------------------------------------------------------------------------------


def row_of_event(event: Event) -> Row:
    """The row of *event*."""
    signals, more = _parted(event.context, _is_signal)
    return {
        "user_id": event.user_id,
        "item_id": event.item_id,
        "time": event.time_ms,
        "type": event.type,
        "value": event.value,
        "event_id": event.event_id,
        **{key: signals.get(key) for key in CONTEXT_KEYS},
        _MORE_CONTEXT: _json(more),
        "request_id": event.request_id,
    }


def event_of_row(row: Row, unit: str = "ms") -> Row:
    """The body of the event in *row*, with numeric times in *unit*, for ``POST /events``, which checks it.

    A row without an event_id gets one derived from the row, so that importing it twice changes nothing.
    """
    context = {key: row[key] for key in CONTEXT_KEYS if row.get(key)} | orjson.loads(row.get(_MORE_CONTEXT) or "{}")
    body = {
        "user_id": _id(row.get("user_id")),
        "item_id": _id(row.get("item_id")),
        "type": row.get("type") or "click",
        "time_ms": None if row.get("time") is None else in_ms(row["time"], unit),
        "value": _finite(row.get("value"), 1.0),
        "context": context or None,
        "request_id": row.get("request_id"),
    }
    given = {name: value for name, value in body.items() if value is not None}
    return {"event_id": row.get("event_id") or made_id("row", given), **given}


def made_id(kind: str, about: Mapping[str, Any]) -> str:
    """An event id derived from *about*: the same for the same content, and only for it."""
    return f"{kind}-{hashlib.sha256(orjson.dumps(about, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]}"


# --- items and users -------------------------------------------------------------------------------------------------


class Attributes:
    """Chooses the columns for items' attributes: at most 100, each of one type; other attributes are stored as JSON."""

    def __init__(self) -> None:
        self._kinds: dict[str, type[pl.DataType] | None] = {}
        self._counts: Counter[str] = Counter()

    def note(self, item: Item) -> None:
        """Count the attributes of one item."""
        for name, value in item.attributes.items():
            kind = _kind(value)
            self._counts[name] += 1
            self._kinds[name] = kind if self._kinds.get(name, kind) is kind else None

    @property
    def columns(self) -> dict[str, type[pl.DataType]]:
        """The name and type of each attribute's column, most frequent first."""
        taken = {*ITEM_SCHEMA, _MORE_ATTRIBUTES}
        names = [name for name, _ in self._counts.most_common() if name not in taken]
        kinds = {name: kind for name in names if (kind := self._kinds[name]) is not None}
        return dict(list(kinds.items())[:MAX_ATTRIBUTES])

    @property
    def schema(self) -> Schema:
        """The schema of the items' file."""
        return {**ITEM_SCHEMA, **self.columns, _MORE_ATTRIBUTES: _PAIRS}


def row_of_item(item_id: str, item: Item, columns: Mapping[str, type[pl.DataType]]) -> Row:
    """The row of *item*, with *columns* for its attributes."""
    fields = {name: getattr(item, name) for name in ITEM_SCHEMA if name != "item_id"}
    own, more = _parted(item.attributes, lambda name, value: name in columns and columns[name] is _kind(value))
    return {"item_id": item_id, **fields, **{name: own.get(name) for name in columns}, _MORE_ATTRIBUTES: _pairs(more)}


def item_of_row(row: Row) -> Row:
    """The body of the item in *row*, for ``POST /items``; every column that is not a field is an attribute."""
    fields = {name: row[name] for name in ITEM_SCHEMA if row.get(name) is not None}
    fields["item_id"] = _id(fields.get("item_id"))
    fields["price"] = _finite(fields.get("price"), None)
    others = {name: _plain(value) for name, value in row.items() if name not in {*ITEM_SCHEMA, _MORE_ATTRIBUTES}}
    attributes = {name: value for name, value in others.items() if value is not None}
    return fields | {"attributes": attributes | _from_pairs(row.get(_MORE_ATTRIBUTES))}


def row_of_user(user_id: str, profile: Profile) -> Row:
    """The row of a user's *profile*."""
    signals = {key: profile.context.get(key) for key in CONTEXT_KEYS}
    return {"user_id": user_id, **signals, _MORE_ATTRIBUTES: _pairs(profile.attributes)}


def profile_of_row(row: Row) -> tuple[str, Row]:
    """The user's id and profile in *row*, for ``PUT /users/{id}``; every column that is not a field is an attribute."""
    signals = {key: row[key] for key in CONTEXT_KEYS if row.get(key)}
    others = {name: _plain(value) for name, value in row.items() if name not in USER_SCHEMA}
    attributes = {name: value for name, value in others.items() if value is not None}
    attributes |= _from_pairs(row.get(_MORE_ATTRIBUTES))
    return _id(row.get("user_id")), signals | ({"attributes": attributes} if attributes else {})


# --- values ----------------------------------------------------------------------------------------------------------


def _is_signal(name: str, value: object) -> bool:
    """Whether the column of signal *name* can hold *value* unchanged."""
    if name == _INTERESTS:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    return name in CONTEXT_KEYS and isinstance(value, str)


def _parted(values: Mapping[str, Any], fits: Callable[[str, Any], bool]) -> tuple[Row, Row]:
    """The *values* that fit a column, and the others."""
    own = {name: value for name, value in values.items() if fits(name, value)}
    return own, {name: value for name, value in values.items() if name not in own}


def _json(values: Mapping[str, Any]) -> str | None:
    return orjson.dumps(values).decode() if values else None


def _kind(value: Attribute) -> type[pl.DataType] | None:
    """The type of the column that holds *value* unchanged; ``None`` if there is none."""
    if isinstance(value, bool):
        return pl.Boolean
    if isinstance(value, str):
        return pl.String
    return pl.Float64 if abs(value) <= _EXACT else None


def _pairs(values: Mapping[str, Any]) -> list[Row] | None:
    return [{"name": name, "json": orjson.dumps(value).decode()} for name, value in values.items()] or None


def _from_pairs(pairs: list[Row] | None) -> Row:
    return {pair["name"]: orjson.loads(pair["json"]) for pair in pairs or []}


def _plain(value: Any) -> Any:
    """A cell as an attribute: several values become one text, as training reads them; any other value is unchanged."""
    if isinstance(value, list):
        return SEVERAL.join(map(str, value)) or None
    return _finite(value, None) if isinstance(value, str | int | float) else None


def _finite(value: Any, otherwise: Any) -> Any:
    """*value*, or *otherwise* for null, NaN and infinity, which JSON lacks."""
    return otherwise if value is None or (isinstance(value, float) and not math.isfinite(value)) else value


def _id(value: Any) -> Any:
    """An id from a file; integers become text, as in the log."""
    return str(value) if isinstance(value, int) else value


def in_ms(value: datetime | int | float, unit: str) -> int:
    """A file's time in UTC milliseconds; a number is in *unit* (s, ms, us or ns), a date without a time zone is UTC."""
    if isinstance(value, datetime):
        return round((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * 1000)
    return int(value * _MS_OF[unit])
