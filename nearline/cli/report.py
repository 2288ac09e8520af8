"""``nearline report``: click-through and conversion by source and scenario, from the log's exposures and events."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import replace
from typing import Annotated

import typer
from rich.table import Table

from nearline.adapters.kafka.table_reader import TableReader
from nearline.attribution import AttributionReport, Rate, attribute
from nearline.cli.console import console
from nearline.errors import BadInput
from nearline.events import Event
from nearline.exposures import Exposure, decode_exposures
from nearline.log import Record
from nearline.settings import Settings, load_settings
from nearline.topics import CLICKS, EXPOSURES
from nearline.user_commands import Erase, Merge, Remove, decode_entry, is_to_look_up

_DAY_MS = 24 * 3600 * 1000


def report(
    days: Annotated[float, typer.Option(min=0.0, help="Answers and events of the last so many days.")] = 30.0,
    json: Annotated[bool, typer.Option(help="Print the report as JSON.")] = False,
) -> None:
    """Show click-through and conversion of what was recommended, by source and scenario."""
    found = asyncio.run(_read(load_settings(), time.time_ns() // 1_000_000 - int(days * _DAY_MS)))
    if json:
        console.say_json(as_plain(found))
        return
    console.print(said(found))
    if found.lines:
        console.print(table_of(found))


def said(found: AttributionReport) -> str:
    """One line: how many answers and events were read and joined."""
    return (
        f"read {found.exposures:,} answers and {found.events:,} events; {found.with_request:,} events name an answer, "
        f"{found.met:,} of them an item that it showed"
    )


def table_of(found: AttributionReport) -> Table:
    """The lines, most shown first; rates with Wilson's 95 % interval."""
    table = Table("scenario", "source", "shown", "clicked", "click-through", "bought", "conversion")
    for line in found.lines:
        clicked, bought = line.clicked, line.bought
        shown = (line.scenario or "-", line.source, f"{clicked.shown:,}")
        table.add_row(*shown, f"{clicked.hits:,}", _rate(clicked), f"{bought.hits:,}", _rate(bought))
    return table


def _rate(rate: Rate) -> str:
    low, high = rate.interval
    return f"{rate.share:.2%} ({low:.2%}-{high:.2%})"


def as_plain(found: AttributionReport) -> dict[str, object]:
    """The report as plain data for JSON."""
    lines = [
        {
            "scenario": line.scenario or None,
            "source": line.source,
            "shown": line.clicked.shown,
            **{
                name: {"hits": rate.hits, "share": rate.share, "low": rate.interval[0], "high": rate.interval[1]}
                for name, rate in (("clicked", line.clicked), ("bought", line.bought))
            },
        }
        for line in found.lines
    ]
    counts = {name: getattr(found, name) for name in ("exposures", "events", "with_request", "met")}
    return counts | {"lines": lines}


class Told:
    """The events in the records of ``clicks``, with its commands applied."""

    def __init__(self) -> None:
        self._events: dict[str, tuple[int, Event]] = {}  # by id: append time, event
        self._erased_ms: dict[str, int] = {}
        self._became: dict[str, str] = {}  # session -> user
        self._removed: set[tuple[str, str]] = set()

    def take(self, record: Record) -> None:
        """Apply a record; skip what is neither event nor command: the job makes it a dead letter."""
        try:
            entry = decode_entry(record.value, append_ms=record.append_ms)
        except BadInput:
            return
        match entry:
            case Erase(user_id=user_id):
                self._erased_ms[user_id] = max(record.append_ms, self._erased_ms.get(user_id, 0))
            case Remove(user_id=user_id, event_id=event_id):
                self._removed.add((user_id, event_id))
            case Merge(user_id=session, into=user_id):
                self._became[session] = user_id
            case Event():
                self._events[entry.event_id] = record.append_ms, entry

    def owner(self, user_id: str, append_ms: int) -> str | None:
        """The current user of *user_id*, following merges; ``None`` if what was appended at *append_ms* is erased."""
        seen = set()
        while user_id not in seen:
            if append_ms <= self._erased_ms.get(user_id, -1):
                return None
            seen.add(user_id)
            user_id = self._became.get(user_id, user_id)
        return user_id

    def events(self, since_ms: int, answers: Collection[str] = ()) -> Iterator[Event]:
        """Every event since *since_ms* that is neither erased nor removed, under its current user.

        An event that names one of *answers* came after that answer, though its device's clock may say otherwise.
        """
        for append_ms, event in self._events.values():
            owner = self.owner(event.user_id, append_ms)
            if owner is None or (event.time_ms < since_ms and event.request_id not in answers):
                continue
            if self._removed.isdisjoint({(event.user_id, event.event_id), (owner, event.event_id)}):
                yield replace(event, user_id=owner)


async def _read(settings: Settings, since_ms: int) -> AttributionReport:
    told = Told()
    async for record in _records(settings, CLICKS):
        told.take(record)
    exposures: list[Exposure] = []
    async for record in _records(settings, EXPOSURES):
        exposures += shown_in(record, told, since_ms)
    return attribute(exposures, told.events(since_ms, {one.request_id for one in exposures}))


def shown_in(record: Record, told: Told, since_ms: int) -> list[Exposure]:
    """The exposures in *record* since *since_ms*, each under its current user, without erased ones."""
    found = []
    for exposure in decode_exposures(record.value):
        owner = told.owner(exposure.user_id, record.append_ms)
        if owner is not None and exposure.time_ms >= since_ms:
            found.append(replace(exposure, user_id=owner))
    return found


async def _records(settings: Settings, topic: str) -> AsyncIterator[Record]:
    """Everything in the topic as of the call."""
    async with TableReader(settings.brokers, topic, look_up=is_to_look_up) as reader:
        while not reader.caught_up:
            for record in await reader.poll():
                yield record
