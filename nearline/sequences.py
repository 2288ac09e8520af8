"""Sequences: a user's last N events, in columns, as in the topic ``user-sequences`` (version 1).

The columns run oldest first. ``version`` is the user's hybrid logical clock: it grows with every accepted change. The
column ``contexts`` is present only if an event has some of the declared context (nearline/signals.py), ``profile`` and
``profile_ms`` only if the user has a profile: such a user may have no events. ``erased`` replaces the columns of an
erased user, so that an erasure is a version like any other. ``cause`` names the event that led to this version, if the
event has its time of production; only measurements of delays read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from nearline.errors import BadInput
from nearline.signals import Context

COLUMNS = ("items", "times_ms", "types", "values", "event_ids")
CONTEXTS = "contexts"
PROFILE = "profile"
ERASED = "erased"
CAUSE = "cause"
_NO_PROFILE: Context = {}


@dataclass(frozen=True, slots=True)
class TriggerEvent:
    """The event that led to a version of a sequence: when it was produced and appended, in UTC ms.

    All of it comes from the log, so a job that replays the log writes the same. *synthetic* is a test's event.
    """

    event_id: str
    produced_ms: int
    appended_ms: int
    traceparent: str = ""
    synthetic: bool = False


@dataclass(slots=True)  # not frozen, though nothing changes one: that would cost each click two microseconds
class UserSequence:
    """One user's last N events in the total order ``(time_ms, event_id)``; empty only with a profile or if erased.

    *contexts* is empty if no event has one, else as long as the other columns. *profile* holds declared signals, which
    count as older than all events; *profile_ms* is its record's append time, 0 without one. *erased* means that the
    user is as unknown as a new one, but this version is newer than all before.
    """

    user_id: str
    version: int
    items: list[str]
    times_ms: list[int]
    types: list[str]
    values: list[float]
    event_ids: list[str]
    contexts: list[Context | None] = field(default_factory=list)
    profile: Context = field(default_factory=dict)
    profile_ms: int = 0
    erased: bool = False
    cause: TriggerEvent | None = None

    @property
    def as_of_ms(self) -> int:
        """The time of the newest event; without events the profile's append time; 0 if erased."""
        return self.times_ms[-1] if self.times_ms else self.profile_ms

    @property
    def newest_event_id(self) -> str:
        """The id of the newest event; empty without events."""
        return self.event_ids[-1] if self.event_ids else ""

    @property
    def told(self) -> list[Context | None]:
        """The sources of the user's context, oldest first: the profile, then the events' contexts."""
        return [self.profile, *self.contexts] if self.profile else self.contexts


def erased_sequence(user_id: str, version: int) -> UserSequence:
    """The sequence of an erased user."""
    return UserSequence(user_id, version, [], [], [], [], [], erased=True)


def encode_sequence(sequence: UserSequence) -> bytes:
    """The sequence as ``flink_jobs/last_n`` writes it."""
    if sequence.erased:
        return orjson.dumps({"v": 1, "user_id": sequence.user_id, "version": sequence.version, ERASED: True})
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
    if sequence.profile:
        body |= {PROFILE: sequence.profile, "profile_ms": sequence.profile_ms}
    encoded = orjson.dumps(body)
    return encoded if sequence.cause is None else with_cause(encoded, sequence.cause)


def with_cause(sequence: bytes, cause: TriggerEvent) -> bytes:
    """Add *cause* to an encoded *sequence* that has none."""
    body: dict[str, Any] = {
        "event_id": cause.event_id,
        "produced_ms": cause.produced_ms,
        "appended_ms": cause.appended_ms,
    }
    if cause.traceparent:
        body["traceparent"] = cause.traceparent
    if cause.synthetic:
        body["synthetic"] = True
    return b'%b,"cause":%b}' % (sequence[:-1], orjson.dumps(body))


def decode_sequence(raw: bytes) -> UserSequence:
    """The sequence in *raw*; ``BadInput`` unless it has version 1 and columns of one length.

    Columns may be empty only with a profile.
    """
    try:
        body = orjson.loads(raw)
        if body["v"] != 1:
            raise BadInput("unknown_version", f"sequence version must be 1, came {body['v']!r:.80}")
        user_id, version = body["user_id"], body["version"]
        if ERASED in body:
            return _erased(body, user_id, version)
        columns = [body[name] for name in COLUMNS]
        contexts = body.get(CONTEXTS) or []
        lengths = [len(column) for column in columns]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise BadInput("bad_sequence", f"not a sequence of version 1 ({error!r:.120}): {raw[:80]!r}") from None
    if contexts:
        lengths.append(_length_of_contexts(contexts))
    profile, profile_ms = _profile(body) if PROFILE in body else (_NO_PROFILE, 0)
    if len(set(lengths)) != 1 or not (lengths[0] or profile):
        came = dict(zip((*COLUMNS, CONTEXTS), lengths, strict=False))
        raise BadInput("bad_sequence", f"columns must share one length of at least 1, came {came}")
    items, times_ms, types, values, event_ids = columns
    cause = _cause(body[CAUSE]) if CAUSE in body else None
    return UserSequence(
        user_id, version, items, times_ms, types, values, event_ids, contexts, profile, profile_ms, cause=cause
    )


def _erased(body: Mapping[str, Any], user_id: str, version: int) -> UserSequence:
    if body[ERASED] is not True or body.keys() & set(COLUMNS):
        raise BadInput("bad_sequence", f"an erased sequence has erased: true and no columns, came {sorted(body)}")
    return erased_sequence(user_id, version)


def _cause(told: Any) -> TriggerEvent | None:
    """The cause in *told*; ``None`` for an unknown form, which is no reason to refuse a history."""
    try:
        event_id, produced_ms, appended_ms = told["event_id"], told["produced_ms"], told["appended_ms"]
        traceparent, synthetic = told.get("traceparent", ""), told.get("synthetic", False)
    except (KeyError, TypeError, AttributeError):
        return None
    if type(event_id) is not str or type(traceparent) is not str:
        return None
    if type(produced_ms) is not int or type(appended_ms) is not int:
        return None
    return TriggerEvent(event_id, produced_ms, appended_ms, traceparent, synthetic is True)


def _profile(body: Mapping[str, Any]) -> tuple[Context, int]:
    profile, profile_ms = body[PROFILE], body.get("profile_ms")
    if not isinstance(profile, dict) or type(profile_ms) is not int:
        came = f"{profile!r:.120} and {profile_ms!r:.40}"
        raise BadInput("bad_sequence", f"profile must be an object and profile_ms an integer, came {came}")
    return profile, profile_ms


def _length_of_contexts(contexts: object) -> int:
    if not isinstance(contexts, list) or not all(each is None or isinstance(each, dict) for each in contexts):
        raise BadInput("bad_sequence", f"contexts must be a list of objects and nulls, came {contexts!r:.120}")
    return len(contexts)
