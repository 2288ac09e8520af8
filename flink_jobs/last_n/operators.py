"""The job's one Python operator: a thin shell around ``parse_entry`` and the reducer (user_reducer.py).

An event is processed in one call, since crossing between the JVM and Python is expensive: on two cores a second
operator halves the rate. For the same reason the state is one byte string and few fields are passed; the seen items
are separate, since they are larger and few records need them.
"""

import time
from collections.abc import Callable, Iterator

from pyflink.common import Duration, Row, Time, Types
from pyflink.datastream import KeyedProcessFunction, OutputTag, RuntimeContext
from pyflink.datastream.state import StateTtlConfig, ValueState, ValueStateDescriptor

from flink_jobs.last_n.expiry import idle_since_ms, looked_at_ms
from flink_jobs.last_n.metrics import OTHER, REASON, REASONS, TOPIC, Count
from flink_jobs.last_n.outcome import CLEAR_SEEN, UNCHANGED, Outcome
from flink_jobs.last_n.recent_users import RecentUsers
from flink_jobs.last_n.replay_end import NO_REPLAY, ReplayEnd
from flink_jobs.last_n.restoring import (
    RESTORED,
    decode_restored,
    join,
    read_sequence,
    read_snapshot,
    replay,
)
from flink_jobs.last_n.seen_items import decode_adopted
from flink_jobs.last_n.user_reducer import ProfileChange, UserReducer
from flink_jobs.last_n.user_state import decode_state
from nearline.dead_letters import DeadLetter, encode_dead_letter
from nearline.errors import BadInput
from nearline.events import Event
from nearline.hashing import hash64
from nearline.ids import check_id
from nearline.log import CommitLookup
from nearline.profiles import decode_profile
from nearline.seen import SeenPolicy
from nearline.topics import CLICKS, USERS
from nearline.user_commands import OUTSIDE_TRANSACTION, Adopt, Entry, encode_entry, not_ahead, parse_entry
from nearline.versions import is_misplaced

_BYTES = Types.PRIMITIVE_ARRAY(Types.BYTE())
# ``user`` is the user id as SQL reads it (empty if it finds none) and ``profile`` whether the record is from ``users``
# and not from ``clicks``; ``outside`` says that its producer promised to have written it outside of transactions. The
# rest is Kafka's record.
RECORD = Types.ROW_NAMED(
    ["user", "key", "value", "append_ms", "partition", "offset", "profile", "outside"],
    [Types.STRING(), _BYTES, _BYTES, Types.LONG(), Types.INT(), Types.LONG(), Types.BOOLEAN(), Types.BOOLEAN()],
)
# ``item`` and ``gain`` are the event's share in its item's popularity; ``item`` is null without one.
CHANGE = Types.ROW_NAMED(["user", "sequence", "item", "gain"], [Types.STRING(), _BYTES, Types.STRING(), Types.DOUBLE()])
_MINUTE_MS = 60_000
_KEY_AND_VALUE = Types.ROW_NAMED(["key", "value"], [_BYTES, _BYTES])
DEAD_LETTERS = OutputTag("dead-letters", _KEY_AND_VALUE)
SNAPSHOTS = OutputTag("snapshots", _KEY_AND_VALUE)
_WITH_HEADERS = Types.ROW_NAMED(["key", "value", "headers"], [_BYTES, _BYTES, Types.MAP(Types.STRING(), _BYTES)])
FORWARDED = OutputTag("sent-on", _WITH_HEADERS)  # checkpoints of earlier releases use this id
_OUTSIDE = dict([OUTSIDE_TRANSACTION])
_LOOK_AGAIN_MS = 1_000  # at a command whose transaction is open
_Told = tuple[str, bytes, int, int, int]


Outputs = Iterator[Row | tuple[OutputTag, Row]]


class LastN(KeyedProcessFunction):  # type: ignore[misc]
    """Applies *reducer* to users' records, stores the state and emits the outputs; bad records become dead letters.

    A user without a change for the reducer's ``ttl_ms`` is deleted, here and, by null values, in the topics
    (expiry.py); Flink's own expiry is for what no timer was set for. Users that were read
    back (``ReadingBack``) are joined with what *replay_end* says was replayed (restoring.py).

    A command counts only if no aborted transaction wrote it. Unless its producer promised that, the log is asked, by
    what *look_up* returns; while it has no answer, the command waits in the user's state and is asked for every second.
    """

    def __init__(
        self,
        reducer: UserReducer,
        look_up: Callable[[], CommitLookup],
        *,
        partitions: int,
        replay_end: ReplayEnd = NO_REPLAY,
    ) -> None:
        self._reducer = reducer
        self._partitions = partitions
        self._look_up = look_up
        self._replay_end = replay_end

    def open(self, context: RuntimeContext) -> None:
        """Set up the user's state and the counters."""
        self._state = _bytes_state(context, "history", self._reducer.ttl_ms)
        # Seen items are written up to a quarter of that time later (user_reducer.py), so they are kept so much longer.
        self._seen = _bytes_state(context, "seen", self._reducer.ttl_ms * 5 // 4)
        self._restored = _bytes_state(context, "restored", self._reducer.ttl_ms)
        self._look = _look_state(context)
        self._recent = RecentUsers(self._reducer.ttl_ms)
        self._waiting = _bytes_state(context, "commands in transactions", self._reducer.ttl_ms)
        self._commits = self._look_up()
        self._replaying = RecentUsers(self._reducer.ttl_ms)  # the replayed histories of users that are not joined yet
        metrics = context.get_metrics_group()
        self._unchanged = metrics.counter(Count.UNCHANGED)
        # All of them at the start, so that the first refused record shows in a rate.
        self._refused = {reason: metrics.add_group(REASON, reason).counter(Count.REFUSED) for reason in REASONS}
        self._commands = metrics.counter(Count.COMMANDS)
        self._late = metrics.counter(Count.FORGOTTEN)
        self._aborted = metrics.counter(Count.ABORTED)
        self._too_old = metrics.counter(Count.TOO_OLD)
        self._joined = metrics.counter(Count.JOINED)
        self._expired = metrics.counter(Count.EXPIRED)
        self._ahead = metrics.counter(Count.AHEAD)
        self._misplaced = {
            topic: metrics.add_group(TOPIC, topic).counter(Count.WRONG_PARTITION) for topic in (CLICKS, USERS)
        }

    def close(self) -> None:
        """Disconnect from the log."""
        self._commits.close()

    def process_element(self, record: Row, context: KeyedProcessFunction.Context) -> Outputs:
        """Apply the record to its user; emit the outputs, a dead letter, or nothing."""
        user, key, value, append_ms, partition, offset, profile, outside = record
        if is_misplaced(key, value, partition, self._partitions):
            self._misplaced[USERS if profile else CLICKS].inc()
        try:
            if profile:
                entry: Entry | ProfileChange = _profile_change(user, value, partition, offset)
            else:
                entry = self._in_time(_decode(user, value), append_ms)
        except BadInput as bad:
            self._refused.get(bad.reason, self._refused[OTHER]).inc()
            topic = USERS if profile else CLICKS
            letter = DeadLetter(bad.reason, str(bad), topic, partition, offset, append_ms, key, value)
            yield DEAD_LETTERS, Row(key, encode_dead_letter(letter))
            return
        is_safe = type(entry) is Event or profile or outside
        if is_safe or self._counts(context, (user, value, append_ms, partition, offset)):
            yield from self._apply(user, entry, append_ms, partition, offset, context)

    def _apply_waiting(self, context: KeyedProcessFunction.OnTimerContext) -> Outputs:
        """Apply the user's commands whose transactions were committed meanwhile, oldest first."""
        waiting = self._waiting.value() or []
        self._waiting.clear()
        for told in waiting:
            if self._counts(context, told):
                user, value, append_ms, partition, offset = told
                entry = not_ahead(_decode(user, value), append_ms=append_ms)
                yield from self._apply(user, entry, append_ms, partition, offset, context)

    def _counts(self, context: KeyedProcessFunction.Context, told: _Told) -> bool:
        """Whether a command counts (*told*: user, value, append time, partition, offset); false also if not yet."""
        *_, partition, offset = told
        committed = self._commits.is_committed(partition, offset)
        if committed is None:
            self._waiting.update([*(self._waiting.value() or []), told])
            context.timer_service().register_processing_time_timer(int(time.time() * 1000) + _LOOK_AGAIN_MS)
        elif not committed:
            self._aborted.inc()
        return bool(committed)

    def _apply(
        self,
        user: str,
        entry: Entry | ProfileChange,
        append_ms: int,
        partition: int,
        offset: int,
        context: KeyedProcessFunction.Context,
    ) -> Outputs:
        if type(entry) is not Event:
            self._commands.inc()
        before = self._recent.get(user)
        if before is None:
            state = self._state.value()
            if state is not None and state[:1] == RESTORED:
                if type(entry) is ProfileChange or not self._is_new(state, append_ms, partition, offset):
                    yield from self._replayed(user, state, entry, append_ms, context)
                    return
                yield from self._join(user, state)
                state = self._state.value()
            before = decode_state(state)
            _look_later(self._look, context, user, now_ms(), self._reducer.ttl_ms)
        outcome = self._reducer.apply(before, entry, self._seen.value, append_ms=append_ms)
        if outcome is UNCHANGED:
            self._unchanged.inc()
            return
        if outcome.state is not None:
            self._state.update(outcome.state)
            if outcome.user is None:
                self._recent.forget(user)
            else:
                self._recent.keep(outcome.user, len(outcome.state))
        if outcome.sequence is not None:
            yield Row(user, outcome.sequence, outcome.item, outcome.gain)
        if outcome.seen is not None or outcome.late or outcome.too_old:
            yield from self._rarely(user, outcome)

    def _in_time(self, entry: Entry, append_ms: int) -> Entry:
        """*entry*, at its append time and counted if its producer's clock is ahead."""
        told = not_ahead(entry, append_ms=append_ms)
        if told is not entry:
            self._ahead.inc()
        return told

    def _is_new(self, state: bytes, append_ms: int, partition: int, offset: int) -> bool:
        """Whether the lost job cannot have read the record of ``clicks``."""
        return append_ms > decode_restored(state).newest or self._replay_end.is_beyond(partition, offset)

    def _replayed(
        self,
        user: str,
        state: bytes,
        entry: Entry | ProfileChange,
        append_ms: int,
        context: KeyedProcessFunction.Context,
    ) -> Outputs:
        """Apply a record to a user whose histories are not joined yet."""
        restored = decode_restored(state)
        if restored.may_be_new(append_ms):
            context.timer_service().register_processing_time_timer(soon(user, now_ms()))
        before = self._replaying.get(user) or decode_state(restored.replayed)
        outcome = replay(
            self._reducer, restored, before, entry, self._seen.value, self._restored.value, append_ms=append_ms
        )
        if outcome is UNCHANGED:
            self._unchanged.inc()
        if outcome.state is not None:
            self._state.update(outcome.state)
            if outcome.user is None:
                self._replaying.forget(user)
            else:
                self._replaying.keep(outcome.user, len(outcome.state))
        if outcome.item is not None:
            yield Row(user, None, outcome.item, outcome.gain)
        if outcome.seen is not None or outcome.late or outcome.forwarded:
            yield from self._rarely(user, outcome)

    def on_timer(self, timestamp: int, context: KeyedProcessFunction.OnTimerContext) -> Outputs:
        """Apply commands that waited; join a restored user once all from before is read again; delete an idle one."""
        yield from self._apply_waiting(context)
        state = self._state.value()
        user = _user_of(context.get_current_key())
        if state is not None and state[:1] == RESTORED:
            if not self._replay_end.is_over():
                context.timer_service().register_processing_time_timer(soon(user, now_ms()))
                return
            yield from self._join(user, state)
        due_ms = self._look.value()
        if due_ms is not None and due_ms <= timestamp:
            yield from self._delete_if_idle(user, context)

    def _delete_if_idle(self, user: str, context: KeyedProcessFunction.OnTimerContext) -> Outputs:
        self._look.clear()
        known, ttl_ms = decode_state(self._state.value()), self._reducer.ttl_ms
        if known is not None and idle_since_ms(known) + ttl_ms > now_ms():
            _look_later(self._look, context, user, idle_since_ms(known), ttl_ms)
            return
        for state in (self._state, self._seen, self._restored):
            state.clear()
        self._recent.forget(user)
        self._expired.inc()
        yield Row(user, None, None, 0.0)
        yield SNAPSHOTS, Row(user.encode(), None)

    def _join(self, user: str, state: bytes) -> Outputs:
        """Make one of the user's restored and replayed histories."""
        restored = decode_restored(state)
        replayed = decode_state(restored.replayed)
        sequence, seen = self._restored.value(), self._seen.value()
        policy, keep = self._reducer.policy, self._reducer.keep
        outcome = join(user, restored, sequence, replayed, seen, keep=keep, policy=policy)
        self._state.update(outcome.state)
        self._restored.clear()
        self._replaying.forget(user)
        self._joined.inc()
        if outcome.sequence is not None:
            yield Row(user, outcome.sequence, None, 0.0)
        yield from self._rarely(user, outcome)

    def _rarely(self, user: str, outcome: Outcome) -> Iterator[tuple[OutputTag, Row]]:
        """Store and emit the rare outputs."""
        if outcome.late:
            self._late.inc()
        if outcome.too_old:
            self._too_old.inc()
        if outcome.seen == CLEAR_SEEN:
            self._seen.clear()
        elif outcome.seen is not None:
            self._seen.update(outcome.seen)
        if outcome.snapshot is not None:
            yield SNAPSHOTS, Row(user.encode(), outcome.snapshot)
        for entry in outcome.forwarded:
            yield FORWARDED, Row(entry.user_id.encode(), encode_entry(entry), _OUTSIDE)


class ReadingBack(KeyedProcessFunction):  # type: ignore[misc]
    """Fills ``LastN``'s state from the records of ``user-sequences`` and ``user-seen``; emits nothing.

    Records older than the time after which an idle user's data is deleted (*ttl_ms*) are left out, bad ones counted.
    """

    def __init__(self, ttl_ms: int, policy: SeenPolicy) -> None:
        self._ttl_ms = ttl_ms
        self._policy = policy

    def open(self, context: RuntimeContext) -> None:
        """Set up the same state as ``LastN``."""
        self._state = _bytes_state(context, "history", self._ttl_ms)
        self._seen = _bytes_state(context, "seen", self._ttl_ms * 5 // 4)
        self._restored = _bytes_state(context, "restored", self._ttl_ms)
        self._look = _look_state(context)
        metrics = context.get_metrics_group()
        self._refused = {reason: metrics.add_group(REASON, reason).counter(Count.REFUSED) for reason in REASONS}

    def process_element(self, record: Row, context: KeyedProcessFunction.Context) -> Iterator[Row]:
        """Keep the record if it is its user's newest; a null value forgets the user."""
        user, _, value, append_ms, _, _, is_snapshot, _ = record
        if not value:
            for state in (self._seen,) if is_snapshot else (self._state, self._restored):
                state.clear()
        elif append_ms > now_ms() - (self._ttl_ms * 5 // 4 if is_snapshot else self._ttl_ms):
            try:
                self._take(value, is_snapshot)
                _look_later(self._look, context, user, append_ms, self._ttl_ms)
            except BadInput as bad:
                self._refused.get(bad.reason, self._refused[OTHER]).inc()
        yield from ()

    def _take(self, value: bytes, is_snapshot: bool) -> None:
        known = self._state.value()
        read = read_snapshot(known, value, self._policy) if is_snapshot else read_sequence(known, value)
        if read is None:
            return
        self._state.update(read.state)
        if read.sequence is not None:
            self._restored.update(read.sequence)
        if read.seen is not None:
            self._seen.update(read.seen)


def _user_of(key: object) -> str:
    """The user id in a key of the stream, which PyFlink gives as it is or in a row."""
    return key if isinstance(key, str) else str(key[0])  # type: ignore[index]


def now_ms() -> int:
    """The wall clock, by which timers run."""
    return time.time_ns() // 1_000_000


def soon(user: str, now_ms: int) -> int:
    """A time within two minutes, the same for all calls of a minute, so that a user has few timers at a time."""
    return (now_ms // _MINUTE_MS + 1) * _MINUTE_MS + hash64(user) % _MINUTE_MS


def _look_state(context: RuntimeContext) -> ValueState:
    """When the user is looked at next."""
    return context.get_state(ValueStateDescriptor("look", Types.LONG()))


def _look_later(look: ValueState, context: KeyedProcessFunction.Context, user: str, since_ms: int, ttl_ms: int) -> None:
    """Set the user's timer, if none is set, or a later one for a longer time to live."""
    due_ms, known_ms = looked_at_ms(user, since_ms, ttl_ms), look.value()
    if known_ms is None or due_ms < known_ms:
        context.timer_service().register_processing_time_timer(due_ms)
        look.update(due_ms)


def _bytes_state(context: RuntimeContext, name: str, ttl_ms: int) -> ValueState:
    descriptor = ValueStateDescriptor(name, Types.PICKLED_BYTE_ARRAY())
    descriptor.enable_time_to_live(_expiry(ttl_ms))
    return context.get_state(descriptor)


def _expiry(ttl_ms: int) -> StateTtlConfig:
    """Delete after *ttl_ms* without a write; RocksDB drops expired entries when it compacts."""
    # Without an argument PyFlink 2.2.1 asks a Java gateway for the default period, which here, inside the JVM, starts a
    # second JVM that idles for ever. The argument only has to be present: Java's own default is used.
    builder = StateTtlConfig.new_builder(Time.milliseconds(ttl_ms)).disable_cleanup_in_background()
    return builder.cleanup_in_rocksdb_compact_filter(1000, Duration(None)).build()


def _decode(user: str, value: bytes | None) -> Entry:
    try:
        entry = parse_entry(value)
        if type(entry) is Adopt:
            decode_adopted(entry.seen)
    except BadInput:
        raise
    except Exception as error:  # a decoder's bug must cost one record, not the whole job
        raise BadInput("undecodable", f"the decoder failed with {error!r:.200}") from error
    if entry.user_id != user:
        raise BadInput(
            "ambiguous_user", f"user_id is {entry.user_id!r:.80}, but another JSON parser reads {user!r:.80}"
        )
    return entry


def _profile_change(user: str, value: bytes | None, partition: int, offset: int) -> ProfileChange:
    try:
        profile = decode_profile(value).context if value else {}
        return ProfileChange(check_id("the key", user), profile, partition, offset)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput("undecodable", f"the decoder failed with {error!r:.200}") from error
