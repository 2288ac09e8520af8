"""What a log needs of a user's events together: times from his neighbouring events, repeated event ids once."""

from collections import Counter

import polars as pl

from nearline.table_events import NO_TIME, REPEATED, TIME_FILLED, TIME_UNKNOWN


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
