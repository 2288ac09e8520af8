"""What a file of rows is, judged by its content: Parquet, JSON lines, or CSV with its delimiter and encoding."""

import codecs
import gzip
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import polars as pl

from nearline.dataset_description import Table
from nearline.errors import Misconfigured

PARQUET, TEXT, LINES = "Parquet", "CSV", "JSON lines"
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
_DELIMITERS = (",", ";", "\t", "|", "::")
_LOOK_BYTES = 1 << 20
_UNIT_SEPARATOR = "\x1f"  # stands for a delimiter of two characters, which the reader of CSV does not know
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
MORE_CELLS = " more cells"  # the column of what a row has beyond its header


@dataclass(frozen=True)
class Form:
    """How the text of a CSV file is to be read."""

    delimiter: str
    skipped: int  # lines before the header
    names: tuple[str, ...]
    header: bool
    quoted: bool


def files_of(path: Path) -> list[Path]:
    """The file *path*, or the files of the folder *path* and its folders in their order.

    Without hidden ones, Spark's ``_SUCCESS`` and empty parts.
    """
    if not path.is_dir():
        return [path]
    inside = (one for one in path.rglob("*") if not any(p.startswith((".", "_")) for p in one.relative_to(path).parts))
    return sorted(one for one in inside if one.is_file() and one.stat().st_size)


def kind_of(file: Path) -> str:
    """Parquet, CSV or JSON lines; ``Misconfigured`` for anything else."""
    with file.open("rb") as opened:
        first = opened.read(4)
    if first == b"PAR1":
        return PARQUET
    if file.suffix.lower() in (".parquet", ".pq"):
        raise Misconfigured(f"{file} is no Parquet that can be read: it does not begin with PAR1")
    head = _head(file)
    if head.startswith(_UTF_16):
        return TEXT
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith(b"{"):
        return LINES
    if text.startswith(b"[") and file.suffix.lower() == ".json":
        raise Misconfigured(f"{file} is one JSON array; expected a JSON object a line: jq -c '.[]' makes them")
    if b"\x00" in head[:4096]:
        raise Misconfigured(f"{file} is no Parquet, CSV or JSON lines")
    return TEXT


def scan_lines(file: Path, table: Table) -> pl.LazyFrame:
    """The rows of a file of JSON objects, one a line; objects inside that hold the wanted columns are unfolded."""
    source: Path | io.BytesIO = io.BytesIO(_content(file)) if _packing(file) == "zip" else file
    frame = pl.scan_ndjson(source, infer_schema_length=None)
    schema = frame.collect_schema()
    wanted = {theirs for theirs in table.columns.values() if theirs not in schema}
    for name, dtype in schema.items():
        if isinstance(dtype, pl.Struct):
            fields = {one.name for one in dtype.fields}
            if fields & wanted and not fields & (set(schema) - {name}):
                return frame.unnest(name)
        if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct):
            fields = {one.name for one in dtype.inner.fields}
            if fields & wanted and not fields & (set(schema) - {name}):
                return frame.explode(name).unnest(name)
    return frame


def scan_text(file: Path, table: Table) -> pl.LazyFrame:
    """The rows of a CSV file, every cell as the text that stands there; null where there is none."""
    encoding = _encoding(file, table)
    form = form_of(_head(file).decode(encoding, errors="ignore"), table)
    source: Path | io.BytesIO = file
    if encoding not in ("utf-8", "utf-8-sig") or form.delimiter == "::" or _packing(file) == "zip":
        text = _content(file).decode(encoding)
        source = io.BytesIO(text.replace("::", _UNIT_SEPARATOR).encode())
    else:
        _check_utf8(file)
    return pl.scan_csv(
        source,
        separator=_UNIT_SEPARATOR if form.delimiter == "::" else form.delimiter,
        has_header=False,
        skip_lines=form.skipped + form.header,
        quote_char='"' if form.quoted else None,
        schema=dict.fromkeys([*form.names, MORE_CELLS], pl.String()),
        truncate_ragged_lines=True,
        missing_columns="insert",
    )


def form_of(head: str, table: Table) -> Form:
    """How the text that begins with *head* is to be read; what the description says goes before what it looks like."""
    lines = head.removeprefix("\ufeff").split("\n")
    skipped, delimiter = 0, table.delimiter
    if re.fullmatch(r'"?sep=.\r?"?\r?', lines[0]):  # Excel's own first line
        delimiter = delimiter or lines[0].strip().strip('"')[4:5] or "\t"
        skipped = 1
    mark = table.comment or "#"
    while len(lines) > skipped + 1 and lines[skipped].startswith(mark) and _is_comment(table, lines[skipped:]):
        skipped += 1
    first = lines[skipped]
    delimiter = delimiter or max(_DELIMITERS, key=first.count)
    sample = "\n".join(lines[skipped:] if len(head) < _LOOK_BYTES else lines[skipped:-1])
    quoted = delimiter not in ("\t", "::") or _closes_its_quotes(sample, delimiter)
    cells = _cells(first.rstrip("\r"), delimiter, quoted=quoted)
    header = table.header if table.header is not None else not (table.names or _numbered(table))
    if table.names:
        names = table.names
    elif header:
        names = tuple(cells)
    else:
        names = tuple(f"column_{number}" for number in range(1, len(cells) + 1))
    return Form(delimiter, skipped, _unique(names), header, quoted)


def _is_comment(table: Table, lines: list[str]) -> bool:
    if table.comment is not None:
        return True
    return max(map(lines[0].count, _DELIMITERS)) < max(map(lines[1].count, _DELIMITERS))


def _numbered(table: Table) -> bool:
    """Whether the description calls columns by their numbers, which only a file without a header needs."""
    return bool(table.columns) and all(re.fullmatch(r"column_\d+", theirs) for theirs in table.columns.values())


def _closes_its_quotes(sample: str, delimiter: str) -> bool:
    """Whether every cell that begins with a quotation mark ends with one: else the marks are part of the text."""
    cells = [cell for line in sample.splitlines() for cell in line.split(delimiter) if cell.startswith('"')]
    return bool(cells) and all(len(cell) > 1 and cell.endswith('"') for cell in cells)


def _cells(line: str, delimiter: str, *, quoted: bool) -> list[str]:
    if not quoted or '"' not in line:
        return [cell.strip() for cell in line.split(delimiter)]
    row = pl.read_csv(io.StringIO(line), separator=delimiter, has_header=False, infer_schema=False)
    return [(cell or "").strip() for cell in row.row(0)]


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return tuple(found)


def _encoding(file: Path, table: Table) -> str:
    if table.encoding is not None:
        return table.encoding
    return "utf-16" if _head(file).startswith(_UTF_16) else "utf-8-sig"


def _check_utf8(file: Path) -> None:
    """``Misconfigured`` with the line of the first byte that is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    for piece in _pieces(file):
        if piece.isascii() and not decoder.getstate()[0]:
            line += piece.count(b"\n")
            continue
        try:
            decoder.decode(piece)
        except UnicodeDecodeError as broken:
            line += broken.object[: broken.start].count(b"\n")
            byte = broken.object[broken.start]
            raise Misconfigured(
                f"{file}, line {line}: the byte 0x{byte:02x} is not UTF-8; "
                'name the file\'s encoding in dataset.toml, such as encoding = "cp1252"'
            ) from None
        line += piece.count(b"\n")


def _pieces(file: Path) -> Iterator[bytes]:
    with _opened(file) as opened:
        while piece := opened.read(1 << 24):
            yield piece


def _packing(file: Path) -> str | None:
    with file.open("rb") as opened:
        first = opened.read(4)
    return next((name for mark, name in _PACKED.items() if first.startswith(mark)), None)


def _opened(file: Path) -> BinaryIO:
    """The content of *file* without its packing, to be closed by the caller."""
    packing = _packing(file)
    if packing == "gzip":
        return gzip.open(file, "rb")  # type: ignore[return-value]
    if packing == "zstd":
        try:
            import zstandard
        except ImportError:
            raise Misconfigured(f"{file} is packed with zstd, which this environment cannot read: unpack it") from None
        return cast("BinaryIO", zstandard.open(file, "rb"))
    if packing == "zip":
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
            if len(names) != 1:
                raise Misconfigured(f"{file} holds {len(names)} files ({', '.join(names):.200}); expected one")
            return archive.open(names[0])  # type: ignore[return-value]
    return file.open("rb")


def _head(file: Path) -> bytes:
    with _opened(file) as opened:
        return opened.read(_LOOK_BYTES)


def _content(file: Path) -> bytes:
    with _opened(file) as opened:
        return opened.read()
