"""Erasure: what is left of a user, where and until when, from the log's records and the store's document.

Nothing here does I/O: the caller passes records to ``Traces`` and the other findings to ``remains``.
"""

import json
from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from nearline.dead_letters import decode_dead_letter
from nearline.errors import BadInput
from nearline.events import Event
from nearline.exposures import decode_exposures
from nearline.log import Record
from nearline.profiles import Profile, decode_profile
from nearline.seen import SeenSnapshot, decode_seen
from nearline.sequences import UserSequence, decode_sequence
from nearline.topics import (
    CLICKS,
    CLICKS_DLQ,
    EXPOSURES,
    HEARTBEAT_MS,
    USER_SEEN,
    USER_SEQUENCES,
    USER_SEQUENCES_DLQ,
    USER_UPDATES,
    USERS,
)
from nearline.user_commands import Entry, Erase, Merge, decode_entry
from nearline.user_documents import UserDocument
from nearline.user_updates import UserUpdate, decode_user_updates

PAGES_LIVE_MS = 30 * 60 * 1000  # a page's token is valid for so long (services/retrieval/pages.py)
ROCKSDB_MERGES_MS = 30 * 24 * 3600 * 1000  # Flink's default interval of periodic compaction
IDLE_LOOK_MS = 2 * 24 * 3600 * 1000  # how much later than that the job looks at an idle user, at most
_DELETES_EVERY_MS = 5 * 60 * 1000  # Kafka's log.retention.check.interval.ms
_NEVER_MS = 2**62  # Kafka's values for "no limit" are larger


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a topic keeps a record (ms); ``None`` without a limit.

    *deleted_ms* counts from a record to its segment's deletion, *compacted_ms* from a newer record of the same key,
    *tombstone_ms* from a null value.
    """

    deleted_ms: int | None
    compacted_ms: int | None
    tombstone_ms: int

    @property
    def superseded_ms(self) -> int | None:
        """How long an older value of a key is kept: until compaction or deletion, whichever comes first."""
        ends = [each for each in (self.deleted_ms, self.compacted_ms) if each is not None]
        return min(ends) if ends else None


def retention_of(config: Mapping[str, str]) -> Retention:
    """The limits in a topic's settings, as the broker reports them.

    Kafka deletes whole segments, by their newest record, and checks every five minutes: so a record may outlive the
    retention by the time for which its segment grows. It compacts a segment only once a later record began the next
    one; the heartbeat is that record where no other comes.
    """
    policy = config["cleanup.policy"].split(",")
    retention, segment, lag = (int(config[name]) for name in ("retention.ms", "segment.ms", "max.compaction.lag.ms"))
    deletes = "delete" in policy and 0 <= retention < _NEVER_MS
    compacts = "compact" in policy and lag < _NEVER_MS
    return Retention(
        retention + segment + _DELETES_EVERY_MS if deletes else None,
        lag + HEARTBEAT_MS + _DELETES_EVERY_MS if compacts else None,
        # A null value is removed by the first compaction after this time, and there is one a heartbeat.
        int(config["delete.retention.ms"]) + HEARTBEAT_MS,
    )


@dataclass(slots=True)
class Traces:
    """What the log holds about one user (or session); ``take`` every record of a topic, from any partition."""

    user_id: str
    erased_ms: int | None = None  # the append time of the newest erasure
    became: str | None = None  # the user that this session is now
    sessions: set[str] = field(default_factory=set)  # those that became this user
    held: dict[str, list[Record]] = field(default_factory=dict)  # by topic, oldest first
    _names: tuple[bytes, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._names = orjson.dumps(self.user_id), json.dumps(self.user_id).encode()

    def take(self, record: Record) -> None:
        """Note *record* if it concerns the user; a record of exposures once for each of the user's."""
        if record.topic == EXPOSURES:
            self.held.setdefault(EXPOSURES, []).extend([record] * self._shown_in(record.value))
            return
        is_theirs = record.id == self.user_id
        if record.topic.startswith(USER_UPDATES):
            is_theirs = self._is_named_in(record.value) and self.user_id in _announced(record)
        if record.topic in (CLICKS_DLQ, USER_SEQUENCES_DLQ):
            is_theirs = is_theirs or self._is_named_in_letter(record.value)
        if record.topic == CLICKS and (is_theirs or self._is_named_in(record.value)):
            is_theirs = self._take_entry(record) and is_theirs
        if is_theirs:
            insort(self.held.setdefault(record.topic, []), record, key=lambda each: each.order)

    def _shown_in(self, value: bytes | None) -> int:
        """How many of the exposures in *value* are the user's."""
        if not self._is_named_in(value):
            return 0
        return sum(exposure.user_id == self.user_id for exposure in decode_exposures(value))

    def _take_entry(self, record: Record) -> bool:
        """Whether *record* holds data of the user, other than an erasure."""
        entry = _entry(record)
        if isinstance(entry, Merge) and entry.into == self.user_id:
            self.sessions.add(entry.user_id)
        is_erasure = isinstance(entry, Erase | Merge) and entry.user_id == self.user_id
        if is_erasure and record.append_ms >= (self.erased_ms or 0):
            self.erased_ms = record.append_ms
            self.became = entry.into if isinstance(entry, Merge) else None
        return not isinstance(entry, Erase | Merge)

    def _is_named_in(self, value: bytes | None) -> bool:
        """Whether the id is in *value* as JSON text, escaped or not."""
        return value is not None and any(name in value for name in self._names)

    def _is_named_in_letter(self, value: bytes | None) -> bool:
        try:
            letter = decode_dead_letter(value or b"")
        except (ValueError, KeyError):
            return False
        return letter.key == self.user_id.encode() or self._is_named_in(letter.value)

    @property
    def profile(self) -> Profile | None:
        """The current profile."""
        raw = self._newest(USERS)
        return decode_profile(raw) if raw else None

    @property
    def sequence(self) -> UserSequence | None:
        """The current sequence, which may be the marker of an erased one."""
        raw = self._newest(USER_SEQUENCES)
        return decode_sequence(raw) if raw else None

    @property
    def seen(self) -> SeenSnapshot | None:
        """The newest snapshot of seen items."""
        raw = self._newest(USER_SEEN)
        return decode_seen(raw) if raw else None

    def _newest(self, topic: str) -> bytes | None:
        records = self.held.get(topic)
        return records[-1].value if records else None

    def before_erasure(self, topic: str) -> list[Record]:
        """The records of *topic* from before the erasure; all of them without one."""
        records = self.held.get(topic, [])
        return [record for record in records if self.erased_ms is None or record.append_ms <= self.erased_ms]


def _announced(record: Record) -> Mapping[str, UserUpdate]:
    try:
        return decode_user_updates(record)
    except BadInput:
        return {}


def _entry(record: Record) -> Entry | None:
    try:
        return decode_entry(record.value, append_ms=record.append_ms)
    except BadInput:
        return None


@dataclass(frozen=True, slots=True)
class Remains:
    """What is left in one place. *until_ms* is when it is gone at the latest; ``None`` if *note* says it.

    *is_known* means that answers still use data from before the erasure; *is_new* that the data came afterwards.
    """

    where: str
    found: str
    until_ms: int | None = None
    note: str = ""
    is_known: bool = False
    is_new: bool = False


def remains(
    traces: Traces, limits: Mapping[str, Retention], document: UserDocument | None, *, space: int, document_ttl_ms: int
) -> list[Remains]:
    """What is left of the user, place by place; places with nothing are left out."""
    rows = [
        _profile(traces, limits[USERS]),
        _sequence(traces, limits[USER_SEQUENCES], document_ttl_ms),
        _seen(traces, limits[USER_SEEN], document_ttl_ms),
        _document(traces, document, space, document_ttl_ms),
        _records(traces, CLICKS, limits[CLICKS], "records"),
        _records(traces, EXPOSURES, limits[EXPOSURES], "answers shown"),
        _records(traces, CLICKS_DLQ, limits[CLICKS_DLQ], "letters"),
        _records(traces, USER_SEQUENCES_DLQ, limits[USER_SEQUENCES_DLQ], "letters"),
        *(_records(traces, topic, limits[topic], "versions, no content") for topic in _updates(limits)),
        *(_superseded(traces, topic, limits[topic]) for topic in (USERS, USER_SEQUENCES, USER_SEEN)),
    ]
    return [row for row in rows if row is not None]


def _updates(limits: Mapping[str, Retention]) -> list[str]:
    return [topic for topic in limits if topic.startswith(USER_UPDATES)]


def elsewhere(traces: Traces, *, oldest_checkpoint_ms: int | None) -> list[Remains]:
    """What may be left in places that cannot be inspected, with the known limits."""
    erased_ms = traces.erased_ms
    return [
        Remains("Flink's state", *_state(erased_ms, oldest_checkpoint_ms)),
        Remains(
            "page tokens",
            "tokens that callers hold: a vector and the items shown",
            None if erased_ms is None else erased_ms + PAGES_LIVE_MS,
            "30 min after they were issued" if erased_ms is None else "",
        ),
        Remains(
            "trained models", "no user ids, no rows of users", None, "until trained anew without the user's events"
        ),
        Remains(
            "traces", "none are written here", None, "events carry `traceparent`: as long as your collector keeps it"
        ),
        Remains("logs of the parts", "an id may stand in a line about an error", None, "as long as you keep them"),
        Remains("exports, backups", "exports of the log or the store", None, "as long as you keep them"),
    ]


def _state(erased_ms: int | None, oldest_ms: int | None) -> tuple[str, int | None, str]:
    if erased_ms is None:
        return "the history and its checkpoints", None, "until erased, or idle for NEARLINE_HISTORY_TTL_DAYS"
    if oldest_ms is not None and oldest_ms <= erased_ms:
        return (
            "a checkpoint from before the erasure",
            None,
            "until three newer ones are complete: seconds while the job runs",
        )
    looked = "no checkpoint from before; " if oldest_ms is not None else "no checkpoints on this machine; "
    return looked + "deleted rows in RocksDB's files", erased_ms + ROCKSDB_MERGES_MS, "its files are merged by then"


def _profile(traces: Traces, limits: Retention) -> Remains | None:
    records = traces.held.get(USERS)
    if not records:
        return None
    newest = records[-1]
    if newest.value is None:
        return _mark("profile (users)", newest, limits, limits.tombstone_ms)
    return _known("profile (users)", "a profile", traces, newest.append_ms - 1)


def _sequence(traces: Traces, limits: Retention, ttl_ms: int) -> Remains | None:
    records, sequence = traces.held.get(USER_SEQUENCES), traces.sequence
    if not records or sequence is None:
        return None
    if sequence.erased:
        return _mark("history (user-sequences)", records[-1], limits, _until_deleted(limits, ttl_ms))
    return _known("history (user-sequences)", f"{len(sequence.items)} events", traces, sequence.version)


def _seen(traces: Traces, limits: Retention, ttl_ms: int) -> Remains | None:
    records, seen = traces.held.get(USER_SEEN), traces.seen
    if not records or seen is None:
        return None
    if not len(seen.hashes):
        return _mark("seen items (user-seen)", records[-1], limits, _until_deleted(limits, ttl_ms))
    return _known("seen items (user-seen)", f"hashes of {len(seen.hashes):,} items", traces, seen.version)


def _document(traces: Traces, document: UserDocument | None, space: int, ttl_ms: int) -> Remains | None:
    where = f"document of space {space} (store)"
    if document is None:
        return None
    if document.erased:
        return Remains(where, "only the marker of the erasure", document.stored_ms + ttl_ms)
    vector = "no vector" if document.vector is None else "a vector"
    found = f"{vector}, hashes of {len(document.seen):,} items"
    return _known(where, found, traces, document.history_version)


def _known(where: str, found: str, traces: Traces, version: int) -> Remains:
    """Data that answers use, at *version* of the user's clock; an erasure's version is its append time or later."""
    if traces.erased_ms is None:
        return Remains(where, found, None, "until erased", is_known=True)
    if version < traces.erased_ms:
        return Remains(where, found, None, "not erased yet: see `nearline status`", is_known=True)
    return Remains(where, f"{found}, new since the erasure", None, "until erased again", is_new=True)


def _until_deleted(limits: Retention, ttl_ms: int) -> int | None:
    """How long a marker stays at most: until the job deletes the idle user, and the log its record and its id."""
    if limits.compacted_ms is None:
        return limits.deleted_ms
    return ttl_ms + IDLE_LOOK_MS + limits.compacted_ms + limits.tombstone_ms


def _mark(where: str, record: Record, limits: Retention, after_ms: int | None) -> Remains:
    """The marker of an erasure: it holds the id, and keeps out older data that arrives later."""
    waits_ms = limits.compacted_ms if record.value is None else 0
    until_ms = None if after_ms is None or waits_ms is None else record.append_ms + waits_ms + after_ms
    return Remains(where, "only the marker of the erasure", until_ms, "" if until_ms else "no limit is set")


def _records(traces: Traces, topic: str, limits: Retention, what: str) -> Remains | None:
    records = traces.before_erasure(topic)
    if not records:
        return None
    until_ms = None if limits.deleted_ms is None else records[-1].append_ms + limits.deleted_ms
    return Remains(topic, f"{len(records):,} {what}", until_ms, "" if until_ms else "no limit is set")


def _superseded(traces: Traces, topic: str, limits: Retention) -> Remains | None:
    """Older values in a compacted topic, which wait for compaction, or for a delete in their own partition."""
    older = [record for record in traces.held.get(topic, [])[:-1] if record.value]
    if not older:
        return None
    last = {record.partition: record for record in traces.held[topic]}
    elsewhere = sorted(record.partition for record in older if record is last[record.partition])
    if elsewhere:
        where = ", ".join(map(str, elsewhere))
        note = f"until erased again: nothing replaces what another client wrote to partition {where}"
        return Remains(f"{topic}, before compaction", f"{len(older):,} older values", None, note)
    replaced_ms = traces.held[topic][-1].append_ms
    until_ms = None if limits.superseded_ms is None else replaced_ms + limits.superseded_ms
    found = f"{len(older):,} older values"
    return Remains(f"{topic}, before compaction", found, until_ms, "" if until_ms else "no limit is set")


def events_of(traces: Traces) -> list[Event]:
    """The user's events in the log, in its order, from before and after the erasure."""
    entries = (_entry(record) for record in traces.held.get(CLICKS, []))
    return [entry for entry in entries if isinstance(entry, Event)]
