"""The log of all events, in columns sorted by user and time, in memory or mapped from files.

A log larger than memory is built part by part (a part holds all events of some users) and its columns are mapped from
files; ``log.item[rows]`` reads only those rows.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nearline.events import EVENT_TYPES
from nearline.features import SEVERAL
from nearline.signals import CONTEXT_KEYS, kept_context
from training.arrays import Ints

LogColumns = Mapping[str, NDArray[Any]]
CHUNK = 8_000_000  # rows processed together when a whole column might not fit
COLUMNS: Mapping[str, type[np.generic]] = {
    "user": np.int32,
    "item": np.int32,
    "time_ms": np.int64,
    "kind": np.int8,
    "context": np.int32,
    "value": np.float32,
    "basket_start": np.int64,
    "user_start": np.int64,
    "first_time": np.bool_,
}
_BETWEEN = "\x1f"
_HEAD = "log.json"


@dataclass(frozen=True)
class Log:
    """Events sorted by user, then time, then order or event id; all columns of one length.

    ``kind`` holds ``TYPE_CODES``. ``context`` is a row of ``contexts``: the newest value of each declared signal up to
    that event, merged as in serving; row 0 is ``{}``, none. ``first_time`` is true if the user met the item for the
    first time; ``user_start`` and ``basket_start`` are the indexes at which the event's user and basket begin. A basket
    is all events of one user at one time, or, without joint targets, one event.
    """

    item_ids: tuple[str, ...]
    contexts: tuple[Mapping[str, Any], ...]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time_ms: Ints
    kind: NDArray[np.int8]
    context: NDArray[np.int32]
    value: NDArray[np.float32]
    basket_start: Ints
    user_start: Ints
    first_time: NDArray[np.bool_]

    def __len__(self) -> int:
        """The number of events."""
        return len(self.item)

    @property
    def users(self) -> int:
        """The number of users."""
        return int(self.user[-1]) + 1 if len(self) else 0


def make_log(events: pl.DataFrame, item_ids: Sequence[str], *, joint: bool = True) -> Log:
    """The log of *events* over the catalogue *item_ids*, which holds every item of theirs.

    Columns: user_id, item_id, type, time_ms, and where there are any value, order, event_id and the declared signals of
    the user (texts; ``interests`` parted by "|"). Without *joint* every event is a basket of its own.
    """
    contexts = Contexts()
    columns = columns_of(events, item_ids, contexts, joint=joint)
    return Log(item_ids=tuple(item_ids), contexts=contexts.seen, **columns)


class Contexts:
    """The distinct contexts in the order in which they came; row 0 is none."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {"{}": 0}

    @property
    def seen(self) -> tuple[Mapping[str, Any], ...]:
        """Every context so far, by row."""
        return tuple(json.loads(text) for text in self._rows)

    def rows(self, events: pl.DataFrame) -> NDArray[np.int32]:
        """The row of each event's context; new contexts get new rows."""
        keys = [key for key in CONTEXT_KEYS if key in events.columns]
        if not keys:
            return np.zeros(events.height, dtype=np.int32)
        text = events.select(pl.concat_str(pl.col(keys).fill_null(""), separator=_BETWEEN)).to_series()
        distinct = text.unique(maintain_order=True)
        rows = [self._row(dict(zip(keys, one.split(_BETWEEN), strict=True))) for one in distinct]
        return text.replace_strict(distinct, rows, return_dtype=pl.Int32).to_numpy()

    def _row(self, told: Mapping[str, str]) -> int:
        """The row of one event's context, as serving keeps it."""
        values = {key: value.split(SEVERAL) if key == "interests" else value for key, value in told.items()}
        text = json.dumps(kept_context(values) or {}, ensure_ascii=False)
        return self._rows.setdefault(text, len(self._rows))


def columns_of(events: pl.DataFrame, item_ids: Sequence[str], contexts: Contexts, *, joint: bool) -> LogColumns:
    """The columns of a log that holds *events* alone; new contexts are added to *contexts*."""
    ordered = _declared_so_far(in_order(events))
    changed = _changes(ordered["user_id"])
    item = _codes(ordered["item_id"], item_ids)
    time_ms = ordered["time_ms"].to_numpy()
    user = np.cumsum(changed) - 1
    begins = changed | _changes(ordered["time_ms"]) if joint else np.ones(len(user), dtype=bool)
    found = {
        "user": user,
        "item": item,
        "time_ms": time_ms,
        "kind": _codes(ordered["type"], EVENT_TYPES) + 1,
        "context": contexts.rows(ordered),
        "value": ordered["value"].to_numpy() if "value" in ordered.columns else np.ones(len(user)),
        "basket_start": _starts(begins),
        "user_start": _starts(changed),
        "first_time": _first_times(user, item, len(item_ids)),
    }
    return {name: np.ascontiguousarray(found[name], dtype=dtype) for name, dtype in COLUMNS.items()}


def _codes(column: pl.Series, names: Sequence[str]) -> NDArray[np.int64]:
    """The position of each value in *names*, which holds them all."""
    known = pl.Enum(pl.Series(values=[str(name) for name in names], dtype=pl.String))
    return column.cast(pl.String).cast(known).to_physical().cast(pl.Int64).to_numpy()


def in_order(events: pl.DataFrame) -> pl.DataFrame:
    """*events* by user and time; events of one time by order, event id and item, as far as present."""
    keys = [name for name in ("user_id", "time_ms", "order", "event_id", "item_id") if name in events.columns]
    return events.sort(keys)


def _declared_so_far(ordered: pl.DataFrame) -> pl.DataFrame:
    """Every event with the newest value of each signal that its user has declared up to it."""
    keys = [key for key in CONTEXT_KEYS if key in ordered.columns]
    return ordered.with_columns(pl.col(keys).replace("", None).forward_fill().over("user_id")) if keys else ordered


def _changes(column: pl.Series) -> NDArray[np.bool_]:
    """True where a value is not that of the row before; the first row is a change."""
    return (column != column.shift()).fill_null(True).to_numpy()


def _starts(begins: NDArray[np.bool_]) -> Ints:
    """For every row the index of the last row up to it where *begins* is true."""
    return np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))


def _first_times(user: NDArray[Any], item: NDArray[Any], items: int) -> NDArray[np.bool_]:
    first = np.zeros(len(user), dtype=bool)
    first[np.unique(user.astype(np.int64) * items + item, return_index=True)[1]] = True
    return first


def only(log: Log, kept: NDArray[np.bool_]) -> Log:
    """The log with only the *kept* events (users keep their numbers)."""
    rows = np.flatnonzero(kept)
    user, item = log.user[rows], log.item[rows]
    changed = np.append(True, user[1:] != user[:-1])[: len(rows)]
    old_basket = log.basket_start[rows]
    begins = np.append(True, old_basket[1:] != old_basket[:-1])[: len(rows)]
    plain = {name: getattr(log, name)[rows] for name in ("time_ms", "kind", "context", "value")}
    first = _first_times(user, item, len(log.item_ids))
    return replace(
        log, user=user, item=item, basket_start=_starts(begins), user_start=_starts(changed), first_time=first, **plain
    )


def chunks(length: int, size: int = CHUNK) -> Iterator[slice]:
    """Slices that cover ``range(length)`` in order."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def write_log(parts: Iterable[LogColumns], contexts: Contexts, folder: Path) -> None:
    """Append *parts*, each with users of its own, to one file for each column in *folder*, for ``open_log``."""
    events = users = 0
    files = {name: (folder / name).open("wb") for name in COLUMNS}
    try:
        for part in parts:
            shift = {"user": users, "basket_start": events, "user_start": events}
            for name, file in files.items():
                (part[name] + shift[name] if name in shift else part[name]).astype(COLUMNS[name]).tofile(file)
            events += len(part["user"])
            users += int(part["user"][-1]) + 1 if len(part["user"]) else 0
    finally:
        for file in files.values():
            file.close()
    (folder / _HEAD).write_text(json.dumps({"events": events, "contexts": contexts.seen}, ensure_ascii=False))


def open_log(folder: Path, item_ids: Sequence[str]) -> Log:
    """The log that ``write_log`` left in *folder*, its columns mapped from the files, read-only."""
    head = json.loads((folder / _HEAD).read_text())
    columns = {name: _mapped(folder / name, dtype, head["events"]) for name, dtype in COLUMNS.items()}
    return Log(item_ids=tuple(item_ids), contexts=tuple(head["contexts"]), **columns)


def _mapped(path: Path, dtype: type[np.generic], events: int) -> NDArray[Any]:
    """The column in *path*; without a mapping if it is empty, since an empty file cannot be mapped."""
    return np.memmap(path, dtype=dtype, mode="r", shape=(events,)) if events else np.zeros(0, dtype=dtype)
