"""User updates announce that a user's document was written, in the topic ``user-updates.<space>`` (version 1, JSON).

``user_tower`` appends one, keyed by the user, right after the store's acknowledgement. It is a hint for readers that
wait for a document or cache it: the store decides, and a hint may be missing or come twice. If an event with a time of
production led to the write, the update names it.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from nearline.errors import BadInput
from nearline.user_documents import DocumentVersions


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


def encode_user_update(update: UserUpdate) -> bytes:
    """The update as ``user_tower`` writes it."""
    body: dict[str, Any] = {
        "v": 1,
        "history_version": update.history_version,
        "vector_version": update.vector_version,
        "seen_version": update.seen_version,
        "stored_ms": update.stored_ms,
    }
    if update.event_id:
        body |= {"event_id": update.event_id, "produced_ms": update.produced_ms}
    if update.traceparent:
        body["traceparent"] = update.traceparent
    return orjson.dumps(body)


def decode_user_update(raw: bytes | None) -> UserUpdate:
    """The update in *raw*; ``BadInput`` unless it is valid and of version 1."""
    try:
        body = orjson.loads(raw or b"")
        if body["v"] != 1:
            raise BadInput("unknown_version", f"user update version must be 1, came {body['v']!r:.80}")
        history, vector, seen, stored_ms = (
            int(body[name]) for name in ("history_version", "vector_version", "seen_version", "stored_ms")
        )
        produced_ms = body.get("produced_ms")
        event_id, traceparent = str(body.get("event_id", "")), str(body.get("traceparent", ""))
        produced_ms = None if produced_ms is None else int(produced_ms)
        return UserUpdate(history, vector, seen, stored_ms, event_id, produced_ms, traceparent)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise BadInput("bad_user_update", f"not a user update of version 1 ({error!r:.120}): {raw!r:.80}") from None
