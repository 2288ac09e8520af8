"""The description of a data set: a small ``dataset.toml`` that names its columns and says how to split it.

    format = "movielens"             # a data set or export that is known by name; the keys below change it
    joint = false                    # true (the default): a user's events of one time are joint targets, never inputs

    [interactions]
    file = "interactions.parquet"    # or a file of CSV, or a folder of either
    user_id = "customer"
    time = "timestamp"
    time_unit = "s"                  # s, ms (the default), us, ns, or datetime
    time_format = "%d/%m/%Y %H:%M"   # of texts whose order of day and month the file does not settle
    time_zone = "Europe/Paris"       # of times without one; by default UTC
    order = "pos"                    # sorts events of the same time
    types = { buy = "purchase" }     # this set's event types as Nearline's
    filter = { split = ["train"] }   # keep only rows with one of these values

    [items]
    title = "name"
    attributes = ["genres"]          # by default every other column
    separator = ","                  # within an attribute that holds several values; by default "|"

    listed_ms = "added"              # time_unit, time_format and time_zone say how it is written, as for events
    availability = { backorder = true }   # this set's words in the column available

    [users]                          # declared once for each user: country, device, referrer, interests
    file = "users.parquet"

    [split]
    kind = "time"                    # or "leave-one-out"
    validate_from = 2011-10-09       # a day (UTC) or a share of the events, such as 0.8
    test_from = 2011-11-09

    [recipe]                         # passed to the training run unchanged

Of every table: delimiter = ";", header = false (then the columns are column_1, column_2, … or names = ["…"]),
encoding = "cp1252", comment = "//" (lines before the header), null = ["N/A"], decimal = ",".

Every key is optional. An unknown key is refused with the nearest known one.
"""

import codecs
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from nearline.dataset_formats import FORMATS, declared
from nearline.errors import Misconfigured
from nearline.events import EVENT_TYPES
from nearline.features import SEVERAL
from nearline.signals import CONTEXT_KEYS

FILE = "dataset.toml"
TIME_UNITS = ("s", "ms", "us", "ns", "datetime")
ONLINE_RETAIL = "online-retail"
TIME, LEAVE_ONE_OUT = "time", "leave-one-out"

EVENT_TEXTS = ("user_id", "item_id", "type", "event_id", *CONTEXT_KEYS)  # read as text, whatever their type
EVENT_COLUMNS = ("user_id", "item_id", "time", "type", "value", "event_id", "order", *CONTEXT_KEYS)
ITEM_COLUMNS = (
    "item_id",
    "title",
    "description",
    "category",
    "locale",
    "price",
    "brand",
    "listed_ms",
    "available",
)
USER_COLUMNS = ("user_id", *CONTEXT_KEYS)
CSV = ".csv"
SUFFIXES = (".parquet", ".pq", CSV, ".tsv", ".txt", ".dat", ".jsonl", ".ndjson", ".json", ".inter", ".item", ".user")
_PACKED = ("", ".gz", ".gzip", ".zst", ".zip")
FORM_KEYS = ("delimiter", "header", "names", "encoding", "comment", "null", "decimal")
TIME_KEYS = ("time_unit", "time_format", "time_zone")


@dataclass(frozen=True)
class Table:
    """One file of the set; *columns* maps our names to those in the description."""

    file: str
    columns: Mapping[str, str] = field(default_factory=dict)
    separator: str = SEVERAL
    delimiter: str | None = None  # of the cells in a line; by default the one that the header has most
    header: bool | None = None  # whether the first line names the columns; without one they are column_1, column_2, …
    names: tuple[str, ...] = ()
    encoding: str | None = None
    comment: str | None = None  # what lines before the header begin with
    null: tuple[str, ...] = ()  # words that stand for nothing, beside NULL, NaN and their like
    decimal: str = "."
    time_unit: str | None = None
    time_format: str | None = None
    time_zone: str | None = None
    availability: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitRule:
    """A split as configured: a moment is milliseconds, or a share of the events if below 1."""

    kind: str = TIME
    validate_from: int | float = 0.8
    test_from: int | float = 0.9
    refit: bool | None = None


@dataclass(frozen=True)
class Description:
    """The content of a ``dataset.toml``, or the defaults."""

    interactions: Table = Table("interactions.parquet")
    items: Table = Table("items.parquet")
    users: Table = Table("users.parquet")
    named: frozenset[str] = frozenset()  # tables whose file the description names: it must exist
    attributes: tuple[str, ...] | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    filter: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    joint: bool = True
    split: SplitRule = SplitRule()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    preparation: str | None = None


def find_description(folder: Path, given: Path | None = None, *, known: Path | None = None) -> Path | None:
    """*given*, else the ``dataset.toml`` in *folder*, else the one named as *folder* in the folder *known*."""
    if given is not None:
        if not given.is_file():
            raise Misconfigured(f"no description at {given}")
        return given
    paths = [folder / FILE] + ([] if known is None else [known / f"{folder.resolve().name}.toml"])
    return next((path for path in paths if path.is_file()), None)


def table_path(folder: Path, about: Description, name: str, *, needed: bool = False) -> Path | None:
    """The file or folder of table *name*: the description's, else NAME.parquet, NAME.csv or a folder NAME.

    ``None`` if there is none; ``Misconfigured``, listing the folder, if the description names one or it is *needed*.
    """
    table: Table = getattr(about, name)
    found: Path | None = folder / table.file
    if not (folder / table.file).exists():
        found = None if name in about.named else _called(folder, name)
    if found is None and (needed or name in about.named):
        there = sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []
        raise Misconfigured(
            f"no {table.file} in {folder}{nearest(table.file, there)}; there are {', '.join(there) or 'no files'}"
        )
    return found


def _called(folder: Path, name: str) -> Path | None:
    """The file in *folder* that is called *name*, whatever its suffix, or else the folder of that name."""
    suffixes = [f"{suffix}{packed}" for packed in _PACKED for suffix in SUFFIXES]
    there = {one.name.lower(): one for one in folder.iterdir() if one.is_file()} if folder.is_dir() else {}
    called = (there[f"{name}{suffix}"] for suffix in suffixes if f"{name}{suffix}" in there)
    return next(called, folder / name if (folder / name).is_dir() else None)


def read_description(path: Path) -> Description:
    """The description in the file *path*; ``Misconfigured`` names the file, the key and what was expected."""
    try:
        return describe(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as broken:
        hint = '; a key with blanks stands in quotes, as in { "Product Viewed" = "view" }'
        raise Misconfigured(f"{path} is not TOML: {broken}{hint if 'after a key' in str(broken) else ''}") from None
    except Misconfigured as problem:
        raise Misconfigured(f"{path}: {problem}") from None


def describe(told: Mapping[str, Any]) -> Description:
    """The description in the parsed TOML *told*; ``Misconfigured`` for invalid content."""
    if "format" in told:
        name = _one_of(told["format"], FORMATS, "format") or ""
        told = declared(name, {key: value for key, value in told.items() if key != "format"})
    _refuse_unknown(told, ("interactions", "items", "users", "split", "recipe", "joint", "preparation"), "")
    parts = {name: _table(told, name) for name in ("interactions", "items", "users", "split", "recipe")}
    events = parts["interactions"]
    every = ("file", "separator", *FORM_KEYS)
    _refuse_unknown(events, (*every, *EVENT_COLUMNS, *TIME_KEYS, "types", "filter"), "interactions")
    _refuse_unknown(parts["items"], (*every, *ITEM_COLUMNS, *TIME_KEYS, "attributes", "availability"), "items")
    _refuse_unknown(parts["users"], (*every, *USER_COLUMNS), "users")
    attributes = parts["items"].get("attributes")
    return Description(
        interactions=_file(events, EVENT_COLUMNS, "interactions"),
        items=_file(parts["items"], ITEM_COLUMNS, "items"),
        users=_file(parts["users"], USER_COLUMNS, "users"),
        named=frozenset(name for name in ("interactions", "items", "users") if "file" in parts[name]),
        attributes=None if attributes is None else _texts(attributes, "[items] attributes"),
        types=_types(_table(events, "types")),
        filter={column: _list(values, column) for column, values in _table(events, "filter").items()},
        joint=_flag(told.get("joint", True), "joint"),
        split=_split(parts["split"]),
        recipe=parts["recipe"],
        preparation=_one_of(told.get("preparation"), (ONLINE_RETAIL,), "preparation"),
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """A question in brackets with the known word nearest to *name*, or an empty text."""
    lower = {str(one).lower(): str(one) for one in known}
    near = difflib.get_close_matches(str(name).lower(), lower, n=1)
    return f" (did you mean {lower[near[0]]!r}?)" if near else ""


def _refuse_unknown(told: Mapping[str, Any], known: tuple[str, ...], table: str) -> None:
    for key in told:
        if key not in known:
            where = f"[{table}] " if table else ""
            raise Misconfigured(f"{where}unknown key {key!r:.80}{nearest(key, known)}; known are {', '.join(known)}")


def _table(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = told.get(name, {})
    if not isinstance(value, dict):
        raise Misconfigured(f"{name} must be a table of keys, came {value!r:.80}")
    return value


def _file(told: Mapping[str, Any], columns: tuple[str, ...], name: str) -> Table:
    mapped = {ours: _text(told[ours], f"[{name}] {ours}") for ours in columns if ours in told}
    return Table(
        file=_text(told.get("file", f"{name}.parquet"), f"[{name}] file"),
        columns=mapped,
        separator=_text(told.get("separator", SEVERAL), f"[{name}] separator"),
        delimiter=_delimiter(told.get("delimiter"), name),
        header=None if "header" not in told else _flag(told["header"], f"[{name}] header"),
        names=_texts(told.get("names", []), f"[{name}] names"),
        encoding=_encoding(told.get("encoding"), name),
        comment=None if "comment" not in told else _text(told["comment"], f"[{name}] comment"),
        null=_texts(told.get("null", []), f"[{name}] null"),
        decimal=_one_of(told.get("decimal", "."), (".", ","), f"[{name}] decimal") or ".",
        time_unit=_one_of(told.get("time_unit"), TIME_UNITS, f"[{name}] time_unit"),
        time_format=None if "time_format" not in told else _text(told["time_format"], f"[{name}] time_format"),
        time_zone=_zone(told.get("time_zone"), name),
        availability={
            word.lower(): _flag(flag, f"[{name}] availability.{word}")
            for word, flag in _table(told, "availability").items()
        },
    )


def _delimiter(value: object, name: str) -> str | None:
    if value is None:
        return None
    if value == "::" or (isinstance(value, str) and len(value) == 1):
        return value
    raise Misconfigured(f"[{name}] delimiter must be one character or '::', came {value!r:.80}")


def _encoding(value: object, name: str) -> str | None:
    if value is None:
        return None
    try:
        return codecs.lookup(_text(value, f"[{name}] encoding")).name
    except LookupError:
        raise Misconfigured(f"[{name}] encoding {value!r:.80} is unknown; expected one such as 'cp1252'") from None


def _zone(value: object, name: str) -> str | None:
    if value is None:
        return None
    try:
        return ZoneInfo(_text(value, f"[{name}] time_zone")).key
    except (ZoneInfoNotFoundError, ValueError):
        raise Misconfigured(
            f"[{name}] time_zone {value!r:.80} is unknown; expected one such as 'Europe/Paris'"
        ) from None


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise Misconfigured(f"{where} must be a text that is not empty, came {value!r:.80}")
    return value


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Misconfigured(f"{where} must be a list of texts, came {value!r:.80}")
    return tuple(_text(one, where) for one in value)


def _list(value: object, column: str) -> tuple[Any, ...]:
    if not isinstance(value, list) or not value:
        raise Misconfigured(f"[interactions] filter {column} must list the values to keep, came {value!r:.80}")
    return tuple(value)


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise Misconfigured(f"{where} must be true or false, came {value!r:.80}")
    return value


def _one_of(value: object, known: tuple[str, ...], where: str) -> str | None:
    if value is None:
        return None
    if value not in known:
        raise Misconfigured(
            f"{where} must be one of {', '.join(known)}, came {value!r:.80}{nearest(str(value), known)}"
        )
    return str(value)


def _types(told: Mapping[str, Any]) -> Mapping[str, str]:
    for theirs, ours in told.items():
        _one_of(_text(ours, f"[interactions] types.{theirs}"), EVENT_TYPES, f"[interactions] types.{theirs}")
    return dict(told)


def _split(told: Mapping[str, Any]) -> SplitRule:
    _refuse_unknown(told, ("kind", "validate_from", "test_from", "refit"), "split")
    kind = _one_of(told.get("kind", TIME), (TIME, LEAVE_ONE_OUT), "[split] kind") or TIME
    cuts = {key: _cut(told[key], f"[split] {key}") for key in ("validate_from", "test_from") if key in told}
    if cuts and kind == LEAVE_ONE_OUT:
        raise Misconfigured(f"[split] {min(cuts)} belongs to kind = 'time'; leave-one-out has no moment")
    if len(cuts) == 1:
        raise Misconfigured("[split] needs both validate_from and test_from, or neither")
    if (
        cuts
        and isinstance(cuts["test_from"], type(cuts["validate_from"]))
        and cuts["validate_from"] >= cuts["test_from"]
    ):
        raise Misconfigured("[split] validate_from must come before test_from")
    refit = None if "refit" not in told else _flag(told["refit"], "[split] refit")
    return SplitRule(kind=kind, refit=refit, **cuts)


def _cut(value: object, where: str) -> int | float:
    """The milliseconds of a day or moment (UTC without a time zone), or a share of the events."""
    if isinstance(value, float) and 0 < value < 1:
        return value
    try:
        day = datetime.fromisoformat(value.isoformat() if isinstance(value, date) else str(value))
    except ValueError:
        raise Misconfigured(
            f"{where} must be a day such as 2011-10-09 or a share such as 0.8, came {value!r}"
        ) from None
    return int((day if day.tzinfo else day.replace(tzinfo=UTC)).timestamp() * 1000)
