"""Reads a folder of a shop's own tables, as its dataset.toml describes them, into bodies for the API.

The rules are those of training (``nearline/table_events.py``, ``table_items.py``, ``table_users.py``).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from nearline.cli import parquet
from nearline.cli.parquet import Row
from nearline.dataset_description import Description, find_description, read_description, table_path
from nearline.errors import Misconfigured
from nearline.features import SEVERAL
from nearline.items import Item
from nearline.table_events import examples, kept_rows, survey, typed
from nearline.table_files import files_of
from nearline.table_items import read_items
from nearline.table_users import read_users
from nearline.tables import scan

_OF_AN_EXPORT = ("more_context", "request_id")
_LOST = ("rows dropped", "items dropped", "users dropped")
_EACH = 3
UploadPart = tuple[str, Iterator[Any], int]  # events, items or users; the bodies; how many


@dataclass
class FolderReport:
    """What was read of one table: its files, its rows, what was lost or changed with the first places, and hints."""

    what: str
    files: tuple[str, ...]
    rows: int
    kept: int
    counted: dict[str, int] = field(default_factory=dict)
    shown: dict[str, list[str]] = field(default_factory=dict)
    hints: tuple[str, ...] = ()
    item_ids: tuple[str, ...] = ()  # that the rows name

    @property
    def lost(self) -> int:
        """How many rows are not sent, though no filter leaves them out and no later row replaces them."""
        return sum(count for what, count in self.counted.items() if what.startswith(_LOST))

    def lines(self) -> Iterator[str]:
        """The report for people."""
        files = ", ".join(self.files[:_EACH]) + (
            f" and {len(self.files) - _EACH} more" if len(self.files) > _EACH else ""
        )
        yield f"{self.what}: {self.rows:,} rows in {files}, {self.kept:,} to send"
        for what, count in self.counted.items():
            yield f"{count:>9,} {what}"
            yield from (f"{'':>9}   {place}" for place in self.shown.get(what, [])[:_EACH])
        yield from (f"{'':>9} {hint}" for hint in self.hints)


def parts_of(
    folder: Path, description: Path | None, unit: str | None = None, reports: list[FolderReport] | None = None
) -> list[UploadPart]:
    """The bodies in *folder* for the API: items first, then users and events; *unit* overrides the description's.

    What was lost or changed is appended to *reports*. ``Misconfigured`` if there is nothing, or the files do not match
    the description; ``BadInput`` if their rows contradict it. Both come before anything can be sent.
    """
    path = find_description(folder, description)
    about = Description() if path is None else read_description(path)
    if about.preparation is not None:
        raise Misconfigured(f"{folder} needs its own preparation, which only training and the demo have")
    if unit is not None:
        about = replace(about, interactions=replace(about.interactions, time_unit=unit))
    read: Mapping[str, Callable[[Path, Description], tuple[UploadPart, FolderReport]]] = {
        "items": _items,
        "users": _users,
        "interactions": _events,
    }
    found: list[tuple[UploadPart, FolderReport]] = []
    for name, reader in read.items():
        if (file := table_path(folder, about, name)) is not None:
            found.append(reader(file, about))
    if not found:
        there = ", ".join(sorted(one.name for one in folder.iterdir())[:20]) if folder.is_dir() else ""
        raise Misconfigured(
            f"nothing to import in {folder}: expected interactions, items or users as .parquet, .csv or .jsonl; "
            f'there are {there or "no files"}; name yours in dataset.toml: [interactions] file = "…"'
        )
    of = {report.what: report for _, report in found}
    if "items" in of and "events" in of:
        of["events"].hints += _strangers(of["events"].item_ids, of["items"].item_ids)
    if reports is not None:
        reports.extend(report for _, report in found)
    return [part for part, _ in found]


def _items(file: Path, about: Description) -> tuple[UploadPart, FolderReport]:
    read = read_items(file, about.items, about.attributes)
    bodies = (_item(item_id, item) for item_id, item in read.items.items())
    report = FolderReport("items", _names(file), read.rows, len(read.items), dict(read.counted), dict(read.shown))
    report.item_ids = tuple(read.items)
    return ("items", bodies, len(read.items)), report


def _item(item_id: str, item: Item) -> Row:
    fields = {name: getattr(item, name) for name in parquet.ITEM_SCHEMA if name != "item_id"}
    kept = {
        name: value
        for name, value in fields.items()
        if value not in (None, "") and (name, value) != ("available", True)
    }
    return {"item_id": item_id, **kept, "attributes": dict(item.attributes)}


def _users(file: Path, about: Description) -> tuple[UploadPart, FolderReport]:
    read = read_users(file, about.users)
    report = FolderReport("users", _names(file), read.rows, len(read.profiles), dict(read.counted), dict(read.shown))
    return ("users", iter(read.profiles.items()), len(read.profiles)), report


def _events(file: Path, about: Description) -> tuple[UploadPart, FolderReport]:
    raw = scan(file, about.interactions)
    try:
        frame = typed(raw, about, file.name, kept=_OF_AN_EXPORT, timed=True)
        found = survey(frame, about.interactions.time_unit)
        shown: dict[str, list[str]] = {}
        for reason, name, row in examples(frame, _EACH):
            shown.setdefault(reason, []).append(f"{name} row {row}")
    except pl.exceptions.PolarsError as broken:
        raise Misconfigured(f"{file} can not be read: {broken}") from None
    there = kept_rows(frame, also=_OF_AN_EXPORT)
    bodies = map(_event, parquet.rows_in(there, file))
    report = FolderReport("events", _names(file), found.rows, found.kept, dict(found.counted), shown, found.hints)
    report.item_ids = found.item_ids
    return ("events", bodies, found.kept), report


def _event(row: Row) -> Row:
    if row.get("interests"):
        row["interests"] = [one.strip() for one in row["interests"].split(SEVERAL) if one.strip()]
    return parquet.event_of_row(row | {"time": row["time_ms"]})


def _names(path: Path) -> tuple[str, ...]:
    return tuple(str(file.relative_to(path.parent)) for file in files_of(path))


def _strangers(met: tuple[str, ...], catalogue: tuple[str, ...]) -> tuple[str, ...]:
    """A line if events name items that are not in the catalogue: that may be a typing error of a whole column."""
    known = set(catalogue)
    there = sum(item_id in known for item_id in met)
    if there == len(met):
        return ()
    example = next(item_id for item_id in met if item_id not in known)
    return (f"{there:,} of {len(met):,} items of the events are in the items' table; not there is {example!r:.80}",)
