"""Measures Python's part of reading users back, when the job has no checkpoint: microseconds a record and a user.

.venv/services/bin/python -m benchmarks.restoring
"""

import time
from collections.abc import Callable, Iterable

from flink_jobs.last_n.restoring import Restored, decode_restored, join, read_sequence, read_snapshot, replay
from flink_jobs.last_n.user_reducer import UserReducer
from flink_jobs.last_n.user_state import User
from nearline.events import Event
from nearline.seen import parse_seen_policy

_DAY_MS = 24 * 3600 * 1000
_POLICY = parse_seen_policy("")
_REDUCER = UserReducer(50, 7 * _DAY_MS, 400 * _DAY_MS, _POLICY)
_START_MS = 1_732_100_000_000


def events(numbers: Iterable[int]) -> list[Event]:
    """One user's events, each of another item."""
    return [Event(f"event-{n:06d}", "user-1", f"item-{n}", "click", _START_MS + n) for n in numbers]


def published(count: int) -> tuple[bytes, bytes]:
    """The last sequence and the last snapshot after *count* events."""
    user: User | None = None
    seen: bytes | None = None
    sequence = snapshot = b""
    for event in events(range(count)):
        outcome = _REDUCER.apply(user, event, lambda: seen, append_ms=event.time_ms)  # noqa: B023
        user, seen = outcome.user or user, outcome.seen or seen
        sequence, snapshot = outcome.sequence or sequence, outcome.snapshot or snapshot
    return sequence, snapshot


def microseconds(work: Callable[[], object], count: int = 300) -> float:
    """The best of five runs of *count* calls, for one call."""
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(count):
            work()
        best = min(best, time.perf_counter() - started)
    return best / count * 1e6


def replayed(restored: Restored, seen: bytes, sequence: bytes, numbers: range) -> tuple[Restored, User | None, bytes]:
    """A user after a replay."""
    user: User | None = None
    for event in events(numbers):
        outcome = replay(_REDUCER, restored, user, event, lambda: seen, lambda: sequence, append_ms=event.time_ms)  # noqa: B023
        restored = decode_restored(outcome.state) if outcome.state else restored
        user, seen = outcome.user or user, outcome.seen or seen
    return restored, user, seen


def main() -> None:
    """Print a table: a user with 60 events, and one with 2,100."""
    print(
        f"{'events':>8} {'sequence':>10} {'snapshot':>10} {'replay':>10} {'join':>10}  (us a record, an event, a user)"
    )
    for count in (60, 2_100):
        sequence, snapshot = published(count)
        first = read_snapshot(None, snapshot, _POLICY)
        assert first is not None
        assert first.seen is not None
        second = read_sequence(first.state, sequence)
        assert second is not None
        restored, seen = decode_restored(second.state), first.seen
        again = range(count - 50, count)
        after, user, kept = replayed(restored, seen, sequence, again)
        took = [
            microseconds(lambda: read_sequence(None, sequence)),  # noqa: B023
            microseconds(lambda: read_snapshot(None, snapshot, _POLICY)),  # noqa: B023
            microseconds(lambda: replayed(restored, seen, sequence, again), 10) / len(again),  # noqa: B023
            microseconds(lambda: join("user-1", after, sequence, user, kept, keep=50, policy=_POLICY), 50),  # noqa: B023
        ]
        print(f"{count:>8,} " + " ".join(f"{each:>10.1f}" for each in took))


if __name__ == "__main__":
    main()
