"""The events of a data set: rows of its interactions as typed events, every row that is lost counted with its reason.

``nearline import`` and training read them by these rules. Everything here is a lazy polars query until ``survey`` asks
for figures, so that the same rules hold for a file that fits into memory and for shards that do not.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from nearline.dataset_description import EVENT_COLUMNS, USER_COLUMNS, Description, Table, nearest
from nearline.errors import BadInput
from nearline.events import EARLIEST_MS, EVENT_TYPES, EventType
from nearline.ids import MAX_ID_BYTES
from nearline.signals import CONTEXT_KEYS
from nearline.table_cells import AS_IT_IS, IN_MS, dates_in, joined, number, text, text_id, time_in_ms, told
from nearline.table_files import MORE_CELLS
from nearline.tables import FILE, ROW, all_there, columns_in, columns_of

LATEST_MS = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp() * 1000)
_UNIT_NAMES: Mapping[str, str] = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
REASON = "reason"
_RAW_TIME, _TYPE_TOLD, _VALUE_BAD, _TOO_LONG = "raw time", "type told", "value bad", "too long"
CONTROL = r"[\x00-\x1f\x7f-\x{9f}]"
_EXCEL = r"^\d\.\d+E\+\d+$"
_MIXED = 0.5  # of the times may lie outside 1980-2100, of the types be unknown; more are a wrong setting
_NO_USER_WORDS = ("NA", "N/A", "NONE", "-", "0", "-1", "UNKNOWN", "GUEST", "ANONYMOUS", "UNDEFINED")
_SHOWN = 5
_ONE_USER = 0.5  # of the events of a hundred or more

FILTERED = "rows left out by the filter"
NO_USER, NO_ITEM = "rows dropped: no user id", "rows dropped: no item id"
BAD_ID = f"rows dropped: an id of control characters or over {MAX_ID_BYTES} bytes"
NO_TIME = "rows dropped: no time"
BAD_TIME = "rows dropped: time before 1980 or after 2100"
BAD_TYPE = "rows dropped: an unknown type"
MORE = "rows dropped: more cells than the header names"
NO_TYPE = f"types set to {EventType.CLICK}: there was none"
BAD_VALUE = "values set to 1: none, or not a finite number"
TIME_FILLED = "times taken from the user's event before (or after): there was none"
TIME_UNKNOWN = "times set to the first of all: no event of the user has one"
REPEATED = "rows dropped: the event id came again (the latest counts)"
_DROPPED = (FILTERED, NO_USER, NO_ITEM, BAD_ID, NO_TIME, BAD_TIME, BAD_TYPE, MORE)


@dataclass(frozen=True)
class Survey:
    """What one look at all rows finds: how many, what is lost and why, and which items are named."""

    rows: int
    kept: int
    counted: Mapping[str, int]
    item_ids: tuple[str, ...]  # sorted
    earliest_ms: int | None  # of all kept events
    hints: tuple[str, ...] = ()  # what looks wrong though every cell is right, and lines for dataset.toml that mend it


def typed(
    raw: pl.LazyFrame,
    about: Description,
    file: str,
    users: pl.LazyFrame | None = None,
    *,
    kept: tuple[str, ...] = (),
    timed: bool = False,
) -> pl.LazyFrame:
    """All rows with our names and types, their places, and in ``reason`` why a row is lost (null where it is kept).

    *kept* names columns that stay as they are, where the file has them. If *timed*, an event needs its
    own time even where its order is known.
    """
    schema, table = columns_of(raw), about.interactions
    theirs = columns_in(schema, table, EVENT_COLUMNS, ("user_id", "item_id", "time"), file, "interactions")
    dates = dates_in(raw, theirs["time"], table, of="interactions")
    time_ms = time_in_ms(schema, theirs["time"], table, dates, of="interactions")
    declared = [key for key in CONTEXT_KEYS if key in theirs]
    frame = raw.select(
        text_id(schema, theirs["user_id"], table).alias("user_id"),
        text_id(schema, theirs["item_id"], table).alias("item_id"),
        _type(schema, theirs, about).alias(_TYPE_TOLD),
        time_ms.alias(_RAW_TIME),
        (number(schema, theirs["value"], table) if "value" in theirs else pl.lit(1.0)).alias("value"),
        *([_order(schema, theirs["order"]).alias("order")] if "order" in theirs else []),
        *([text_id(schema, theirs["event_id"], table).alias("event_id")] if "event_id" in theirs else []),
        *(declaration(schema, theirs[key], table).alias(key) for key in declared),
        _filtered(schema, about, file).alias(FILTERED),
        (pl.col(MORE_CELLS).is_not_null() if MORE_CELLS in raw.collect_schema() else pl.lit(False)).alias(_TOO_LONG),
        *(pl.col(name) for name in (FILE, ROW) if name in raw.collect_schema()),
        *(pl.col(name) for name in kept if name in schema),
    )
    return _judged(_with_users(frame, users, declared), ordered="order" in theirs and not timed)


def declared_by_users(raw: pl.LazyFrame, table: Table, file: str) -> pl.LazyFrame:
    """What users declared once for all, one row for each user: of each column the last that is not blank."""
    schema = columns_of(raw)
    theirs = columns_in(schema, table, USER_COLUMNS, ("user_id",), file, "users")
    declared = [key for key in CONTEXT_KEYS if key in theirs]
    frame = raw.select(
        text_id(schema, theirs["user_id"], table).alias("user_id"),
        *(declaration(schema, theirs[key], table).alias(key) for key in declared),
    )
    return last_of_each(frame, "user_id")


def last_of_each(frame: pl.LazyFrame, key: str) -> pl.LazyFrame:
    """One row for each value of *key*, in the order of their first: of each column the last that is not null."""
    others = [name for name in frame.collect_schema() if name != key]
    return frame.group_by(key, maintain_order=True).agg(pl.col(others).drop_nulls().last())


def bad_id(value: pl.Expr) -> pl.Expr:
    """Whether an id can not be the key of a record or document."""
    return (value.str.len_bytes() > MAX_ID_BYTES) | value.str.contains(CONTROL)


def declaration(schema: pl.Schema, column: str, table: Table) -> pl.Expr:
    """A declared signal as a text without control characters; null where there is none."""
    told = joined(schema, column, table).str.replace_all(CONTROL, " ").str.strip_chars()
    return pl.when(told != "").then(told)


def _type(schema: pl.Schema, theirs: Mapping[str, str], about: Description) -> pl.Expr:
    if "type" not in theirs:
        return pl.lit(str(EventType.CLICK))
    word = text(schema, theirs["type"], about.interactions)
    return word.replace(dict(about.types)) if about.types else word


def _order(schema: pl.Schema, column: str) -> pl.Expr:
    """The place among events of one time: a number where the column holds texts of numbers."""
    value = pl.col(column)
    return value.cast(pl.Float64, strict=False) if schema[column] == pl.String else value


def _filtered(schema: pl.Schema, about: Description, file: str) -> pl.Expr:
    """Whether the filter leaves the row out."""
    out = pl.lit(False)
    all_there(schema, about.filter, file)
    for column, values in about.filter.items():
        words = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
        out = out | ~told(schema, column, AS_IT_IS).is_in(words).fill_null(False)
    return out


def _with_users(frame: pl.LazyFrame, users: pl.LazyFrame | None, declared: list[str]) -> pl.LazyFrame:
    """What an event declares goes before what its user declared once for all."""
    if users is None:
        return frame
    keys = [key for key in users.collect_schema() if key in CONTEXT_KEYS]
    both = frame.join(users, on="user_id", how="left", suffix=" of user")
    merged = [pl.coalesce(key, f"{key} of user").alias(key) for key in keys if key in declared]
    return both.with_columns(merged).drop([f"{key} of user" for key in keys if key in declared])


def _judged(frame: pl.LazyFrame, *, ordered: bool) -> pl.LazyFrame:
    user, item, time = pl.col("user_id"), pl.col("item_id"), pl.col(_RAW_TIME)
    rules = {
        FILTERED: pl.col(FILTERED),
        MORE: pl.col(_TOO_LONG),
        NO_USER: user.is_null() | (user == ""),
        NO_ITEM: item.is_null() | (item == ""),
        BAD_ID: bad_id(user) | bad_id(item),
        NO_TIME: time.is_null() & (not ordered),
        BAD_TIME: ~_possible(time),
        BAD_TYPE: ~pl.col(_TYPE_TOLD).is_in(EVENT_TYPES),
    }
    reason = pl.coalesce(*(pl.when(rule).then(pl.lit(name)) for name, rule in rules.items()))
    value = pl.col("value")
    return frame.with_columns(
        reason.alias(REASON),
        pl.col(_TYPE_TOLD).fill_null(str(EventType.CLICK)).alias("type"),
        pl.when(value.is_finite()).then(value).otherwise(1.0).alias("value"),
        (~value.is_finite()).fill_null(True).alias(_VALUE_BAD),
        pl.when(_possible(time)).then(time).floor().cast(pl.Int64).alias("time_ms"),
    )


def _possible(time_ms: pl.Expr) -> pl.Expr:
    return (time_ms >= EARLIEST_MS) & (time_ms < LATEST_MS)


def survey(frame: pl.LazyFrame, unit: str | None) -> Survey:
    """Look at all rows once; ``BadInput`` if none is left, a type is unknown or the time is in another unit."""
    kept = pl.col(REASON).is_null()
    candidates = pl.col(_RAW_TIME).is_not_null() & ~pl.col(FILTERED)
    figures, types, items, of_one = pl.collect_all(
        [
            frame.select(
                pl.len().alias("rows"),
                kept.sum().alias("kept"),
                *((pl.col(REASON) == name).sum().alias(name) for name in _DROPPED),
                (kept & pl.col(_TYPE_TOLD).is_null()).sum().alias(NO_TYPE),
                (kept & pl.col(_VALUE_BAD)).sum().alias(BAD_VALUE),
                (kept & pl.col("time_ms").is_null()).sum().alias(TIME_FILLED),
                pl.col("time_ms").filter(kept).min().alias("earliest_ms"),
                candidates.sum().alias("timed"),
                pl.col(_RAW_TIME).filter(candidates).min().alias("earliest"),
                pl.col(_RAW_TIME).filter(candidates).max().alias("latest"),
                *(_read_as(other, unit).filter(candidates).sum().alias(f"as {other}") for other in IN_MS),
            ),
            frame.filter(pl.col(REASON) == BAD_TYPE)
            .group_by("type")
            .len()
            .sort("len", "type", descending=[True, False]),
            frame.filter(kept).select(pl.col("item_id").unique()),
            frame.filter(kept).group_by("user_id").len().sort("len", descending=True).head(1),
        ],
        engine="streaming",
    )
    found = figures.row(0, named=True)
    _check_rows(found)
    _check_unit(found, unit)
    unknown = dict(types.iter_rows())
    _check_types(unknown, found)
    _check_left(found)
    met = items.to_series().sort()
    hints = (*(_about_type(name, events) for name, events in list(unknown.items())[:_SHOWN]), *_odd(met, of_one, found))
    counted = {name: found[name] for name in (*_DROPPED, NO_TYPE, BAD_VALUE, TIME_FILLED) if found[name]}
    return Survey(found["rows"], found["kept"], counted, tuple(met), found["earliest_ms"], hints)


def _read_as(other: str, unit: str | None) -> pl.Expr:
    """Whether the time would be possible if the column were in the unit *other*."""
    return _possible(pl.col(_RAW_TIME) / IN_MS.get(unit or "ms", 1.0) * IN_MS[other])


def _check_rows(found: Mapping[str, int]) -> None:
    if not found["rows"]:
        raise BadInput("empty", "the interactions hold no row; expected at least one event")


def _check_unit(found: Mapping[str, int], unit: str | None) -> None:
    declared = unit if unit is not None and unit in IN_MS else "ms"
    timed, possible = found["timed"], found[f"as {declared}"]
    if not timed or possible >= timed * (1 - _MIXED):
        return
    best = max(IN_MS, key=lambda other: found[f"as {other}"])
    guess = f"it looks like {_UNIT_NAMES[best]}: set [interactions] time_unit = {best!r}" if found[f"as {best}"] else ""
    low, high = (found[name] / IN_MS[declared] for name in ("earliest", "latest"))
    raise BadInput(
        "impossible_time",
        f"of {timed:,} times only {possible:,} lie between 1980 and 2100 when read as {_UNIT_NAMES[declared]} (they go "
        f"from {low:.16g} to {high:.16g}); {guess or 'no unit makes them possible'}",
    )


def _check_types(unknown: Mapping[str, int], found: Mapping[str, int]) -> None:
    """``BadInput`` with the line that maps the most frequent unknown type, if most rows have one."""
    if unknown and sum(unknown.values()) > _MIXED * (sum(unknown.values()) + found["kept"]):
        raise BadInput("unknown_type", "; ".join(_about_type(*pair) for pair in list(unknown.items())[:_SHOWN])[:600])


def _about_type(name: str, events: int) -> str:
    near = difflib.get_close_matches(name.lower(), EVENT_TYPES, n=1)
    line = f"types = {{ {_quoted(name)} = {_quoted(near[0] if near else str(EventType.VIEW))} }}"
    return (
        f"{events:,} events are of the unknown type {name!r:.80}{nearest(name, EVENT_TYPES)}; known are "
        f"{', '.join(EVENT_TYPES)}; map it in dataset.toml: [interactions] {line}"
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _odd(items: pl.Series, of_one: pl.DataFrame, found: Mapping[str, int]) -> Iterator[str]:
    """Ids that look as if a program had changed them, or stood for no user."""
    rounded = items.filter(items.str.contains(_EXCEL))
    if len(rounded):
        yield f"{len(rounded):,} item ids look like Excel's rounded numbers, such as {rounded[0]!r}: export texts"
    for user, events in of_one.iter_rows():
        if re.match(_EXCEL, user):
            yield f"user ids look like Excel's rounded numbers, such as {user!r}: export them as text"
        if user.upper() in _NO_USER_WORDS or (events > _ONE_USER * found["kept"] and found["kept"] >= 100):
            yield (
                f"one user, {user!r:.80}, has {events:,} of {found['kept']:,} events; if it is no user, "
                f"say so in dataset.toml: [interactions] null = [{_quoted(user)}]"
            )


def _check_left(found: Mapping[str, int]) -> None:
    if not found["kept"]:
        lost = "; ".join(f"{found[name]:,} {name}" for name in _DROPPED if found[name])
        raise BadInput("empty", f"none of {found['rows']:,} rows is left: {lost}")


def examples(frame: pl.LazyFrame, each: int) -> list[tuple[str, str, int]]:
    """The reason, file and row of the first rows that are lost, up to *each* of a reason; not those filtered out."""
    lost = frame.filter(pl.col(REASON).is_not_null() & (pl.col(REASON) != FILTERED)).select(REASON, FILE, ROW)
    first = lost.collect(engine="streaming").sort(FILE, ROW).group_by(REASON, maintain_order=True).head(each)
    return list(first.iter_rows())


def kept_rows(frame: pl.LazyFrame, also: tuple[str, ...] = ()) -> pl.LazyFrame:
    """The rows that no rule dropped, with the columns that a log is made of."""
    columns = ("user_id", "item_id", "type", "time_ms", "value", "order", "event_id", *CONTEXT_KEYS, *also)
    there = frame.collect_schema()
    return frame.filter(pl.col(REASON).is_null()).select(name for name in columns if name in there)
