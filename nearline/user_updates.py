"""User updates: that a user's document was written, as the topic ``user-updates.<space>`` says it (version 1, JSON).

``user_tower`` appends one, keyed by the user, right after the store acknowledged. It is a hint to those who wait for a
document or keep a decoded one: the truth is in the store, and a hint may be missing or come twice. Where the write came
of an event that said when it was produced, the update names it.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from nearline.errors import BadInput
from nearline.user_documents import DocumentVersions


@dataclass(frozen=True, slots=True)
class UserUpdate:
    """The versions of a document that the store holds since *stored_ms*, and the event that this came of, if told.

    Of several events that were written together it is one that is traced, if there is any, and else the newest.
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
        """As ``UserDocument.order``; a kept document that is less in one of the three is stale."""
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
    """The update in *raw*; ``BadInput`` if it is not one of version 1."""
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
