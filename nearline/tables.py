"""Files of rows, Parquet or CSV, as people have them: read into polars' lazy frames by what their columns are called.

Training and the command line read folders of them by the same rules (``nearline/dataset_description.py``).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from nearline.dataset_description import CSV, TIME_UNITS, Table, nearest
from nearline.errors import Misconfigured
from nearline.features import SEVERAL

IN_MS: Mapping[str, float] = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
_SUFFIXES = (".parquet", CSV)
_DELIMITERS = (",", ";", "\t")


def files_of(path: Path) -> list[Path]:
    """The file *path*, or the Parquet and CSV files of the folder *path* in their order."""
    return sorted(one for one in path.iterdir() if one.suffix in _SUFFIXES) if path.is_dir() else [path]


def scan(path: Path, texts: Iterable[str] = ()) -> pl.LazyFrame:
    """The rows of a Parquet or CSV file, or of a folder of either; ``Misconfigured`` if there are none to read.

    CSV has a header, columns parted by comma, semicolon or tab, and no types: those in *texts* are read as they stand
    (an id of 007 is no number), others as the numbers, dates or truth values that every row of the file makes them.
    """
    files = files_of(path)
    if not files or not files[0].is_file():
        raise Misconfigured(f"no file at {path}; expected one of Parquet or CSV, or a folder of them")
    csv = files[0].suffix == CSV
    if any((file.suffix == CSV) != csv for file in files):
        raise Misconfigured(f"{path} holds Parquet and CSV; expected a folder of one of them")
    try:
        frame = _scan_csv(files, set(texts)) if csv else pl.scan_parquet(files)
        frame.collect_schema()
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as broken:
        raise Misconfigured(f"{path} is no {'CSV' if csv else 'Parquet'} that can be read: {broken}") from None
    return frame


def _scan_csv(files: list[Path], texts: set[str]) -> pl.LazyFrame:
    with files[0].open(encoding="utf-8-sig") as opened:
        header = opened.readline()
    delimiter = max(_DELIMITERS, key=header.count)
    names = pl.read_csv(files[0], separator=delimiter, n_rows=0).columns
    return pl.scan_csv(
        files,
        separator=delimiter,
        schema_overrides={name: pl.String for name in names if name in texts},
        infer_schema_length=None,  # a price that is whole in the first hundred rows need not be in the next
        try_parse_dates=True,
    )


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


def text_id(schema: pl.Schema, column: str) -> pl.Expr:
    """The column as texts; whole numbers stored as floating point (as pandas does beside a null) are whole again."""
    dtype, value = schema[column], pl.col(column)
    if dtype.is_float():
        whole = value.cast(pl.Int64, strict=False)
        return pl.when(whole == value).then(whole.cast(pl.String)).otherwise(value.fill_nan(None).cast(pl.String))
    if dtype.is_integer() or dtype in (pl.String, pl.Categorical, pl.Enum):
        return value.cast(pl.String)
    raise Misconfigured(f"ids are texts or whole numbers; the column {column!r} holds {dtype}")


def joined(schema: pl.Schema, column: str, separator: str) -> pl.Expr:
    """The column as texts in which "|" parts several values: a list, or a text parted by *separator*."""
    value = pl.col(column)
    if isinstance(schema[column], pl.List | pl.Array):
        return value.cast(pl.List(pl.String)).list.drop_nulls().list.join(SEVERAL)
    text = value.cast(pl.String)
    return text if separator == SEVERAL else text.str.replace_all(separator, SEVERAL, literal=True)


def time_in_ms(schema: pl.Schema, column: str, unit: str | None) -> pl.Expr:
    """The column in UTC milliseconds, floating so that a wrong unit can not overflow; null where it is no time."""
    dtype, value = schema[column], pl.col(column)
    if isinstance(dtype, pl.Datetime | pl.Date):
        if unit not in (None, "datetime"):
            raise Misconfigured(f"[interactions] time_unit is {unit!r}, but the column {column!r} holds {dtype}")
        moment = value.cast(pl.Datetime("ms")) if dtype == pl.Date else value
        return moment.dt.epoch("ms").cast(pl.Float64)
    if dtype == pl.String and unit == "datetime":
        return value.str.to_datetime(time_unit="ms", strict=False).dt.epoch("ms").cast(pl.Float64)
    if not dtype.is_numeric() or unit == "datetime":
        raise Misconfigured(
            f"the column {column!r} holds {dtype}, which is no time in {unit or 'milliseconds'}; expected numbers with "
            f"[interactions] time_unit = one of {', '.join(TIME_UNITS[:4])}, or dates with time_unit = 'datetime'"
        )
    return value.cast(pl.Float64).fill_nan(None) * IN_MS[unit or "ms"]
