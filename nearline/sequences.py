"""Sequences: a user's last N events, columnar, as the topic ``user-sequences`` carries them (version 1).

The columns run oldest first. ``version`` is the user's hybrid logical clock: larger after every accepted change. The
column ``contexts`` is there only if an event brought some of the declared context (nearline/signals.py).
"""

from dataclasses import dataclass, field
from typing import Any

import orjson

from nearline.errors import BadInput
from nearline.signals import Context

COLUMNS = ("items", "times_ms", "types", "values", "event_ids")
CONTEXTS = "contexts"


@dataclass(frozen=True, slots=True)
class Sequence:
    """The last N events of one user in their total order ``(time_ms, event_id)``; never empty.

    *contexts* is empty if no event has one, else as long as the other columns.
    """

    user_id: str
    version: int
    items: list[str]
    times_ms: list[int]
    types: list[str]
    values: list[float]
    event_ids: list[str]
    contexts: list[Context | None] = field(default_factory=list)

    @property
    def as_of_ms(self) -> int:
        """The time of the newest event."""
        return self.times_ms[-1]

    @property
    def newest_event_id(self) -> str:
        """The id of the newest event."""
        return self.event_ids[-1]


def encode_sequence(sequence: Sequence) -> bytes:
    """The sequence as ``flink_jobs/last_n`` writes it."""
    body: dict[str, Any] = {
        "v": 1,
        "user_id": sequence.user_id,
        "version": sequence.version,
        "items": sequence.items,
        "times_ms": sequence.times_ms,
        "types": sequence.types,
        "values": sequence.values,
        "event_ids": sequence.event_ids,
    }
    if any(sequence.contexts):
        body[CONTEXTS] = sequence.contexts
    return orjson.dumps(body)


def decode_sequence(raw: bytes) -> Sequence:
    """The sequence in *raw*; ``BadInput`` if it is not one of version 1 with columns of one length ≥ 1."""
    try:
        body = orjson.loads(raw)
        if body["v"] != 1:
            raise BadInput("unknown_version", f"sequence version must be 1, came {body['v']!r:.80}")
        user_id, version = body["user_id"], body["version"]
        columns = {name: body[name] for name in COLUMNS}
        contexts = body.get(CONTEXTS) or []
        lengths = {name: len(column) for name, column in columns.items()}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise BadInput("bad_sequence", f"not a sequence of version 1 ({error!r:.120}): {raw[:80]!r}") from None
    if contexts:
        lengths[CONTEXTS] = _length_of_contexts(contexts)
    if len(set(lengths.values())) != 1 or not lengths[COLUMNS[0]]:
        raise BadInput("bad_sequence", f"columns must share one length of at least 1, came {lengths}")
    return Sequence(user_id, version, **columns, contexts=contexts)


def _length_of_contexts(contexts: object) -> int:
    if not isinstance(contexts, list) or not all(each is None or isinstance(each, dict) for each in contexts):
        raise BadInput("bad_sequence", f"contexts must be a list of objects and nulls, came {contexts!r:.120}")
    return len(contexts)
