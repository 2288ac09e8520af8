"""``nearline export``: write the log's content to a folder of Parquet files."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from nearline.adapters.kafka.admin import Topics
from nearline.adapters.kafka.table_reader import TableReader
from nearline.cli import parquet
from nearline.cli.console import bar, progress
from nearline.cli.parquet import Attributes, Row
from nearline.errors import BadInput, Unavailable
from nearline.events import Event
from nearline.exports import Forgotten, entry_in
from nearline.ids import check_id
from nearline.items import Item, decode_item
from nearline.log import Record
from nearline.newest import Newest
from nearline.profiles import decode_profile
from nearline.settings import Settings, load_settings
from nearline.topics import CLICKS, ITEMS, USERS
from nearline.user_commands import is_to_look_up

Look = Callable[
    [str, str], Iterator[list[Record]]
]  # (topic, the progress bar's title) -> its records from the beginning


class ExportPart(StrEnum):
    """A part of an export."""

    EVENTS = "events"
    ITEMS = "items"
    USERS = "users"


def export(
    folder: Annotated[Path, typer.Argument(help="The folder for the files; created if missing.")],
    only: Annotated[list[ExportPart] | None, typer.Option(help="Only this part; repeatable.")] = None,
) -> None:
    """Write events, items and users to Parquet in FOLDER, as `nearline import` and `make train DATA=` read them.

    Erased data and synthetic events are left out. Events go back as far as the log's retention. Each file is written
    atomically.
    """
    settings = load_settings()
    folder.mkdir(parents=True, exist_ok=True)
    with progress() as bars:
        for part in only or list(ExportPart):
            counted = _EXPORTS[part](folder, _look(settings, bars))
            bars.console.print(said(counted))


def said(counted: Mapping[str, int]) -> str:
    """The counts that are not 0, as one line for people."""
    return ", ".join(f"{count:,} {what}" for what, count in counted.items() if count) or "nothing"


def export_events(folder: Path, look: Look) -> Counter[str]:
    """Write the log's events; return how many were written and left out."""
    forgotten = Forgotten()
    for records in look(CLICKS, "looking for erasures"):
        for record in records:
            forgotten.note(record)
    counted = Counter(events=0)  # printed first
    rows = map(parquet.row_of_event, _kept(look(CLICKS, "exporting events"), forgotten, counted))
    counted["events"] = parquet.write(folder / parquet.INTERACTIONS, rows, parquet.EVENT_SCHEMA)
    return counted


def _kept(batches: Iterable[list[Record]], forgotten: Forgotten, counted: Counter[str]) -> Iterator[Event]:
    """Yield the events of *batches* that belong into an export; count the others."""
    for record in (record for batch in batches for record in batch):
        entry = entry_in(record)
        if entry is None:
            counted["left out: not valid"] += 1
        elif not isinstance(entry, Event):
            counted["commands obeyed"] += 1
        elif entry.synthetic:
            counted["left out: synthetic"] += 1
        elif not forgotten.keeps(entry, record.append_ms):
            counted["left out: to be forgotten"] += 1
        else:
            yield entry


def export_items(folder: Path, look: Look) -> Counter[str]:
    """Write the items that are not deleted; return how many were written and left out."""
    newest, attributes = Newest(), Attributes()
    for records in look(ITEMS, "looking for the newest items"):
        newest.note(records)
        for _, item in _items(records, Counter()):
            attributes.note(item)
    counted = Counter(items=0)
    columns = attributes.columns
    found = (one for records in look(ITEMS, "exporting items") for one in _items(newest.take(records), counted))
    rows = (parquet.row_of_item(item_id, item, columns) for item_id, item in found)
    counted["items"] = parquet.write(folder / parquet.ITEMS, rows, attributes.schema)
    return counted


def _items(records: Iterable[Record], counted: Counter[str]) -> Iterator[tuple[str, Item]]:
    for record in records:
        if record.value:
            try:
                yield check_id("item_id", record.id), decode_item(record.value)
            except BadInput:
                counted["left out: not valid"] += 1


def export_users(folder: Path, look: Look) -> Counter[str]:
    """Write the profiles; return how many were written and left out."""
    newest = Newest()
    for records in look(USERS, "looking for the newest profiles"):
        newest.note(records)
    counted = Counter(users=0)
    found = (record for records in look(USERS, "exporting users") for record in newest.take(records))
    rows = _profiles(found, counted)
    counted["users"] = parquet.write(folder / parquet.USERS, rows, parquet.USER_SCHEMA)
    return counted


def _profiles(records: Iterable[Record], counted: Counter[str]) -> Iterator[Row]:
    for record in records:
        try:
            yield parquet.row_of_user(check_id("user_id", record.id), decode_profile(record.value or b""))
        except BadInput:
            counted["left out: not valid"] += 1


_EXPORTS: Mapping[ExportPart, Callable[[Path, Look], Counter[str]]] = {
    ExportPart.EVENTS: export_events,
    ExportPart.ITEMS: export_items,
    ExportPart.USERS: export_users,
}


def _look(settings: Settings, bars: Progress) -> Look:
    """A function that reads a topic of the log, with a progress bar."""
    topics = Topics(settings.brokers)  # fails at once if the broker is down
    try:
        ends = {topic: topics.end_offset(topic) for topic in (CLICKS, ITEMS, USERS) if topic in topics.names()}
    finally:
        topics.close()

    def look(topic: str, what: str) -> Iterator[list[Record]]:
        if topic not in ends:
            raise Unavailable(f"topic {topic} does not exist; run `nearline init`")
        show = bar(bars, what, ends[topic])
        count = 0
        for records in records_of(settings, topic):
            count += len(records)
            show(count)
            yield records
        show(ends[topic])  # compacted and expired records are gone, so the count falls short

    return look


def records_of(settings: Settings, topic: str) -> Iterator[list[Record]]:
    """All records of *topic* from its beginning to its current end."""
    reader = TableReader(settings.brokers, topic, look_up=is_to_look_up)
    with asyncio.Runner() as runner:
        runner.run(reader.open())
        try:
            while not reader.caught_up:
                yield runner.run(reader.poll())
        finally:
            runner.run(reader.close())
