"""The events of a data set: rows of ``interactions.parquet`` as typed events, every row that is lost counted.

Everything here is a lazy polars query until ``survey`` or ``finished`` asks for figures or rows, so that the same rules
hold for a file that fits into memory and for shards that do not.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from nearline.dataset_description import EVENT_COLUMNS, USER_COLUMNS, Description, Table, nearest
from nearline.errors import BadInput, Misconfigured
from nearline.events import EVENT_TYPES, EventType
from nearline.ids import MAX_ID_BYTES
from nearline.signals import CONTEXT_KEYS
from nearline.tables import IN_MS, columns_in, joined, text_id, time_in_ms
from training.data.dataset_items import CONTROL, bad_id

EARLIEST_MS = int(datetime(1980, 1, 1, tzinfo=UTC).timestamp() * 1000)
LATEST_MS = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp() * 1000)
_UNIT_NAMES: Mapping[str, str] = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_REASON, _RAW_TIME, _TYPE_TOLD, _VALUE_BAD = "reason", "raw time", "type told", "value bad"
_MIXED_TIMES = 0.5  # of the times may lie outside 1980-2100 and be dropped; more of them are a wrong unit

FILTERED = "rows left out by the filter"
NO_USER, NO_ITEM = "rows dropped: no user id", "rows dropped: no item id"
BAD_ID = f"rows dropped: an id of control characters or over {MAX_ID_BYTES} bytes"
NO_TIME = "rows dropped: no time"
BAD_TIME = "rows dropped: time before 1980 or after 2100"
NO_TYPE = f"types set to {EventType.CLICK}: there was none"
BAD_VALUE = "values set to 1: none, or not a finite number"
TIME_FILLED = "times taken from the user's event before (or after): there was none"
TIME_UNKNOWN = "times set to the first of all: no event of the user has one"
REPEATED = "rows dropped: the event id came again (the latest counts)"
_DROPPED = (FILTERED, NO_USER, NO_ITEM, BAD_ID, NO_TIME, BAD_TIME)


@dataclass(frozen=True)
class Survey:
    """What one look at all rows finds: how many, what is lost and why, and which items are named."""

    rows: int
    kept: int
    counted: Mapping[str, int]
    item_ids: tuple[str, ...]  # sorted
    earliest_ms: int | None  # of all kept events


def typed(raw: pl.LazyFrame, about: Description, file: str, users: pl.LazyFrame | None = None) -> pl.LazyFrame:
    """All rows with our names and types, and in ``reason`` why a row is lost (null where it is kept)."""
    schema = raw.collect_schema()
    theirs = columns_in(schema, about.interactions, EVENT_COLUMNS, ("user_id", "item_id", "time"), file, "interactions")
    time_ms = time_in_ms(schema, theirs["time"], about.time_unit)
    declared = [key for key in CONTEXT_KEYS if key in theirs]
    frame = raw.select(
        text_id(schema, theirs["user_id"]).alias("user_id"),
        text_id(schema, theirs["item_id"]).alias("item_id"),
        _type(theirs, about.types).alias(_TYPE_TOLD),
        time_ms.alias(_RAW_TIME),
        _value(theirs).alias("value"),
        *([pl.col(theirs["order"]).alias("order")] if "order" in theirs else []),
        *([text_id(schema, theirs["event_id"]).alias("event_id")] if "event_id" in theirs else []),
        *(declaration(schema, theirs[key], about.interactions.separator).alias(key) for key in declared),
        _filtered(schema, about, file).alias(FILTERED),
    )
    return _judged(_with_users(frame, users, declared), ordered="order" in theirs)


def declared_by_users(raw: pl.LazyFrame, table: Table, file: str) -> pl.LazyFrame:
    """What users declared once for all, one row for each user: the last of his."""
    schema = raw.collect_schema()
    theirs = columns_in(schema, table, USER_COLUMNS, ("user_id",), file, "users")
    declared = [key for key in CONTEXT_KEYS if key in theirs]
    return raw.select(
        text_id(schema, theirs["user_id"]).alias("user_id"),
        *(declaration(schema, theirs[key], table.separator).alias(key) for key in declared),
    ).unique("user_id", keep="last", maintain_order=True)


def declaration(schema: pl.Schema, column: str, separator: str) -> pl.Expr:
    """A declared signal as a text without control characters; null where there is none."""
    text = joined(schema, column, separator).str.replace_all(CONTROL, " ").str.strip_chars()
    return pl.when(text != "").then(text)


def _type(theirs: Mapping[str, str], types: Mapping[str, str]) -> pl.Expr:
    if "type" not in theirs:
        return pl.lit(str(EventType.CLICK))
    told = pl.col(theirs["type"]).cast(pl.String)
    return told.replace(dict(types)) if types else told


def _value(theirs: Mapping[str, str]) -> pl.Expr:
    return pl.col(theirs["value"]).cast(pl.Float64, strict=False) if "value" in theirs else pl.lit(1.0)


def _filtered(schema: pl.Schema, about: Description, file: str) -> pl.Expr:
    """Whether the filter leaves the row out."""
    out = pl.lit(False)
    for column, values in about.filter.items():
        if column not in schema:
            raise Misconfigured(f"[interactions] filter: {file} has no column {column!r}{nearest(column, schema)}")
        out = out | ~pl.col(column).cast(pl.String).is_in([str(value) for value in values]).fill_null(False)
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
        NO_USER: user.is_null() | (user == ""),
        NO_ITEM: item.is_null() | (item == ""),
        BAD_ID: bad_id(user) | bad_id(item),
        NO_TIME: time.is_null() & (not ordered),
        BAD_TIME: ~_possible(time),
    }
    reason = pl.coalesce(*(pl.when(rule).then(pl.lit(name)) for name, rule in rules.items()))
    value = pl.col("value")
    return frame.with_columns(
        reason.alias(_REASON),
        pl.col(_TYPE_TOLD).fill_null(str(EventType.CLICK)).alias("type"),
        pl.when(value.is_finite()).then(value).otherwise(1.0).alias("value"),
        (~value.is_finite()).fill_null(True).alias(_VALUE_BAD),
        pl.when(_possible(time)).then(time).floor().cast(pl.Int64).alias("time_ms"),
    )


def _possible(time_ms: pl.Expr) -> pl.Expr:
    return (time_ms >= EARLIEST_MS) & (time_ms < LATEST_MS)


def survey(frame: pl.LazyFrame, unit: str | None) -> Survey:
    """Look at all rows once; ``BadInput`` if none is left, a type is unknown or the time is in another unit."""
    kept = pl.col(_REASON).is_null()
    candidates = pl.col(_RAW_TIME).is_not_null() & ~pl.col(FILTERED)
    figures, types, items = pl.collect_all(
        [
            frame.select(
                pl.len().alias("rows"),
                kept.sum().alias("kept"),
                *((pl.col(_REASON) == name).sum().alias(name) for name in _DROPPED),
                (kept & pl.col(_TYPE_TOLD).is_null()).sum().alias(NO_TYPE),
                (kept & pl.col(_VALUE_BAD)).sum().alias(BAD_VALUE),
                (kept & pl.col("time_ms").is_null()).sum().alias(TIME_FILLED),
                pl.col("time_ms").filter(kept).min().alias("earliest_ms"),
                candidates.sum().alias("timed"),
                pl.col(_RAW_TIME).filter(candidates).min().alias("earliest"),
                pl.col(_RAW_TIME).filter(candidates).max().alias("latest"),
                *(_read_as(other, unit).filter(candidates).sum().alias(f"as {other}") for other in IN_MS),
            ),
            frame.filter(kept).group_by("type").len().sort("len", descending=True),
            frame.filter(kept).select(pl.col("item_id").unique()),
        ],
        engine="streaming",
    )
    found = figures.row(0, named=True)
    _check_rows(found)
    _check_unit(found, unit)
    _check_types(dict(types.iter_rows()))
    _check_left(found)
    counted = {name: found[name] for name in (*_DROPPED, NO_TYPE, BAD_VALUE, TIME_FILLED) if found[name]}
    return Survey(found["rows"], found["kept"], counted, tuple(items.to_series().sort()), found["earliest_ms"])


def _read_as(other: str, unit: str | None) -> pl.Expr:
    """Whether the time would be possible if the column were in the unit *other*."""
    return _possible(pl.col(_RAW_TIME) / IN_MS.get(unit or "ms", 1.0) * IN_MS[other])


def _check_rows(found: Mapping[str, int]) -> None:
    if not found["rows"]:
        raise BadInput("empty", "the interactions hold no row; expected at least one event")


def _check_unit(found: Mapping[str, int], unit: str | None) -> None:
    declared = unit if unit is not None and unit in IN_MS else "ms"
    timed, possible = found["timed"], found[f"as {declared}"]
    if not timed or possible >= timed * (1 - _MIXED_TIMES):
        return
    best = max(IN_MS, key=lambda other: found[f"as {other}"])
    guess = f"it looks like {_UNIT_NAMES[best]}: set [interactions] time_unit = {best!r}" if found[f"as {best}"] else ""
    low, high = (found[name] / IN_MS[declared] for name in ("earliest", "latest"))
    raise BadInput(
        "impossible_time",
        f"of {timed:,} times only {possible:,} lie between 1980 and 2100 when read as {_UNIT_NAMES[declared]} (they go "
        f"from {low:.16g} to {high:.16g}); {guess or 'no unit makes them possible'}",
    )


def _check_types(types: Mapping[str, int]) -> None:
    for name, events in types.items():
        if name not in EVENT_TYPES:
            raise BadInput(
                "unknown_type",
                f"{events:,} events are of the unknown type {name!r:.80}{nearest(name, EVENT_TYPES)}; known are "
                f'{", ".join(EVENT_TYPES)}; map it in dataset.toml: [interactions] types = {{ {name} = "…" }}'[:400],
            )


def _check_left(found: Mapping[str, int]) -> None:
    if not found["kept"]:
        lost = "; ".join(f"{found[name]:,} {name}" for name in _DROPPED if found[name])
        raise BadInput("empty", f"none of {found['rows']:,} rows is left: {lost}")


def kept_rows(frame: pl.LazyFrame) -> pl.LazyFrame:
    """The rows that no rule dropped, with the columns that a log is made of."""
    columns = ("user_id", "item_id", "type", "time_ms", "value", "order", "event_id", *CONTEXT_KEYS)
    there = frame.collect_schema()
    return frame.filter(pl.col(_REASON).is_null()).select(name for name in columns if name in there)


def finished(events: pl.DataFrame, counted: Counter[str], *, never_ms: int | None) -> pl.DataFrame:
    """What needs a user's events together: missing times from his neighbouring events, repeated event ids once.

    A user of whom no time is known gets *never_ms* for all his events, so that only their order counts, or is dropped.
    """
    timed = _timed(events, counted, never_ms)
    once = _once(timed)
    counted[REPEATED] += timed.height - once.height
    return once


def _timed(events: pl.DataFrame, counted: Counter[str], never_ms: int | None) -> pl.DataFrame:
    if not events["time_ms"].null_count():
        return events
    neighbours = pl.col("time_ms").forward_fill().backward_fill().over("user_id")
    filled = events.sort("user_id", "order").with_columns(neighbours)
    unknown = filled["time_ms"].null_count()
    counted[TIME_FILLED] -= unknown
    counted[NO_TIME if never_ms is None else TIME_UNKNOWN] += unknown
    if never_ms is None:
        return filled.filter(pl.col("time_ms").is_not_null())
    return filled.with_columns(pl.col("time_ms").fill_null(never_ms))


def _once(events: pl.DataFrame) -> pl.DataFrame:
    if "event_id" not in events.columns:
        return events
    named = pl.col("event_id").is_not_null()
    once = events.filter(named).sort("time_ms", "item_id").unique(["user_id", "event_id"], keep="last")
    return pl.concat([once, events.filter(~named)])
