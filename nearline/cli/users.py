"""``nearline user``: show and erase a user's data. Uses the log and the store directly."""

import asyncio
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from nearline.adapters.kafka.admin import Topics
from nearline.adapters.kafka.producer import Producer
from nearline.adapters.kafka.table_reader import TableReader
from nearline.adapters.stores import store_for
from nearline.cli.console import console
from nearline.erasure import Remains, Traces, elsewhere, events_of, remains, retention_of
from nearline.errors import Unavailable
from nearline.ids import check_id
from nearline.settings import Settings, load_settings
from nearline.topics import (
    CLICKS,
    CLICKS_DLQ,
    EXPOSURES,
    USER_SEEN,
    USER_SEQUENCES,
    USER_SEQUENCES_DLQ,
    USERS,
    everywhere,
    user_updates_topic,
)
from nearline.user_commands import OUTSIDE_TRANSACTION, Erase, encode_command, is_to_look_up
from nearline.user_documents import UserDocument, decode_stored_user

app = typer.Typer(no_args_is_help=True, help="Show a user's data, and erase it.")


@app.command()
def forget(
    user_id: Annotated[str, typer.Argument(metavar="USER")],
    check: Annotated[
        bool, typer.Option("--check", help="Send nothing; show what remains where and until when; status 1 if in use.")
    ] = False,
) -> None:
    """Erase USER: history, seen items, vector and profile, and older events that arrive later."""
    settings = load_settings()
    check_id("user_id", user_id)
    if check:
        raise typer.Exit(_check(settings, user_id))
    asyncio.run(_erase(settings, user_id))
    console.print(f"the erasure of {user_id!r} is in the log")
    console.print("`nearline user forget USER --check` shows what remains where, and until when")


@app.command()
def show(user_id: Annotated[str, typer.Argument(metavar="USER")]) -> None:
    """Show what the log and the store hold about USER."""
    settings = load_settings()
    check_id("user_id", user_id)
    traces = asyncio.run(_traces(settings, user_id, (CLICKS, USERS, USER_SEQUENCES, USER_SEEN)))[0]
    document = asyncio.run(_document(settings, user_id))
    for line in (*_told(traces), *_learnt(traces), _stored(document, settings)):
        console.print(line)
    if traces.sequence is not None and traces.sequence.items:
        console.print(_history(traces))


def _check(settings: Settings, user_id: str) -> int:
    topics = _topics_of_users(settings)
    limits = {name: retention_of(config) for name, config in _settings_of(settings, topics).items()}
    space, ttl_ms = settings.space, settings.history_ttl_ms
    ids = asyncio.run(_traces(settings, user_id, topics))
    oldest_ms = _oldest_checkpoint_ms(settings.data / "flink" / "checkpoints")
    in_use = False
    for traces in ids:
        document = asyncio.run(_document(settings, traces.user_id))
        found = remains(traces, limits, document, space=space, document_ttl_ms=ttl_ms)
        in_use = in_use or any(row.is_known for row in found)
        console.print(_about(traces))
        # What cannot be inspected is the same for a user and the user's sessions: printed once.
        more = elsewhere(traces, oldest_checkpoint_ms=oldest_ms) if traces.user_id == user_id else []
        console.print(_table([*found, *more]) if found or more else "nothing")
    return 1 if in_use else 0


def _topics_of_users(settings: Settings) -> list[str]:
    """Every topic with users' data; clicks first, because it names the user's sessions."""
    updates = user_updates_topic(settings.embedding_space)
    return [CLICKS, CLICKS_DLQ, USERS, USER_SEQUENCES, USER_SEQUENCES_DLQ, USER_SEEN, EXPOSURES, updates]


def _settings_of(settings: Settings, topics: Iterable[str]) -> dict[str, dict[str, str]]:
    admin = Topics(settings.brokers)
    try:
        return admin.settings_of(topics)
    finally:
        admin.close()


async def _erase(settings: Settings, user_id: str) -> None:
    command = Erase(uuid.uuid4().hex, user_id, time.time_ns() // 1_000_000)
    key = user_id.encode()
    async with Producer(settings.brokers) as producer:
        await producer.send_all(USERS, everywhere(key, settings.partitions))
        await producer.send_all(CLICKS, [(key, encode_command(command))], [OUTSIDE_TRANSACTION])


async def _traces(settings: Settings, user_id: str, topics: Iterable[str]) -> list[Traces]:
    """What the log holds about the user, and about each session merged into the user."""
    user = Traces(user_id)
    first, *others = topics
    await _read(settings, first, [user])
    sessions = [Traces(session_id) for session_id in sorted(user.sessions)]
    if sessions:
        await _read(settings, first, sessions)
    for topic in others:
        await _read(settings, topic, [user, *sessions])
    return [user, *sessions]


async def _read(settings: Settings, topic: str, ids: Iterable[Traces]) -> None:
    """Pass all of *topic* to *ids*: other keys' records may also name the user."""
    async with TableReader(settings.brokers, topic, look_up=is_to_look_up) as reader:
        while not reader.caught_up:
            for record in await reader.poll():
                for traces in ids:
                    traces.take(record)


async def _document(settings: Settings, user_id: str) -> UserDocument | None:
    space, ttl_ms = settings.embedding_space, settings.history_ttl_ms
    store = store_for(
        settings.store_url, space, ttl_ms=ttl_ms, read_ms=1_000, writer=False, tls=settings.store_security
    )
    try:
        await store.open()
        stored = await store.get_with_seen(user_id)
    except Unavailable as error:
        raise Unavailable(f"the store must be up for this check: {error}") from None
    finally:
        await store.close()
    return decode_stored_user(stored, space)


def _oldest_checkpoint_ms(folder: Path) -> int | None:
    """When the job's oldest complete checkpoint was made, if the job runs on this machine."""
    made = [path.stat().st_mtime_ns // 1_000_000 for path in folder.glob("*/chk-*/_metadata")]
    return min(made, default=None)


def _about(traces: Traces) -> str:
    who = f"session {traces.user_id!r}, now {traces.became!r}" if traces.became else f"user {traces.user_id!r}"
    if traces.erased_ms is None:
        return f"{who}: not erased (or longer ago than the log goes back)"
    return f"{who}: erased as of {_time(traces.erased_ms)}"


def _table(rows: Iterable[Remains]) -> Table:
    table = Table(Column("where", overflow="fold"), Column("what remains", overflow="fold"), "until, at the latest")
    for row in rows:
        until = " · ".join(filter(None, (_time(row.until_ms) if row.until_ms else "", row.note)))
        table.add_row(row.where, row.found, until)
    return table


def _told(traces: Traces) -> list[str]:
    told = traces.profile
    sessions = [f"sessions: {', '.join(sorted(traces.sessions))}"] if traces.sessions else []
    if told is None:
        return ["profile: none", *sessions]
    attributes = {"attributes": dict(told.attributes)} if told.attributes else {}
    return [f"profile: {dict(told.context) | attributes}", *sessions]


def _learnt(traces: Traces) -> list[str]:
    sequence, seen = traces.sequence, traces.seen
    if sequence is None or sequence.erased:
        history = "none" if sequence is None else "none, erased"
    else:
        history = f"the last {len(sequence.items)} events, version {sequence.version}"
    items = f"{len(seen.hashes):,} items in the snapshot of version {seen.version}" if seen else "no snapshot yet"
    in_log = f"{len(events_of(traces)):,} events"
    erased = [f"erased as of {_time(traces.erased_ms)}"] if traces.erased_ms is not None else []
    return [f"history: {history}", f"seen: {items}", f"in the log: {in_log}", *erased]


def _stored(document: UserDocument | None, settings: Settings) -> str:
    if document is None or document.erased:
        return f"in the store, space {settings.space}: " + ("nothing" if document is None else "the mark of an erasure")
    vector = "no vector yet" if document.vector is None else f"a vector of version {document.vector_version}"
    return (
        f"in the store, space {settings.space}: {vector}, {len(document.seen):,} seen items, {document.newest_event_id}"
    )


def _history(traces: Traces) -> Table:
    table = Table("time", "event", "item", "event id", title="history, newest first")
    sequence = traces.sequence
    assert sequence is not None
    columns = zip(sequence.times_ms, sequence.types, sequence.items, sequence.event_ids, strict=True)
    for time_ms, kind, item_id, event_id in reversed(list(columns)):
        table.add_row(_time(time_ms), kind, item_id, event_id)
    return table


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
