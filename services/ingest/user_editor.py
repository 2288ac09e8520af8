"""Applies callers' changes to users: profiles, erasures, removals of events, and merges of sessions.

Profiles are records of the topic ``users``, followed as a table. The others are commands (nearline/user_commands.py):
they are appended to ``clicks`` under the user's id, so that each has its place among the user's events.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from nearline.errors import BadInput, Unavailable
from nearline.events import refuse_unknown
from nearline.ids import check_id, check_new_id
from nearline.profiles import MAX_PROFILE_BYTES, Profile, decode_profile, encode_profile, profile_of
from nearline.user_commands import OUTSIDE_TRANSACTION, Command, Erase, Merge, Remove, encode_command
from services.ingest import clicks
from services.ingest.appender import Appender
from services.ingest.table_view import TableView, append_to

_HEADERS = (OUTSIDE_TRANSACTION,)
_MERGE_FIELDS = frozenset({"session_id", "events"})
Verdict = clicks.AcceptedEvent | clicks.RefusedEvent


@dataclass(frozen=True, slots=True)
class Merging:
    """A validated merge: the session, if one is named, and the events under the user's id."""

    session_id: str | None
    verdicts: list[Verdict]


class UserEditor:
    """Changes and reads users for callers.

    A profile is replaced as a whole: of two the later one in the log counts, and this process sees its own appends in
    the log's order.
    """

    def __init__(
        self,
        table: TableView,
        profiles: Appender,
        events: Appender,
        *,
        is_read: Callable[[], bool],
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._table = table
        self._profiles = profiles
        self._events = events
        self._is_read = is_read
        self._new_id = new_id

    def get(self, user_id: str) -> tuple[int, Profile]:
        """The version and the profile; ``BadInput`` (``no_profile``) if the user has none."""
        check_id("user_id", user_id)
        if not self._is_read():
            raise Unavailable("the profiles are still being read from the log; try again when /readyz says so")
        listed = self._table.get(user_id)
        if listed is None:
            raise BadInput("no_profile", f"user {user_id!r:.140} has no profile; add one with PUT", field="user_id")
        return listed.version, decode_profile(listed.raw)

    async def put(self, user_id: str, body: Mapping[str, Any]) -> tuple[int, Profile]:
        """Add or replace the user's profile; return its new version and the profile."""
        check_new_id("user_id", user_id)
        profile = profile_of({"v": 1, **body})
        raw = encode_profile(profile)
        if len(raw) > MAX_PROFILE_BYTES:
            most = f"at most {MAX_PROFILE_BYTES:,} are accepted"
            raise BadInput("too_large", f"the profile has {len(raw):,} bytes; {most}", field="attributes")
        return await self._tell(user_id, raw), profile

    async def erase(self, user_id: str, *, now_ms: int) -> str:
        """Erase the user, with the profile; return the command's id."""
        await self._tell(user_id, None)
        return await self._command(Erase(self._new_id(), user_id, now_ms))

    async def remove(self, user_id: str, event_id: str, *, now_ms: int) -> str:
        """Remove one event of the user, known or not; return the command's id."""
        check_id("user_id", user_id)
        return await self._command(Remove(self._new_id(), user_id, check_id("event_id", event_id), now_ms))

    async def merge(self, user_id: str, merging: Merging, *, now_ms: int) -> str | None:
        """Append the accepted events and merge the session; return the command's id, if there is one.

        Safe to repeat: the events have the same ids, and a merged session has no events left.
        """
        messages = [(one.key, one.value) for one in merging.verdicts if isinstance(one, clicks.AcceptedEvent)]
        command = None
        if merging.session_id is not None:
            await self._tell(merging.session_id, None)
            command = Merge(self._new_id(), merging.session_id, user_id, now_ms)
            messages.append(_message(command))
        if messages:
            await self._events.append(messages, _HEADERS if command else ())
        return command.command_id if command else None

    async def _tell(self, user_id: str, raw: bytes | None) -> int:
        return (await append_to(self._profiles, self._table, check_id("user_id", user_id), raw)).version

    async def _command(self, command: Command) -> str:
        await self._events.append([_message(command)], _HEADERS)
        return command.command_id


def _message(command: Command) -> tuple[bytes, bytes]:
    return command.user_id.encode(), encode_command(command)


def validate_merge(user_id: str, body: Mapping[str, Any], *, now_ms: int, shift_ms: int = 0) -> Merging:
    """The merge in *body*, with each event accepted or refused; ``BadInput`` if *body* is not a merge.

    *shift_ms* corrects the events' times (sender_clock.py).
    """
    check_new_id("user_id", user_id)
    if not body.keys() <= _MERGE_FIELDS:
        refuse_unknown(body, _MERGE_FIELDS, hint="a merge has only session_id, events, or both")
    session_id, events = body.get("session_id"), body.get("events")
    if session_id is not None and check_id("session_id", session_id) == user_id:
        raise BadInput("same_user", "session_id is the user's own id; there is nothing to merge", field="session_id")
    if events is not None and not isinstance(events, list):
        came = f"{type(events).__name__}: {events!r:.80}"
        raise BadInput("wrong_type", f"events must be an array of objects, came {came}", field="events")
    if session_id is None and not events:
        raise BadInput("missing_field", f"a merge needs session_id, events, or both; came {sorted(body)}")
    if len(events or ()) > clicks.MAX_BATCH:
        most = f"at most {clicks.MAX_BATCH} are accepted; send several requests"
        raise BadInput("wrong_count", f"events has {len(events or ()):,} entries; {most}", field="events")
    return Merging(session_id, [_validate(each, user_id, session_id, now_ms, shift_ms) for each in events or ()])


def _validate(body: object, user_id: str, session_id: str | None, now_ms: int, shift_ms: int) -> Verdict:
    """Accept or refuse one event, which must have an id and may not name another user."""
    if isinstance(body, dict):
        came = body.get("user_id", user_id)
        if came not in (user_id, session_id):
            whose = f"user_id must be the user's or the session's, or be left out; came {came!r:.140}"
            return clicks.refused(body, BadInput("other_user", whose, field="user_id"))
        if "event_id" not in body:
            why = "required field 'event_id' is missing: without it a merge sent again would count twice"
            return clicks.refused(body, BadInput("missing_field", why, field="event_id"))
        body = {**body, "user_id": user_id}
    return clicks.validate([body], now_ms=now_ms, shift_ms=shift_ms)[0]


def user_and_event(raw_path: bytes) -> tuple[str, str] | None:
    """The user and event in the address ``/users/{user_id}/events/{event_id}``, split at its unescaped slashes.

    The server decodes an address before routing, so the user ``a/events/b`` (escaped: ``/users/a%2Fevents%2Fb``) looks
    like event b of user a. ``None`` for such a user. ``BadInput`` if the address is ambiguous.
    """
    named = raw_path.split(b"/", 2)[-1].split(b"/events/")
    if len(named) == 1:
        return None
    if len(named) > 2:
        raise BadInput("bad_id", "the address is ambiguous; write slashes within ids as %2F", field="event_id")
    return _decoded("user_id", named[0]), _decoded("event_id", named[1])


def _decoded(name: str, raw: bytes) -> str:
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as broken:
        raise BadInput("bad_id", f"{name} is not UTF-8 in the address: {broken}", field=name) from None
