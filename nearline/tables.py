"""Tables as people have them, a file or a folder of files, as polars' lazy frames with one type for each column.

Training and the command line read them by the same rules (``nearline/dataset_description.py``).
"""

from collections.abc import Iterable
from pathlib import Path

import polars as pl
from polars._typing import PolarsDataType

from nearline.dataset_description import Table, nearest
from nearline.errors import Misconfigured
from nearline.table_cells import AS_IT_IS
from nearline.table_files import MORE_CELLS, PARQUET, TEXT, files_of, kind_of, scan_lines, scan_text

FILE, ROW = " file", " row"  # columns of where a row stands: its file, and its number in it from 1 on
OF_PLACES = (FILE, ROW, MORE_CELLS)


def scan(path: Path, table: Table = AS_IT_IS) -> pl.LazyFrame:
    """The rows of a file of Parquet, CSV or JSON lines, or of a folder of one of them; ``Misconfigured`` if none.

    Where files of a folder differ, a column has the type that holds all of theirs, and nulls where one lacks it. Cells
    of CSV are texts. Each row has its file and its number there, under names that no table has.
    """
    files = files_of(path)
    if not files or not files[0].is_file():
        raise Misconfigured(f"no file at {path}; expected one of Parquet, CSV or JSON lines, or a folder of them")
    kinds = {kind_of(file) for file in files}
    if len(kinds) > 1:
        raise Misconfigured(
            f"{path} holds {' and '.join(sorted(kinds, reverse=True))}; expected a folder of one of them"
        )
    (kind,) = kinds
    try:
        frames = [_placed(_scan(file, kind, table), file, path) for file in files]
        frame = frames[0] if len(frames) == 1 else _together(frames, [frame.collect_schema() for frame in frames])
        frame.collect_schema()
    except (pl.exceptions.PolarsError, UnicodeError) as broken:
        raise Misconfigured(f"{path} is no {kind} that can be read: {broken}") from None
    return frame


def read_whole(path: Path, table: Table) -> pl.DataFrame:
    """As ``scan``, held in memory; ``Misconfigured`` if a row cannot be read."""
    try:
        return scan(path, table).collect()
    except pl.exceptions.PolarsError as broken:
        raise Misconfigured(f"{path} can not be read: {broken}") from None


def columns_of(frame: pl.LazyFrame) -> pl.Schema:
    """The columns that the table itself has."""
    return pl.Schema({name: dtype for name, dtype in frame.collect_schema().items() if name not in OF_PLACES})


def columns_in(
    schema: pl.Schema, table: Table, known: tuple[str, ...], required: tuple[str, ...], file: str, section: str
) -> dict[str, str]:
    """Our names to theirs for every known column that the file has.

    ``Misconfigured``, naming the file's columns and the nearest, if one is missing that is *required* or was named.
    """
    found = {}
    for ours in known:
        theirs = table.columns.get(ours, ours)
        if theirs in schema:
            found[ours] = theirs
        elif ours in required or ours in table.columns:
            raise Misconfigured(
                f"{file} has no column {theirs!r}{nearest(theirs, schema)}; its columns are {', '.join(schema)}; "
                f'name the right one in dataset.toml: [{section}] {ours} = "…"'
            )
    return found


def all_there(schema: pl.Schema, names: Iterable[str], file: str) -> None:
    """``Misconfigured`` with the nearest column if one of *names* is not in the file."""
    for name in names:
        if name not in schema:
            raise Misconfigured(
                f"{file} has no column {name!r}{nearest(name, schema)}; its columns are {', '.join(schema)}"
            )


def _scan(file: Path, kind: str, table: Table) -> pl.LazyFrame:
    if kind == PARQUET:
        return pl.scan_parquet(file, hive_partitioning=False)
    return scan_text(file, table) if kind == TEXT else scan_lines(file, table)


def _placed(frame: pl.LazyFrame, file: Path, root: Path) -> pl.LazyFrame:
    """The rows with their file and number, and with columns of the folders that are called ``name=value``."""
    folders = file.relative_to(root).parts[:-1] if file != root else ()
    parts = dict(folder.split("=", 1) for folder in folders if "=" in folder)
    there = frame.collect_schema()
    added = [pl.lit(value).alias(name) for name, value in parts.items() if name not in there]
    return frame.with_row_index(ROW, offset=1).with_columns(pl.lit(file.name).alias(FILE), *added)


def _together(frames: list[pl.LazyFrame], schemas: list[pl.Schema]) -> pl.LazyFrame:
    wanted: dict[str, pl.DataType] = {}
    for schema in schemas:
        for name, dtype in schema.items():
            wanted[name] = dtype if name not in wanted else _wider(wanted[name], dtype)
    return pl.concat(
        [
            frame.select(
                pl.col(name).cast(dtype) if name in schema else pl.lit(None, dtype).alias(name)
                for name, dtype in wanted.items()
            )
            for frame, schema in zip(frames, schemas, strict=True)
        ]
    )


def _wider(one: pl.DataType, other: pl.DataType) -> pl.DataType:
    """A type that holds the values of both."""
    if one == other or other == pl.Null:
        return one
    if one == pl.Null:
        return other
    if one.is_integer() and other.is_integer():
        return pl.Int64()
    if one.is_numeric() and other.is_numeric():
        return pl.Float64()
    if isinstance(one, pl.Datetime) and isinstance(other, pl.Datetime) and one.time_zone == other.time_zone:
        return pl.Datetime("us", one.time_zone)
    if isinstance(one, pl.List) and isinstance(other, pl.List):
        return pl.List(_wider(_instance(one.inner), _instance(other.inner)))
    return pl.String()


def _instance(dtype: PolarsDataType) -> pl.DataType:
    return dtype if isinstance(dtype, pl.DataType) else dtype()
