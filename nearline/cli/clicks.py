"""``nearline click`` and ``nearline replay``: send events to the log."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import httpx
import typer

from nearline.adapters.kafka.producer import Producer
from nearline.cli.answers import refuse_unlet_in
from nearline.cli.console import console, progress
from nearline.errors import Unavailable
from nearline.events import EVENT_TYPES, Event, EventType, decode_event, encode_event
from nearline.key_file import key_headers
from nearline.log import Message
from nearline.replay import Recording, listings, load_recording, messages, shift_of
from nearline.settings import Settings, load_settings
from nearline.topics import CLICKS, ITEMS
from nearline.unreachable import unreachable

_CHUNK = 500
_WAIT_S = 30.0


def click(
    user_id: str,
    item_id: str,
    type: Annotated[EventType, typer.Option(help=f"One of {', '.join(EVENT_TYPES)}.")] = EventType.CLICK,
    wait: Annotated[bool, typer.Option(help="Wait for the first answer that used it, and print the delay.")] = True,
) -> None:
    """Send one event of USER_ID on ITEM_ID to the log, and measure the time until an answer uses it."""
    settings = load_settings()
    asyncio.run(_click(settings, new_event(user_id, item_id, type), wait))


def new_event(user_id: str, item_id: str, kind: str = "click") -> Event:
    """A new event with the current time and a new id; ``BadInput`` if an id is not valid."""
    now = time.time_ns() // 1_000_000
    event = Event(f"cli-{uuid.uuid4().hex[:16]}", user_id, item_id, str(kind), now, produced_ms=now)
    return decode_event(encode_event(event), append_ms=now)


async def _click(settings: Settings, event: Event, wait: bool) -> None:
    about = f"{event.type} {event.event_id}: {event.user_id} on {event.item_id}"
    if wait:
        delay_ms = await click_to_answer(settings, event)
        console.print(f"sent {about}\nused by an answer after {delay_ms:.1f} ms")
        return
    async with Producer(settings.brokers) as producer:
        await producer.send_all(CLICKS, [_message(event)])
        console.print(f"sent {about}")


async def click_to_answer(settings: Settings, event: Event, *, deadline_s: float = _WAIT_S) -> float:
    """Send *event* and return the milliseconds from just before until the first answer with it as newest event.

    Connections are opened before the clock starts. ``Unavailable`` if the log or retrieval is down, or if no answer
    used the event within the deadline.
    """
    url = f"/recommend/{quote(event.user_id, safe='')}?k=20"
    async with (
        Producer(settings.brokers) as producer,
        httpx.AsyncClient(base_url=settings.retrieval, headers=key_headers(settings)) as client,
    ):
        await producer.prepare(CLICKS)
        refuse_unlet_in(settings, await _asked(client, url))
        started = time.perf_counter()
        produced_ms = time.time_ns() // 1_000_000  # the event was made before the connections were open
        await producer.send_all(CLICKS, [_message(replace(event, produced_ms=produced_ms))])
        while await _newest_event(client, url) != event.event_id:
            if time.perf_counter() - started > deadline_s:
                hint = "see `nearline status` and `nearline dlq list`"
                raise Unavailable(f"no answer used {event.event_id} within {deadline_s:g} s; {hint}")
            await asyncio.sleep(0.001)
        return (time.perf_counter() - started) * 1000


async def _newest_event(client: httpx.AsyncClient, url: str) -> str | None:
    newest: str | None = (await _asked(client, url)).json().get("newest_event_id")
    return newest


async def _asked(client: httpx.AsyncClient, url: str) -> httpx.Response:
    try:
        return await client.get(url)
    except httpx.HTTPError as error:
        raise unreachable("retrieval", str(client.base_url), error) from None


def _message(event: Event) -> Message:
    return event.user_id.encode(), encode_event(event)


def replay(
    file: Annotated[Path, typer.Argument(help="A file with one event per line, or the folder data/online-retail.")],
    rate: Annotated[float, typer.Option(min=0, help="Events per second; 0 is as fast as the log accepts them.")] = 0,
    catalogue: Annotated[bool, typer.Option(help="List the recording's items first.")] = False,
    shift: Annotated[bool, typer.Option(help="Shift all times so that the last event is now.")] = True,
) -> None:
    """Send a recorded history to the log, with all times shifted so that its last event is now."""
    settings = load_settings()
    recording = load_recording(file)
    console.print(recording.report)
    if catalogue:
        asyncio.run(list_items(settings, recording, shift=shift))
    asyncio.run(replay_events(settings, recording, rate=rate, shift=shift))


async def list_items(settings: Settings, recording: Recording, *, shift: bool = True) -> None:
    """Send the recording's items; idempotent."""
    records = listings(recording.items, shift_ms=_shift_ms(settings, recording) if shift else 0)
    async with Producer(settings.brokers) as producer:
        await _send(producer, ITEMS, records, len(recording.items), "listing items", 0)


async def replay_events(settings: Settings, recording: Recording, *, rate: float = 0, shift: bool = True) -> None:
    """Send the recording's events, *rate* a second (0: as fast as the log accepts them); idempotent."""
    records = messages(recording.events, shift_ms=_shift_ms(settings, recording) if shift else 0)
    async with Producer(settings.brokers) as producer:
        await _send(producer, CLICKS, records, len(recording.events), "replaying events", rate)


def _shift_ms(settings: Settings, recording: Recording) -> int:
    return shift_of(recording, settings.data, now_ms=time.time_ns() // 1_000_000)


async def _send(producer: Producer, topic: str, records: Iterable[Message], total: int, what: str, rate: float) -> None:
    pace = _pace(rate)
    source = iter(records)
    sent = 0
    started = time.monotonic()
    with progress() as bar:
        task = bar.add_task(what, total=total, rate="")
        while chunk := list(islice(source, min(_CHUNK, max(1, int(rate / 20))) if rate else _CHUNK)):
            await producer.send_all(topic, chunk)
            sent += len(chunk)
            bar.update(task, completed=sent, rate=f"{sent / (time.monotonic() - started):,.0f}/s")
            await pace(sent)


def _pace(rate: float) -> Callable[[int], Awaitable[None]]:
    """A function that waits until *sent* records are due at *rate* a second."""
    started = time.monotonic()

    async def pace(sent: int) -> None:
        if rate:
            await asyncio.sleep(max(0.0, started + sent / rate - time.monotonic()))

    return pace
