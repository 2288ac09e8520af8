"""Logs larger than memory: the events are parted by user into files that fit, then sorted and appended one by one.

A stable hash of the user decides his part, so the same data gives the same log on every machine. The log's folder is
there whole or not at all: it is written under a hidden name and renamed when it is complete.
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from nearline.hashing import hash64_all
from training.events import Survey, finished
from training.log import Contexts, columns_of, write_log

_PART = "part"
_NOTES = "notes.json"


@dataclass(frozen=True)
class Notes:
    """What was found when the log was made: the catalogue in the order of its rows, and what was lost."""

    item_ids: tuple[str, ...]
    rows: int
    counted: Mapping[str, int]


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
    """Make the log of *events* in *folder*, holding the rows of about one part in memory at a time.

    Another process may do the same: who is first wins, and both have made the same.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    parts = -(-found.kept // rows_per_part)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        hidden, complete = Path(name) / "parts", Path(name) / "log"
        complete.mkdir()
        part_by_user(events, hidden, parts)
        counted: Counter[str] = Counter(found.counted)
        contexts = Contexts()
        write_log(
            (
                columns_of(finished(part, counted, never_ms=never_ms), item_ids, contexts, joint=joint)
                for part in parts_in(hidden, parts)
            ),
            contexts,
            complete,
        )
        (complete / _NOTES).write_text(json.dumps([item_ids, found.rows, counted], ensure_ascii=False))
        if not folder.exists():
            os.replace(complete, folder)


def read_notes(folder: Path) -> Notes | None:
    """What is known of the log in *folder*; ``None`` if there is none."""
    path = folder / _NOTES
    if not path.is_file():
        return None
    item_ids, rows, counted = json.loads(path.read_text())
    return Notes(tuple(item_ids), rows, counted)


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
