"""What callers tell of a user beside events: a profile, that something is to be forgotten, or who a session was.

Profiles are records of the topic ``users``, followed as a table. All else are commands (nearline/user_commands.py):
they go into ``clicks`` under the user's id, so that each has its place among the user's events.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from nearline.errors import BadInput, Unavailable
from nearline.events import refuse_unknown
from nearline.ids import check_id
from nearline.profiles import MAX_PROFILE_BYTES, Profile, decode_profile, encode_profile, profile_of
from nearline.user_commands import Command, Erase, Merge, Remove, encode_command
from services.ingest import clicks
from services.ingest.appender import Appender
from services.ingest.table_view import TableView

_MERGE_FIELDS = frozenset({"session_id", "events"})
Verdict = clicks.AcceptedEvent | clicks.RefusedEvent


@dataclass(frozen=True, slots=True)
class Merging:
    """What a request to merge comes to: the session that becomes the user's, if one is named, and events as the user's
    own.
    """

    session_id: str | None
    verdicts: list[Verdict]


class UserEditor:
    """Users as callers change them.

    A profile is replaced as a whole, so nothing is lost but the earlier of two; the log's order is the one that counts,
    and what this process appended it knows in that order.
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
        """Version and profile; ``BadInput`` (``no_profile``) if the user has none."""
        check_id("user_id", user_id)
        if not self._is_read():
            raise Unavailable("the profiles are still being read from the log; try again when /readyz says so")
        listed = self._table.get(user_id)
        if listed is None:
            raise BadInput("no_profile", f"user {user_id!r:.140} has no profile; tell one with PUT", field="user_id")
        return listed.version, decode_profile(listed.raw)

    async def put(self, user_id: str, body: Mapping[str, Any]) -> tuple[int, Profile]:
        """Tell the user's profile, or replace it as a whole; version and profile as they now are."""
        profile = profile_of({"v": 1, **body})
        raw = encode_profile(profile)
        if len(raw) > MAX_PROFILE_BYTES:
            most = f"at most {MAX_PROFILE_BYTES:,} are accepted"
            raise BadInput("too_large", f"the profile has {len(raw):,} bytes; {most}", field="attributes")
        return await self._tell(user_id, raw), profile

    async def erase(self, user_id: str, *, now_ms: int) -> str:
        """Have the user forgotten, profile and all; the command's id."""
        await self._tell(user_id, None)
        return await self._command(Erase(self._new_id(), user_id, now_ms))

    async def remove(self, user_id: str, event_id: str, *, now_ms: int) -> str:
        """Have one event of the user forgotten, known or not; the command's id."""
        check_id("user_id", user_id)
        return await self._command(Remove(self._new_id(), user_id, check_id("event_id", event_id), now_ms))

    async def merge(self, user_id: str, merging: Merging, *, now_ms: int) -> str | None:
        """Append the accepted events, and have the session become the user's; the command's id, if there is one.

        All of it may be sent again: the events are the same events, and a session that was merged has none left.
        """
        messages = [(one.key, one.value) for one in merging.verdicts if isinstance(one, clicks.AcceptedEvent)]
        command = None
        if merging.session_id is not None:
            await self._tell(merging.session_id, None)
            command = Merge(self._new_id(), merging.session_id, user_id, now_ms)
            messages.append(_message(command))
        if messages:
            await self._events.append(messages)
        return command.command_id if command else None

    async def _tell(self, user_id: str, raw: bytes | None) -> int:
        (version,) = await self._profiles.append([(check_id("user_id", user_id).encode(), raw)])
        self._table.note(user_id, version, raw)
        return version

    async def _command(self, command: Command) -> str:
        await self._events.append([_message(command)])
        return command.command_id


def _message(command: Command) -> tuple[bytes, bytes]:
    return command.user_id.encode(), encode_command(command)


def validate_merge(user_id: str, body: Mapping[str, Any], *, now_ms: int) -> Merging:
    """What of *body* can be merged into the user; ``BadInput`` if it is no such request, a verdict for each event."""
    check_id("user_id", user_id)
    if not body.keys() <= _MERGE_FIELDS:
        refuse_unknown(body, _MERGE_FIELDS, hint="a merge has session_id, events, or both")
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
    return Merging(session_id, [_validate(each, user_id, session_id, now_ms) for each in events or ()])


def _validate(body: object, user_id: str, session_id: str | None, now_ms: int) -> Verdict:
    """The verdict on one event, which must name neither another user nor leave its id to us."""
    if isinstance(body, dict):
        came = body.get("user_id", user_id)
        if came not in (user_id, session_id):
            whose = f"user_id must be the user's or the session's, or be left out; came {came!r:.140}"
            return clicks.refused(body, BadInput("other_user", whose, field="user_id"))
        if "event_id" not in body:
            why = "required field 'event_id' is missing: without it a merge sent again would count twice"
            return clicks.refused(body, BadInput("missing_field", why, field="event_id"))
        body = {**body, "user_id": user_id}
    return clicks.validate([body], now_ms=now_ms)[0]


def user_and_event(raw_path: bytes) -> tuple[str, str] | None:
    """User and event that the address ``/users/{user_id}/events/{event_id}`` names, told by its unescaped slashes.

    A server decodes an address before it is routed, so the user ``a/events/b`` (escaped: ``/users/a%2Fevents%2Fb``)
    looks like event b of user a. ``None`` if it is such a user. ``BadInput`` if the slashes leave it open.
    """
    named = raw_path.split(b"/", 2)[-1].split(b"/events/")
    if len(named) == 1:
        return None
    if len(named) > 2:
        raise BadInput(
            "bad_id", "the address can be read in two ways; write slashes within ids as %2F", field="event_id"
        )
    return _decoded("user_id", named[0]), _decoded("event_id", named[1])


def _decoded(name: str, raw: bytes) -> str:
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as broken:
        raise BadInput("bad_id", f"{name} is not UTF-8 in the address: {broken}", field=name) from None
