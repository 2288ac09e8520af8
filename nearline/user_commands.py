"""User commands: changes of a user's history, in ``clicks`` among the user's events (version 1).

They share the events' topic and keys, so that each has its place in the user's order: a reader of ``clicks`` uses
``decode_entry`` and applies or skips them. A record's append time is the command's time.

Events count as soon as they are read, commands only if no aborted transaction wrote them: a command is written outside
of transactions and says so in a header (``OUTSIDE_TRANSACTION``), or its readers look up what became of its
transaction (``is_to_look_up``, nearline/adapters/kafka/transactions.py).

    erase    delete the user's data: all from before, and older events that arrive later
    remove   delete one event, also if it arrives later
    merge    an anonymous session (*user_id*) is the user *into*: its events become the user's, then it is erased
    adopt    the rest of a merge, written only by the job: the session's seen items from before its kept events
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import orjson

from nearline.errors import BadInput
from nearline.events import (
    MAX_EVENT_BYTES,
    Event,
    check_time,
    check_version,
    encode_event,
    event_of,
    is_ahead,
    load_object,
    refuse_unknown,
)
from nearline.ids import check_id, check_ids
from nearline.log import Record
from nearline.topics import CLICKS

COMMAND = "command"
OUTSIDE_TRANSACTION = ("nearline-transaction", b"none")


@dataclass(frozen=True, slots=True)
class Erase:
    """Delete all data of the user."""

    command_id: str
    user_id: str
    time_ms: int


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete the event *event_id* of the user."""

    command_id: str
    user_id: str
    event_id: str
    time_ms: int


@dataclass(frozen=True, slots=True)
class Merge:
    """The session *user_id* belongs to the user *into*."""

    command_id: str
    user_id: str
    into: str
    time_ms: int


@dataclass(frozen=True, slots=True)
class Adopt:
    """The user has also seen *seen*, in the job's own binary form (flink_jobs/last_n/seen_items.py).

    *merged_from* are the user ids of earlier copies, oldest first.
    """

    command_id: str
    user_id: str
    seen: bytes
    merged_from: tuple[str, ...]
    time_ms: int


Command = Erase | Remove | Merge | Adopt
Entry = Event | Command
COMMANDS: Mapping[str, type[Command]] = {"erase": Erase, "remove": Remove, "merge": Merge, "adopt": Adopt}
_NAMES = {kind: name for name, kind in COMMANDS.items()}
_FIELDS = {kind: frozenset({"v", COMMAND, *(f.name for f in fields(kind))}) for kind in COMMANDS.values()}


def encode_command(command: Command) -> bytes:
    """The command's record in ``clicks``, under the key ``command.user_id``."""
    body: dict[str, Any] = {"v": 1, COMMAND: _NAMES[type(command)]}
    body |= {f.name: getattr(command, f.name) for f in fields(command)}
    if isinstance(command, Adopt):
        body["seen"] = base64.b64encode(command.seen).decode()
    return orjson.dumps(body)


def encode_entry(entry: Entry) -> bytes:
    """The event's or command's record in ``clicks``, under the key ``entry.user_id``."""
    return encode_event(entry) if isinstance(entry, Event) else encode_command(entry)


def decode_entry(raw: bytes | None, *, append_ms: int) -> Entry:
    """The event or command in a record of ``clicks``, not ahead of its append time; ``BadInput`` with a reason."""
    return not_ahead(parse_entry(raw), append_ms=append_ms)


def parse_entry(raw: bytes | None) -> Entry:
    """The event or command in a record of ``clicks``, at the time that its producer gave; else ``BadInput``."""
    body = load_object(raw, MAX_EVENT_BYTES)
    return command_of(body) if COMMAND in body else event_of(body)


def not_ahead(entry: Entry, *, append_ms: int) -> Entry:
    """*entry* itself, or at its append time if its producer's clock was ahead of the log's."""
    return replace(entry, time_ms=append_ms) if is_ahead(entry.time_ms, append_ms) else entry


def command_of(body: Mapping[str, Any]) -> Command:
    """The command in the JSON object *body*; ``BadInput`` with a reason."""
    name = body.get(COMMAND)
    kind = COMMANDS.get(name) if isinstance(name, str) else None
    if kind is None:
        expected = f"command must be one of {', '.join(COMMANDS)}"
        raise BadInput("unknown_command", f"{expected}, came {name!r:.80}", field=COMMAND)
    known = _FIELDS[kind]
    if not body.keys() <= known:
        refuse_unknown(body, known, hint=f"{name!r} has {', '.join(sorted(known))}")
    for field in sorted(known - body.keys()):
        raise BadInput("missing_field", f"required field {field!r} of {name!r} is missing", field=field)
    check_version(body)
    told = {f: _READ.get(f, check_id)(f, body[f]) for f in known - {"v", COMMAND, "time_ms"}}
    if told.get("into") == told["user_id"]:
        raise BadInput("same_user", f"user_id and into are both {told['user_id']!r:.80}", field="into")
    return kind(time_ms=check_time(body["time_ms"]), **told)


def is_to_look_up(record: Record) -> bool:
    """Whether *record* is a command that an aborted transaction may have written."""
    if record.topic != CLICKS or record.value is None or b'"command"' not in record.value:
        return False  # nearly all records: not worth parsing
    if any(name == OUTSIDE_TRANSACTION[0] for name, _ in record.headers):
        return False
    try:
        return COMMAND in load_object(record.value, MAX_EVENT_BYTES)
    except BadInput:
        return False


def _bytes(name: str, value: object) -> bytes:
    try:
        return base64.b64decode(value, validate=True)  # type: ignore[arg-type]
    except (TypeError, ValueError, binascii.Error):
        raise BadInput("wrong_type", f"{name} must be base64, came {value!r:.80}", field=name) from None


_READ: Mapping[str, Callable[[str, object], Any]] = {"seen": _bytes, "merged_from": check_ids}
