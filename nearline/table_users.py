"""The users of a data set as profiles for the API; what is changed is counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from nearline.dataset_description import USER_COLUMNS, Table
from nearline.features import SEVERAL
from nearline.signals import CONTEXT_KEYS
from nearline.table_cells import text_id
from nearline.table_events import declaration
from nearline.table_files import MORE_CELLS
from nearline.table_items import Losses, attribute_columns, attributes_of, more_of, with_ids
from nearline.tables import FILE, ROW, columns_in, columns_of, read_whole

_INTERESTS = "interests"


@dataclass(frozen=True)
class DatasetUsers:
    """The profiles by user id in the order of their file, and what was dropped or changed."""

    profiles: dict[str, dict[str, Any]]
    counted: Mapping[str, int]
    shown: Mapping[str, list[str]]
    rows: int


def read_users(path: Path, table: Table) -> DatasetUsers:
    """The users in the file *path*: the signals that they declared, and every other column as an attribute.

    Of rows with one id the last counts, but a blank cell does not replace a value.
    """
    raw = read_whole(path, table)
    schema = columns_of(raw.lazy())
    theirs = columns_in(schema, table, USER_COLUMNS, ("user_id",), path.name, "users")
    losses = Losses()
    columns = attribute_columns(raw, schema, None, {*theirs.values(), *USER_COLUMNS}, table, path.name, losses)
    frame = raw.select(
        text_id(schema, theirs["user_id"], table).alias("user_id"),
        *signals(schema, theirs, table),
        *(value.alias(f"a:{name}") for name, value in columns.items()),
        *(pl.col(name) for name in ("more_attributes",) if name in schema),
        *(pl.col(name) for name in (FILE, ROW)),
        (pl.col(MORE_CELLS).is_not_null() if MORE_CELLS in raw.columns else pl.lit(False)).alias(MORE_CELLS),
    )
    kept = with_ids(frame, losses, "user_id", "users")
    profiles = {row["user_id"]: _profile(row, tuple(columns), losses) for row in kept.iter_rows(named=True)}
    return DatasetUsers(profiles, losses.counted, losses.shown, raw.height)


def signals(schema: pl.Schema, theirs: Mapping[str, str], table: Table) -> list[pl.Expr]:
    """The declared signals under our names, the interests as a list; null where there is none."""
    found = []
    for key in CONTEXT_KEYS:
        if key not in theirs:
            continue
        told = declaration(schema, theirs[key], table)
        if key == _INTERESTS:
            parts = told.str.split(SEVERAL).list.eval(pl.element().str.strip_chars())
            kept = parts.list.eval(pl.element().filter(pl.element() != ""))
            told = pl.when(kept.list.len() > 0).then(kept)
        found.append(told.alias(key))
    return found


def _profile(row: Mapping[str, Any], attributes: tuple[str, ...], losses: Losses) -> dict[str, Any]:
    told = {key: row[key] for key in CONTEXT_KEYS if row.get(key)}
    others = attributes_of(row, attributes, losses.counted) | more_of(row)
    return told | ({"attributes": others} if others else {})
