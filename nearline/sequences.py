"""Sequences: a user's last N events, columnar, as the topic ``user-sequences`` carries them (version 1).

The columns run oldest first. ``version`` is the user's hybrid logical clock: larger after every accepted change.
"""

from dataclasses import dataclass

import orjson

from nearline.errors import BadInput

COLUMNS = ("items", "times_ms", "types", "values", "event_ids")


@dataclass(frozen=True, slots=True)
class Sequence:
    """The last N events of one user in their total order ``(time_ms, event_id)``; never empty."""

    user_id: str
    version: int
    items: list[str]
    times_ms: list[int]
    types: list[str]
    values: list[float]
    event_ids: list[str]

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
    return orjson.dumps(
        {
            "v": 1,
            "user_id": sequence.user_id,
            "version": sequence.version,
            "items": sequence.items,
            "times_ms": sequence.times_ms,
            "types": sequence.types,
            "values": sequence.values,
            "event_ids": sequence.event_ids,
        }
    )


def decode_sequence(raw: bytes) -> Sequence:
    """The sequence in *raw*; ``BadInput`` if it is not one of version 1 with columns of one length ≥ 1."""
    try:
        body = orjson.loads(raw)
        if body["v"] != 1:
            raise BadInput("unknown_version", f"sequence version must be 1, came {body['v']!r:.80}")
        sequence = Sequence(body["user_id"], body["version"], *(body[name] for name in COLUMNS))
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise BadInput("bad_sequence", f"not a sequence of version 1 ({error!r:.120}): {raw[:80]!r}") from None
    lengths = {name: len(body[name]) for name in COLUMNS}
    if len(set(lengths.values())) != 1 or not sequence.items:
        raise BadInput("bad_sequence", f"columns must share one length of at least 1, came {lengths}")
    return sequence
