"""User updates announce that users' documents were written, in the topic ``user-updates.<space>`` (version 2, JSON).

``user_tower`` appends one record for all users that were written together, right after the store's acknowledgement. It
is a hint for readers that wait for a document or cache it: the store decides, and a hint may be missing or come twice.
If an event with a time of production led to a write, the update names it.

A record has no key. Its value, ``{"v": 2, "users": {"u": [history, vector, seen, stored_ms, …]}}``, maps each user to
the versions of the document, the time of the write, and, if known, the event's id, time of production and trace.
Version 1, a record for each user under the user's id, stays readable: after an upgrade it is in the log for an hour.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from nearline.errors import BadInput
from nearline.log import Record
from nearline.user_documents import DocumentVersions

MOST_USERS = 1_000  # in one record: with the longest ids it stays below 1 MiB


@dataclass(frozen=True, slots=True)
class UserUpdate:
    """The versions of a document stored at *stored_ms*, and the event that led to it, if known.

    Of several events written together it is a traced one, if there is any, else the newest.
    """

    history_version: int
    vector_version: int
    seen_version: int
    stored_ms: int
    event_id: str = ""
    produced_ms: int | None = None
    traceparent: str = ""

    @property
    def order(self) -> DocumentVersions:
        """As ``UserDocument.order``; a cached document that is lower in one of the three is stale."""
        return self.history_version, self.vector_version, self.seen_version


def encode_user_updates(updates: Mapping[str, UserUpdate]) -> bytes:
    """The updates of at most ``MOST_USERS`` users, as ``user_tower`` writes them."""
    return orjson.dumps({"v": 2, "users": {user_id: _fields(update) for user_id, update in updates.items()}})


def _fields(update: UserUpdate) -> list[int | str | None]:
    versions: list[int | str | None] = [*update.order, update.stored_ms]
    if update.traceparent:
        return [*versions, update.event_id, update.produced_ms, update.traceparent]
    return [*versions, update.event_id, update.produced_ms] if update.event_id else versions


def decode_user_updates(record: Record) -> Mapping[str, UserUpdate]:
    """The updates in *record* by user; ``BadInput`` unless it is valid and of version 1 or 2."""
    try:
        body = orjson.loads(record.value or b"")
        if body["v"] == 2:
            return {user_id: _update(*fields) for user_id, fields in body["users"].items()}
        if body["v"] == 1:
            return {record.id: _of_version_1(body)}
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput("bad_user_update", f"not user updates ({error!r:.120}): {record.value!r:.80}") from None
    raise BadInput("unknown_version", f"user updates must have version 1 or 2, came {body['v']!r:.80}")


def _update(*fields: Any) -> UserUpdate:
    if any(type(field) is not int for field in fields[:4]):
        raise TypeError("the first four fields must be integers")
    return UserUpdate(*fields)


def _of_version_1(body: Mapping[str, Any]) -> UserUpdate:
    history, vector, seen, stored_ms = (
        int(body[name]) for name in ("history_version", "vector_version", "seen_version", "stored_ms")
    )
    produced_ms = body.get("produced_ms")
    event_id, traceparent = str(body.get("event_id", "")), str(body.get("traceparent", ""))
    return UserUpdate(
        history, vector, seen, stored_ms, event_id, None if produced_ms is None else int(produced_ms), traceparent
    )
