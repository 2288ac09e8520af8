"""The description of a data set: a small ``dataset.toml`` that names its columns and says how to split it.

    joint = false                    # true (the default): a user's events of one time are joint targets, never inputs

    [interactions]                   # every key but time_unit, types, filter and separator names a column
    file = "interactions.parquet"    # or a file of CSV, or a folder of either
    user_id = "customer"
    time = "timestamp"
    time_unit = "s"                  # s, ms (the default), us, ns, or datetime
    order = "pos"                    # sorts events of the same time
    types = { buy = "purchase" }     # this set's event types as Nearline's
    filter = { split = ["train"] }   # keep only rows with one of these values

    [items]
    title = "name"
    attributes = ["genres"]          # by default every other column
    separator = ","                  # within an attribute that holds several values; by default "|"

    [users]                          # declared once for each user: country, device, referrer, interests
    file = "users.parquet"

    [split]
    kind = "time"                    # or "leave-one-out"
    validate_from = 2011-10-09       # a day (UTC) or a share of the events, such as 0.8
    test_from = 2011-11-09

    [recipe]                         # passed to the training run unchanged

Every key is optional. An unknown key is refused with the nearest known one.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Table:
    """One file of the set; *columns* maps our names to those in the description."""

    file: str
    columns: Mapping[str, str] = field(default_factory=dict)
    separator: str = SEVERAL


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
    time_unit: str | None = None
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
    others = () if name in about.named else (folder / f"{name}{CSV}", folder / name)
    found = next((path for path in (folder / table.file, *others) if path.exists()), None)
    if found is None and (needed or name in about.named):
        there = sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []
        raise Misconfigured(
            f"no {table.file} in {folder}{nearest(table.file, there)}; there are {', '.join(there) or 'no files'}"
        )
    return found


def read_description(path: Path) -> Description:
    """The description in the file *path*; ``Misconfigured`` names the file, the key and what was expected."""
    try:
        return describe(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as broken:
        raise Misconfigured(f"{path} is not TOML: {broken}") from None
    except Misconfigured as problem:
        raise Misconfigured(f"{path}: {problem}") from None


def describe(told: Mapping[str, Any]) -> Description:
    """The description in the parsed TOML *told*; ``Misconfigured`` for invalid content."""
    _refuse_unknown(told, ("interactions", "items", "users", "split", "recipe", "joint", "preparation"), "")
    parts = {name: _table(told, name) for name in ("interactions", "items", "users", "split", "recipe")}
    events = parts["interactions"]
    _refuse_unknown(events, ("file", *EVENT_COLUMNS, "time_unit", "types", "filter", "separator"), "interactions")
    _refuse_unknown(parts["items"], ("file", *ITEM_COLUMNS, "attributes", "separator"), "items")
    _refuse_unknown(parts["users"], ("file", *USER_COLUMNS, "separator"), "users")
    attributes = parts["items"].get("attributes")
    return Description(
        interactions=_file(events, EVENT_COLUMNS, "interactions"),
        items=_file(parts["items"], ITEM_COLUMNS, "items"),
        users=_file(parts["users"], USER_COLUMNS, "users"),
        named=frozenset(name for name in ("interactions", "items", "users") if "file" in parts[name]),
        attributes=None if attributes is None else _texts(attributes, "[items] attributes"),
        time_unit=_one_of(events.get("time_unit"), TIME_UNITS, "[interactions] time_unit"),
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
    file = _text(told.get("file", f"{name}.parquet"), f"[{name}] file")
    return Table(file, mapped, _text(told.get("separator", SEVERAL), f"[{name}] separator"))


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
