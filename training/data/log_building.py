"""Builds logs larger than memory: partitions events by user into files that fit, then sorts and appends them in turn.

A stable hash of the user decides the part, so the same data gives the same log on every machine. The log's folder
appears atomically: it is written under a hidden name and renamed when complete.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from nearline.hashing import hash64_all
from nearline.table_events import Survey
from training.data.events import finished
from training.data.log import Contexts, LogColumns, columns_of, write_log

_PART = "part"
_NOTES = "notes.json"


@dataclass(frozen=True)
class LogNotes:
    """Notes about building a log: the catalogue in the order of its rows, lost rows by reason, and the parts' sizes."""

    item_ids: tuple[str, ...]
    rows: int
    counted: Mapping[str, int]
    part_rows: tuple[int, ...]  # how many rows were in memory together, one after the other


def build_log(
    events: pl.LazyFrame,
    found: Survey,
    item_ids: tuple[str, ...],
    folder: Path,
    *,
    rows_per_part: int,
    joint: bool,
    never_ms: int | None = None,
) -> None:
    """Build the log of *events* in *folder*, with the rows of about one part in memory at a time.

    Another process may do the same: the first one wins, and both results are equal.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    parts = -(-found.kept // rows_per_part)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        hidden, complete = Path(name) / "parts", Path(name) / "log"
        complete.mkdir()
        part_by_user(events, hidden, parts)
        counted: Counter[str] = Counter(found.counted)
        contexts = Contexts()
        sizes: list[int] = []
        columns = _columns(parts_in(hidden, parts), item_ids, contexts, counted, sizes, joint=joint, never_ms=never_ms)
        write_log(columns, contexts, complete)
        notes = [item_ids, found.rows, counted, sizes]
        (complete / _NOTES).write_text(json.dumps(notes, ensure_ascii=False))
        _publish(complete, folder)


def _publish(complete: Path, folder: Path) -> None:
    try:
        complete.rename(folder)
    except OSError:
        if read_notes(folder) is None:  # no other process was first
            raise


def _columns(
    parts: Iterator[pl.DataFrame],
    item_ids: tuple[str, ...],
    contexts: Contexts,
    counted: Counter[str],
    sizes: list[int],
    *,
    joint: bool,
    never_ms: int | None,
) -> Iterator[LogColumns]:
    """The columns of each part in turn; what it held and lost is added to *sizes* and *counted*."""
    for part in parts:
        sizes.append(part.height)
        yield columns_of(finished(part, counted, never_ms=never_ms), item_ids, contexts, joint=joint)


def read_notes(folder: Path) -> LogNotes | None:
    """The notes about the log in *folder*; ``None`` without one."""
    path = folder / _NOTES
    if not path.is_file():
        return None
    item_ids, rows, counted, part_rows = json.loads(path.read_text())
    return LogNotes(tuple(item_ids), rows, counted, tuple(part_rows))


def part_by_user(events: pl.LazyFrame, folder: Path, parts: int) -> None:
    """Write the rows of *events* into one folder for each part; all rows of one user go to one part."""
    part = pl.col("user_id").map_batches(lambda users: part_of(users, parts), pl.Int32, is_elementwise=True)
    events.with_columns(part.alias(_PART)).sink_parquet(
        pl.PartitionBy(folder, key=_PART, include_key=False), mkdir=True, engine="streaming"
    )


def part_of(users: pl.Series, parts: int) -> pl.Series:
    """The part of each user, the same for ever."""
    distinct = users.unique()
    part = (hash64_all(distinct.to_list()) % parts).astype("int32")
    return users.replace_strict(distinct, pl.Series(part), return_dtype=pl.Int32)


def parts_in(folder: Path, parts: int) -> Iterator[pl.DataFrame]:
    """The parts that ``part_by_user`` left in *folder*, in order; an empty one is left out."""
    for number in range(parts):
        part = folder / f"{_PART}={number}"
        if part.is_dir():
            yield pl.read_parquet(sorted(part.rglob("*.parquet")))
