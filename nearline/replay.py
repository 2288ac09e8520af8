"""Replay: send a recorded history as if it had just ended, so that ages and trending are realistic."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from nearline.datasets import load_online_retail
from nearline.errors import BadInput, Misconfigured
from nearline.events import Event, encode_event
from nearline.items import Item, encode_item
from nearline.user_commands import COMMAND

SHIFTS = "replay-shifts.json"


@dataclass(frozen=True)
class Recording:
    """The items to send first (may be empty) and the events in sending order."""

    name: str
    items: Mapping[str, Item]
    events: list[Event]
    report: str


def load_recording(path: Path) -> Recording:
    """Load a recording from a prepared data set's folder, or from a file with one event (version 1) per line.

    A file may be an export of ``clicks``: commands in it are left out.

    ``Misconfigured`` if *path* is neither; ``BadInput`` names the line that is not an event.
    """
    if path.is_dir():
        prepared = load_online_retail(path)
        events = [_event(row) for row in prepared.events.to_dicts()]
        return Recording(path.name, prepared.items, events, prepared.report())
    if not path.is_file():
        raise Misconfigured(
            f"nothing to replay at {path}: expected a file of events (one JSON object per line) or data/online-retail"
        )
    events = list(_lines(path))
    if not events:
        raise BadInput("empty", f"{path} has no events")
    return Recording(path.name, {}, events, f"{len(events):,} events")


def _event(row: dict[str, Any]) -> Event:
    """The event of a prepared row, with the invoice's country as context."""
    country = row.pop("country")
    return Event(**row, context={"country": country} if country else {})


def _lines(path: Path) -> Iterator[Event]:
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            try:
                body = orjson.loads(line)
                if COMMAND in body:
                    continue  # users' commands apply to the log that they were sent to
                yield Event(**{name: value for name, value in body.items() if name != "v"})
            except (orjson.JSONDecodeError, TypeError, AttributeError) as error:
                raise BadInput("bad_line", f"{path}:{number} is not an event: {error}") from None


def shift_of(recording: Recording, data: Path, *, now_ms: int) -> int:
    """The shift for every time so that the last event is now; the first result is stored in *data* and reused.

    So a second replay of the same recording sends identical events, which change nothing.
    """
    path = data / SHIFTS
    shifts: dict[str, int] = json.loads(path.read_text()) if path.is_file() else {}
    if recording.name not in shifts:
        shifts[recording.name] = now_ms - max(event.time_ms for event in recording.events)
        data.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(shifts))
    return shifts[recording.name]


def listings(items: Mapping[str, Item], *, shift_ms: int) -> Iterator[tuple[bytes, bytes]]:
    """The records to append to ``items``: the key and value of each item, its listing time moved by *shift_ms*."""
    for item_id, item in items.items():
        listed_ms = None if item.listed_ms is None else item.listed_ms + shift_ms
        yield item_id.encode(), encode_item(replace(item, listed_ms=listed_ms))


def messages(events: list[Event], *, shift_ms: int) -> Iterator[tuple[bytes, bytes]]:
    """The records to append to ``clicks``: the key and value of each event, its time moved by *shift_ms*."""
    for event in events:
        moved = replace(event, time_ms=event.time_ms + shift_ms)
        yield event.user_id.encode(), encode_event(moved)
