"""The job's one Python operator: a thin shell around ``decode_event`` and ``history``.

Everything an event needs happens in one call, since crossing between the JVM and Python is what costs: on two cores a
second operator halves the rate. For the same reason the state is one string of bytes and few fields travel.
"""

from collections.abc import Iterator

from pyflink.common import Duration, Row, Time, Types
from pyflink.datastream import KeyedProcessFunction, OutputTag, RuntimeContext
from pyflink.datastream.state import StateTtlConfig, ValueStateDescriptor

from flink_jobs.last_n import history as rule
from flink_jobs.last_n.popularity import gain
from nearline.dead_letters import DeadLetter, encode_dead_letter
from nearline.errors import BadInput
from nearline.events import Event, decode_event
from nearline.topics import CLICKS

_BYTES = Types.PRIMITIVE_ARRAY(Types.BYTE())
# ``user`` is the user id as SQL reads it (empty where it finds none); the rest is the record as Kafka gave it.
RECORD = Types.ROW_NAMED(
    ["user", "key", "value", "append_ms", "partition", "offset"],
    [Types.STRING(), _BYTES, _BYTES, Types.LONG(), Types.INT(), Types.LONG()],
)
# ``item`` and ``gain`` are the event's share in its item's popularity; ``item`` is null where there is none.
CHANGE = Types.ROW_NAMED(["user", "sequence", "item", "gain"], [Types.STRING(), _BYTES, Types.STRING(), Types.DOUBLE()])
DEAD_LETTERS = OutputTag("dead-letters", Types.ROW_NAMED(["key", "value"], [_BYTES, _BYTES]))


class LastN(KeyedProcessFunction):  # type: ignore[misc]
    """Keeps each user's last *keep* events and emits the sequence when it changed; bad records become dead letters.

    A user idle for *ttl_ms* of processing time is forgotten.
    """

    def __init__(self, *, keep: int, ttl_ms: int, half_life_ms: int) -> None:
        self._keep = keep
        self._ttl_ms = ttl_ms
        self._half_life_ms = half_life_ms

    def open(self, context: RuntimeContext) -> None:
        """Bind the user's state and the counters."""
        descriptor = ValueStateDescriptor("history", Types.PICKLED_BYTE_ARRAY())
        descriptor.enable_time_to_live(_expiry(self._ttl_ms))
        self._state = context.get_state(descriptor)
        self._metrics = context.get_metrics_group()
        self._unchanged = self._metrics.counter("nearline_unchanged")
        self._refused = self._metrics.counter("nearline_refused")

    def process_element(self, record: Row, _: KeyedProcessFunction.Context) -> Iterator[Row | tuple[OutputTag, Row]]:
        """Emit the new sequence with the popularity gained, a dead letter, or nothing."""
        user, key, value, append_ms, partition, offset = record
        try:
            event = _decode(user, value, append_ms)
        except BadInput as bad:
            self._refused.inc()
            letter = DeadLetter(bad.reason, str(bad), CLICKS, partition, offset, append_ms, key, value)
            yield DEAD_LETTERS, Row(key, encode_dead_letter(letter))
            return
        before = rule.decode_state(self._state.value())
        after = rule.append(before, event, keep=self._keep, append_ms=append_ms)
        if after is before:
            self._unchanged.inc()
            return
        sequence = rule.encode(after)
        self._state.update(rule.encode_state(sequence))
        share = 0.0 if rule.holds(before, event.event_id) else gain(event, half_life_ms=self._half_life_ms)
        yield Row(user, sequence, event.item_id if share else None, share)


def _expiry(ttl_ms: int) -> StateTtlConfig:
    """Forget after *ttl_ms* without a write; RocksDB drops what expired when it compacts."""
    # PyFlink 2.2.1 asks a Java gateway for the default of the period, which here, inside the JVM, starts a second JVM
    # that idles for ever. Java's own default counts; what is given is only looked at for being there.
    builder = StateTtlConfig.new_builder(Time.milliseconds(ttl_ms)).disable_cleanup_in_background()
    return builder.cleanup_in_rocksdb_compact_filter(1000, Duration(None)).build()


def _decode(user: str, value: bytes | None, append_ms: int) -> Event:
    try:
        event = decode_event(value, append_ms=append_ms)
    except BadInput:
        raise
    except Exception as error:  # a decoder's mistake must cost one record, not every user's job
        raise BadInput("undecodable", f"the decoder failed with {error!r:.200}") from error
    if event.user_id != user:
        raise BadInput(
            "ambiguous_user", f"user_id is {event.user_id!r:.80}, but another reader of JSON sees {user!r:.80}"
        )
    return event
