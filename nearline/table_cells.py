"""From a column as people have it to values of ours: ids, texts, numbers, truth and times, each cell on its own.

A cell that is not what its column should be becomes null. It never changes how the other cells are read.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from nearline.dataset_description import TIME_UNITS, Table
from nearline.errors import Misconfigured
from nearline.features import SEVERAL

IN_MS: Mapping[str, float] = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
EXACT = 2**53  # larger integers are not all exact as floats
NOTHING = ("", "NULL", "null", r"\N", "NaN", "nan", "<NA>", "<null>", "(null)")
_YES = ("true", "t", "yes", "y", "1", "1.0", "in_stock", "in stock", "instock", "available", "active", "published")
_NO = ("false", "f", "no", "n", "0", "0.0", "out_of_stock", "out of stock", "outofstock", "unavailable", "sold out")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CLOCK = (
    r"(?:(?:[T ]|, )\s*(?P<h>\d{1,2}):(?P<min>\d{2})(?::(?P<s>\d{2})(?:[.,](?P<f>\d{1,9}))?)?"
    r"\s*(?P<half>[AaPp]\.?[Mm]\.?)?)?"
    r"\s*(?P<zone>Z|z|UTC|GMT|[+-]\d{2}:?\d{2}|[+-]\d{2})?(?: \([A-Za-z ]+\))?$"
)
_YEAR_FIRST = r"^(?P<y>\d{4})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})" + _CLOCK
_COMPACT = r"^(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})(?:[T ]?(?P<h>\d{2})(?P<min>\d{2})(?P<s>\d{2}))?(?P<zone>Z)?$"
_DOTS = r"^(?P<d>\d{1,2})\.(?P<m>\d{1,2})\.(?P<y>\d{4})" + _CLOCK
_SLASHES = r"^(?P<a>\d{1,2})[/-](?P<b>\d{1,2})[/-](?P<y>\d{4})" + _CLOCK
_NAMED = r"^(?:[A-Za-z]{3,9},? )?(?P<d>\d{1,2})[ -](?P<month>[A-Za-z]{3})[a-z]*\.?,?[ -](?P<y>\d{4})" + _CLOCK
_NAMED_US = r"^(?:[A-Za-z]{3,9},? )?(?P<month>[A-Za-z]{3})[a-z]*\.? (?P<d>\d{1,2})(?:[a-z]{2})?,? (?P<y>\d{4})" + _CLOCK
_FORMS = (_YEAR_FIRST, _DOTS, _NAMED, _NAMED_US, _SLASHES)
AS_IT_IS = Table("")
DAY_FIRST, MONTH_FIRST = "day first", "month first"


def told(schema: pl.Schema, column: str, table: Table) -> pl.Expr:
    """The cells as texts without blanks around them; null where a cell is blank or a word for nothing."""
    dtype, value = schema[column], pl.col(column)
    if isinstance(dtype, pl.List | pl.Array):
        raise Misconfigured(f"the column {column!r} holds {dtype}; expected one value a cell")
    if isinstance(dtype, pl.Struct | pl.Binary):
        raise Misconfigured(f"the column {column!r} holds {dtype}; expected texts")
    text = value.cast(pl.String).str.strip_chars()
    return pl.when(~text.is_in([*NOTHING, *table.null])).then(text)


def text_id(schema: pl.Schema, column: str, table: Table = AS_IT_IS) -> pl.Expr:
    """The column as ids; whole numbers stored with a point (as pandas does beside a null) are whole again."""
    dtype, value = schema[column], pl.col(column)
    if dtype.is_float():
        whole = value.cast(pl.Int64, strict=False)
        return pl.when(whole == value).then(whole.cast(pl.String)).otherwise(value.fill_nan(None).cast(pl.String))
    if dtype.is_decimal():
        return value.cast(pl.String).str.replace(r"\.0*$", "")
    if dtype.is_integer() or dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        return told(schema, column, table).str.replace(r"^(-?\d+)\.0+$", "${1}")
    raise Misconfigured(f"ids are texts or whole numbers; the column {column!r} holds {dtype}")


def text(schema: pl.Schema, column: str, table: Table, *, between: str | None = None) -> pl.Expr:
    """The column as texts; of several in a cell the first, or all with *between* them."""
    if isinstance(schema[column], pl.List | pl.Array):
        several = _texts_of(schema, column)
        return several.list.first() if between is None else several.list.join(between)
    return told(schema, column, table)


def joined(schema: pl.Schema, column: str, table: Table) -> pl.Expr:
    """The column as texts in which "|" parts several values: a list, or a text parted by the table's separator."""
    if isinstance(schema[column], pl.List | pl.Array):
        return _texts_of(schema, column).list.join(SEVERAL)
    value = told(schema, column, table)
    return value if table.separator == SEVERAL else value.str.replace_all(table.separator, SEVERAL, literal=True)


def number(schema: pl.Schema, column: str, table: Table) -> pl.Expr:
    """The column as numbers: without the signs of currencies and thousands; null for what is none."""
    dtype, value = schema[column], pl.col(column)
    if dtype == pl.Float32:
        return value.cast(pl.String).cast(pl.Float64)  # 19.99 stays 19.99
    if dtype.is_numeric():
        return value.cast(pl.Float64)
    digits = told(schema, column, table).str.replace_all(r"^[A-Z]{3}\s|\s[A-Z]{3}$|[$€£¥₹₺₽zł\s\x{00a0}\x{202f}]", "")
    thousands, point = (",", r"\.") if table.decimal == "." else (r"\.", ",")
    grouped = digits.str.contains(rf"^[+-]?\d{{1,3}}({thousands}\d{{3}})+({point}\d+)?$")
    digits = pl.when(grouped).then(digits.str.replace_all(thousands, "")).otherwise(digits)
    if table.decimal == ",":
        digits = pl.when(~digits.str.contains(r"\.")).then(digits.str.replace(",", "."))
    return digits.cast(pl.Float64, strict=False)


def truth(schema: pl.Schema, column: str, table: Table) -> pl.Expr:
    """The column as true and false; null for a word that is neither, by the description's words or ours."""
    if schema[column] == pl.Boolean:
        return pl.col(column)
    words = dict.fromkeys(_YES, True) | dict.fromkeys(_NO, False) | dict(table.availability)
    word = told(schema, column, table).str.to_lowercase()
    return word.replace_strict(list(words), list(words.values()), default=None, return_dtype=pl.Boolean)


def time_in_ms(schema: pl.Schema, column: str, table: Table, dates: "Dates | None" = None, *, of: str = "") -> pl.Expr:
    """The column in UTC milliseconds, floating so that a wrong unit can not overflow; null where it is no time.

    Texts are numbers in the table's unit, or dates in one of the usual forms. *dates* says in which (``dates_in``);
    without an order of day and month a date such as 03/04/2021 is no time.
    """
    dtype, value = schema[column], pl.col(column)
    if isinstance(dtype, pl.Datetime | pl.Date):
        if table.time_unit not in (None, "datetime"):
            raise Misconfigured(f"[{of}] time_unit is {table.time_unit!r}, but the column {column!r} holds {dtype}")
        moment = value.cast(pl.Datetime("ms")) if dtype == pl.Date else value
        aware = isinstance(dtype, pl.Datetime) and dtype.time_zone is not None
        return (moment if aware else _zoned(moment, table)).dt.epoch("ms").cast(pl.Float64)
    if dtype == pl.Null:
        return pl.lit(None, pl.Float64)
    if dtype.is_numeric():
        return _of_number(value.cast(pl.Float64).fill_nan(None), table)
    if dtype not in (pl.String, pl.Categorical, pl.Enum):
        raise Misconfigured(
            f"the column {column!r} holds {dtype}, which is no time in {table.time_unit or 'milliseconds'}; expected "
            f"numbers with [{of}] time_unit = one of {', '.join(TIME_UNITS[:4])}, or dates with time_unit = 'datetime'"
        )
    cell = told(schema, column, table).str.strip_chars("\"'")
    if table.time_format is not None:
        return _formatted(cell, table)
    of_number = _of_number(cell.cast(pl.Float64, strict=False), table)
    forms = _FORMS if dates is None else dates.forms
    order = None if dates is None else dates.order
    parts = [
        _of_parts(cell, form, table, order or DAY_FIRST) for form in forms if form != _SLASHES or order is not None
    ]
    return pl.coalesce(of_number, *parts)


@dataclass(frozen=True)
class Dates:
    """The forms of dates that a column has, and which of day and month comes first in those such as 03/04/2021."""

    forms: tuple[str, ...]
    order: str | None = None


def dates_in(frame: pl.LazyFrame, column: str, table: Table, *, of: str) -> Dates | None:
    """What one look at all cells says of the column's dates; ``None`` if it holds no texts.

    ``Misconfigured`` with both readings if no cell settles it.
    """
    schema = frame.collect_schema()
    if schema[column] != pl.String or table.time_format is not None:
        return None
    cell = told(schema, column, table).str.strip_chars("\"'")
    there = frame.select(cell.str.contains(form).any().alias(str(n)) for n, form in enumerate(_FORMS))
    forms = tuple(form for form, any_of in zip(_FORMS, there.collect(engine="streaming").row(0), strict=True) if any_of)
    if _SLASHES not in forms:
        return Dates(forms)
    parts = cell.str.extract_groups(_SLASHES)
    first, second = (parts.struct.field(name).cast(pl.Int32, strict=False) for name in "ab")
    found = frame.select(
        first.max().alias("first"), second.max().alias("second"), pl.col(column).filter(first.is_not_null()).first()
    ).collect(engine="streaming")
    a, b, example = found.row(0)
    if (a > 12) != (b > 12):
        return Dates(forms, DAY_FIRST if a > 12 else MONTH_FIRST)
    clock = "" if ":" not in example else " %I:%M:%S %p" if example.rstrip()[-1] in "Mm" else " %H:%M:%S"
    if example.count(":") == 1:
        clock = clock.replace(":%S", "")
    mark = "/" if "/" in example else "-"
    raise Misconfigured(
        f"the column {column!r} has dates such as {example.strip()!r}, and none says whether day or month comes "
        f'first; name it in dataset.toml: [{of}] time_format = "%d{mark}%m{mark}%Y{clock}" (day first) or '
        f'time_format = "%m{mark}%d{mark}%Y{clock}" (month first)'
    )


def _texts_of(schema: pl.Schema, column: str) -> pl.Expr:
    """The texts of a list: without nulls and blanks; ``Misconfigured`` for lists of objects."""
    inner = schema[column].inner  # type: ignore[attr-defined]
    if inner.is_nested():
        raise Misconfigured(f"the column {column!r} holds {schema[column]}; expected lists of texts or numbers")
    texts = pl.col(column).cast(pl.List(pl.String)).list.eval(pl.element().str.strip_chars())
    kept = texts.list.eval(pl.element().filter(pl.element().is_not_null() & (pl.element() != "")))
    return pl.when(kept.list.len() > 0).then(kept)


def _zoned(moment: pl.Expr, table: Table) -> pl.Expr:
    if table.time_zone is None:
        return moment
    return moment.dt.replace_time_zone(table.time_zone, ambiguous="earliest", non_existent="null")


def _of_number(value: pl.Expr, table: Table) -> pl.Expr:
    """Milliseconds of numbers in the table's unit; 20210325 and 20210325100000 are dates in any."""
    whole = value.cast(pl.Int64, strict=False)
    is_day = whole.is_between(19_800_101, 21_001_231) & (whole == value)
    is_second = whole.is_between(19_800_101_000_000, 21_001_231_235_959) & (whole == value)
    digits = pl.when(is_day | is_second).then(whole.cast(pl.String))
    date = _of_parts(digits, _COMPACT, table)
    unit = table.time_unit or "ms"
    if unit == "datetime":
        return date
    return pl.when(date.is_not_null()).then(date).otherwise(value * IN_MS[unit])


def _formatted(cell: pl.Expr, table: Table) -> pl.Expr:
    form = table.time_format or ""
    if "%z" in form or "%:z" in form or "%#z" in form:
        moment = cell.str.to_datetime(form, time_unit="ms", strict=False)
    elif "%H" in form or "%I" in form or "%T" in form or "%X" in form:
        moment = _zoned(cell.str.to_datetime(form, time_unit="ms", strict=False), table)
    else:
        moment = _zoned(cell.str.to_date(form, strict=False).cast(pl.Datetime("ms")), table)
    return moment.dt.epoch("ms").cast(pl.Float64)


def _of_parts(cell: pl.Expr, form: str, table: Table, order: str = DAY_FIRST) -> pl.Expr:
    """Milliseconds of the date whose parts *form* names; null where it does not match or there is no such day."""
    parts = cell.str.extract_groups(form)

    def part(name: str, otherwise: int = 0) -> pl.Expr:
        if f"(?P<{name}>" not in form:
            return pl.lit(otherwise)
        return parts.struct.field(name).cast(pl.Int32, strict=False).fill_null(otherwise)

    day, month = part("d"), part("m")
    if "(?P<a>" in form:
        day, month = (part("a"), part("b")) if order == DAY_FIRST else (part("b"), part("a"))
    if "(?P<month>" in form:
        names = parts.struct.field("month").str.to_lowercase()
        month = names.replace_strict(list(_MONTHS), list(range(1, 13)), default=0, return_dtype=pl.Int32)
    hour = part("h")
    if "(?P<half>" in form:
        half = parts.struct.field("half").str.slice(0, 1).str.to_lowercase()
        hour = pl.when(half.is_null()).then(hour).otherwise(hour % 12 + pl.when(half == "p").then(12).otherwise(0))
    year = parts.struct.field("y").cast(pl.Int32, strict=False)
    right = year.is_between(1, 9999) & month.is_between(1, 12) & (hour < 24) & (part("min") < 60) & (part("s") < 61)
    iso = pl.when(right).then(
        pl.format(
            "{}-{}-{}",
            year.cast(pl.String).str.zfill(4),
            month.cast(pl.String).str.zfill(2),
            day.cast(pl.String).str.zfill(2),
        )
    )
    clock_ms = (hour * 3_600 + part("min") * 60 + part("s").clip(upper_bound=59)).cast(pl.Int64) * 1_000
    if "(?P<f>" in form:
        fraction = pl.format("0.{}", parts.struct.field("f")).cast(pl.Float64, strict=False).fill_null(0.0)
        clock_ms = clock_ms + (fraction * 1_000 + 1e-6).floor().cast(pl.Int64)
    moment = iso.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("ms")) + pl.duration(milliseconds=clock_ms)
    zone = parts.struct.field("zone")
    digits = zone.str.replace(":", "").str.extract(r"^[+-](\d{2,4})$").str.pad_end(4, "0")
    minutes = digits.str.slice(0, 2).cast(pl.Int64) * 60 + digits.str.slice(2, 2).cast(pl.Int64)
    offset_ms = pl.when(zone.str.starts_with("-")).then(-minutes).otherwise(minutes).fill_null(0) * 60_000
    here = moment.dt.epoch("ms") - offset_ms
    if table.time_zone is not None:
        here = pl.when(zone.is_null()).then(_zoned(moment, table).dt.epoch("ms")).otherwise(here)
    return here.cast(pl.Float64)
