"""A job without a checkpoint gets back what its topics hold: stories first, then the property."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flink_jobs.last_n.outcome import CLEAR_SEEN, Outcome
from flink_jobs.last_n.restoring import (
    RESTORED,
    Restored,
    decode_restored,
    encode_restored,
    join,
    read_sequence,
    read_snapshot,
    replay,
)
from flink_jobs.last_n.seen_items import decode_seen_items, snapshot_of
from flink_jobs.last_n.seen_restoring import seen_of
from flink_jobs.last_n.user_reducer import ProfileChange, UserReducer
from flink_jobs.last_n.user_state import decode_state
from nearline.events import Event
from nearline.hashing import hash64
from nearline.seen import FOREVER_S, SeenSnapshot, decode_seen, encode_seen, parse_seen_policy
from nearline.sequences import UserSequence, decode_sequence, encode_sequence
from nearline.user_commands import Command, Erase, Merge, Remove
from tests.support.properties import examples

DAY_MS = 24 * 3600 * 1000
POLICY = parse_seen_policy("")
Record = Event | Command | ProfileChange


@dataclass
class Topics:
    """What the job writes of users: the records of each, oldest first."""

    sequences: dict[str, list[bytes]] = field(default_factory=dict)
    snapshots: dict[str, list[bytes]] = field(default_factory=dict)
    gains: dict[str, float] = field(default_factory=dict)

    def take(self, user: str, outcome: Outcome) -> None:
        if outcome.sequence is not None:
            self.sequences.setdefault(user, []).append(outcome.sequence)
        if outcome.snapshot is not None:
            self.snapshots.setdefault(user, []).append(outcome.snapshot)
        if outcome.item:
            self.gains[outcome.item] = self.gains.get(outcome.item, 0.0) + outcome.gain

    def copy(self) -> "Topics":
        """The same records: what a job finds that comes later."""
        return Topics({u: [*r] for u, r in self.sequences.items()}, {u: [*r] for u, r in self.snapshots.items()})

    def users(self) -> set[str]:
        return self.sequences.keys() | self.snapshots.keys()

    def sequence(self, user: str = "u") -> UserSequence:
        """The newest sequence, which is the last one written."""
        versions = [decode_sequence(raw).version for raw in self.sequences[user]]
        assert versions == sorted(set(versions))
        return decode_sequence(self.sequences[user][-1])

    def content(self, user: str = "u") -> bytes:
        if user not in self.sequences:
            return b"none"
        return encode_sequence(replace(self.sequence(user), version=1, profile_ms=1))

    def seen(self, user: str = "u") -> set[int]:
        newest = [decode_seen(raw) for raw in self.snapshots.get(user, [])[-1:]]
        window = self.sequence(user).items if user in self.sequences else []
        return {int(each) for snapshot in newest for each in snapshot.hashes} | {hash64(item) for item in window}


def loaded(value: bytes | None) -> Callable[[], bytes | None]:
    return lambda: value


class Job:
    """The reducer with its users' states as bytes, as the operator keeps them; restored users are joined at *end*."""

    def __init__(self, topics: Topics, keep: int = 4, policy: str = "") -> None:
        self.topics, self.policy = topics, parse_seen_policy(policy)
        self.reducer = UserReducer(keep, 7 * DAY_MS, 400 * DAY_MS, self.policy)
        self.states: dict[str, bytes] = {}
        self.seen: dict[str, bytes] = {}
        self.kept: dict[str, bytes] = {}
        self.forwarded: list[Record] = []

    def restore(self) -> None:
        """Read the newest records of both topics, snapshots first: the order makes no difference."""
        for user, records in self.topics.snapshots.items():
            for raw in records[-2:]:
                self._keep(user, read_snapshot(self.states.get(user), raw, self.policy))
        for user, records in self.topics.sequences.items():
            for raw in records[-2:]:
                self._keep(user, read_sequence(self.states.get(user), raw))

    def _keep(self, user: str, read: object) -> None:
        if read is not None:
            self.states[user] = read.state  # type: ignore[attr-defined]
            self.kept[user] = read.sequence or self.kept.get(user, b"")  # type: ignore[attr-defined]
            self.seen[user] = read.seen or self.seen.get(user, b"")  # type: ignore[attr-defined]

    def append(self, *records: tuple[int, Record]) -> None:
        for append_ms, record in records:
            user, state = record.user_id, self.states.get(record.user_id)
            seen = self.seen.get(user) or None
            if state is not None and state[:1] == RESTORED:
                restored = decode_restored(state)
                if append_ms > restored.newest and not isinstance(record, ProfileChange):
                    self._join(user, state)
                    state, seen = self.states.get(user), self.seen.get(user) or None
            if state is not None and state[:1] == RESTORED:
                replayed, kept = decode_state(restored.replayed), self.kept.get(user)
                outcome = replay(
                    self.reducer,
                    restored,
                    replayed,
                    record,
                    loaded(seen),
                    loaded(kept),
                    append_ms=append_ms,
                )
            else:
                outcome = self.reducer.apply(decode_state(state), record, loaded(seen), append_ms=append_ms)
            self._store(user, outcome)
            self.forwarded += outcome.forwarded

    def join(self) -> None:
        """The end of what was in ``clicks`` at the start."""
        for user, state in list(self.states.items()):
            if state[:1] == RESTORED:
                self._join(user, state)

    def _join(self, user: str, state: bytes) -> None:
        restored = decode_restored(state)
        replayed = decode_state(restored.replayed)
        kept, seen = self.kept.pop(user, None), self.seen.get(user) or None
        outcome = join(user, restored, kept or None, replayed, seen, keep=self.reducer.keep, policy=self.policy)
        assert outcome.user == decode_state(outcome.state)
        self._store(user, outcome)

    def _store(self, user: str, outcome: Outcome) -> None:
        if outcome.state is not None:
            self.states[user] = outcome.state
        if outcome.seen == CLEAR_SEEN:
            self.seen.pop(user, None)
        elif outcome.seen is not None:
            self.seen[user] = outcome.seen
        self.topics.take(user, outcome)


def event(number: int, *, time_ms: int | None = None, kind: str = "click") -> Event:
    return Event(f"e{number:03d}", "u", f"i{number}", kind, number + 1 if time_ms is None else time_ms)


def timed(*records: Record, from_ms: int = 1000) -> list[tuple[int, Record]]:
    return [(from_ms + n, record) for n, record in enumerate(records)]


def after_a_loss(
    before: Sequence[tuple[int, Record]],
    replayed: Sequence[tuple[int, Record]],
    after: Sequence[tuple[int, Record]] = (),
    *,
    keep: int = 4,
) -> tuple[Topics, Topics]:
    """The topics of a job that reads *before* and is lost, and those after the next one, which has *replayed*."""
    lost = Job(Topics(), keep)
    lost.append(*before)
    job = Job(lost.topics.copy(), keep)
    job.restore()
    job.append(*replayed)
    job.join()
    job.append(*after)
    return lost.topics, job.topics


# --- stories ----------------------------------------------------------------------------------------------------------


def test_a_history_that_clicks_no_longer_has_is_not_cut_to_what_it_has() -> None:
    """120 events of which the log still holds the last 60: all 120 items stay seen, the window stays as it is."""
    told = timed(*[event(n) for n in range(120)])
    before, after = after_a_loss(told, told[60:], keep=50)
    assert after.seen() == before.seen() == {hash64(f"i{n}") for n in range(120)}
    assert after.sequences == before.sequences, "nothing new is published, so nothing older replaces it"


def test_a_quiet_users_next_click_is_added_to_the_whole_window() -> None:
    told = timed(*[event(n) for n in range(10)])
    _, after = after_a_loss(told, [], [(9000, event(77, time_ms=9000))])
    assert after.sequence().items == ["i7", "i8", "i9", "i77"]
    assert after.sequence().version == 9000
    assert after.seen() == {hash64(f"i{n}") for n in [*range(10), 77]}


def test_a_click_that_the_lost_job_had_not_read_counts_at_the_end_of_the_replay() -> None:
    told = timed(*[event(n) for n in range(10)])
    before, after = after_a_loss(told[:8], told)
    assert after.sequence().items == ["i6", "i7", "i8", "i9"]
    assert after.sequence().version > before.sequence().version
    assert after.seen() == {hash64(f"i{n}") for n in range(10)}


def test_clicks_of_one_millisecond_of_which_some_were_read_all_count() -> None:
    """Versions run ahead of the log's clock then, and do not say which records they include."""
    told = [(1000, event(n)) for n in range(10)]
    _, after = after_a_loss(told[:3], told)
    assert after.sequence().items == ["i6", "i7", "i8", "i9"]


def test_popularity_counts_each_replayed_event_once() -> None:
    told = timed(*[event(n) for n in range(10)])
    before, after = after_a_loss(told, [*told, *told])
    assert after.gains == before.gains


def test_an_erased_user_stays_erased_though_the_erasure_left_the_log() -> None:
    told = timed(event(1), event(2), Erase("c", "u", 0))
    before, after = after_a_loss(told, [], [(5000, event(3, time_ms=900)), (5001, event(4, time_ms=5000))])
    assert before.sequence().erased
    assert after.sequence().items == ["i4"]


def test_what_was_erased_or_removed_is_at_no_time_published_again() -> None:
    told = timed(event(1), event(2), Remove("r", "u", "e002", 0), event(3), Erase("c", "u", 0), event(4, time_ms=2000))
    before, after = after_a_loss(told, told)
    assert after.sequences == before.sequences
    assert after.seen() == before.seen() == {hash64("i4")}


def test_the_removal_of_an_event_of_the_replay_takes_its_item_from_the_restored_seen_items() -> None:
    told = timed(*[event(n) for n in range(10)])
    _, after = after_a_loss(told, told, [(9000, Remove("r", "u", "e003", 0))])
    assert after.seen() == {hash64(f"i{n}") for n in range(10) if n != 3}


def test_a_profile_of_a_user_without_events_is_restored() -> None:
    told: list[tuple[int, Record]] = [(1000, ProfileChange("u", {"country": "GB"}, 0, 7))]
    before, after = after_a_loss(told, told, [(9000, event(1, time_ms=9000))])
    assert before.sequence().profile == after.sequence().profile == {"country": "GB"}
    assert after.sequence().items == ["i1"]


def test_a_damaged_or_older_record_replaces_nothing() -> None:
    newer = encode_sequence(UserSequence("u", 9, ["i"], [1], ["click"], [1.0], ["e"]))
    older = encode_sequence(UserSequence("u", 8, ["o"], [1], ["click"], [1.0], ["e"]))
    read = read_sequence(None, newer)
    assert read is not None
    assert read_sequence(read.state, older) is None
    assert decode_restored(read.state) == Restored(9)


def test_a_state_that_waits_is_read_back_as_it_was() -> None:
    waiting = Restored(12, 34, True, b'2{"a":1}\n[1,2,0]')
    assert decode_restored(encode_restored(waiting)) == waiting


def test_snapshots_come_back_as_they_were_under_any_policy() -> None:
    day_s = 24 * 3600
    for text in ("", "view=30d, skip=never", "purchase=400d", "purchase=never, click=2d"):
        policy = parse_seen_policy(text)
        ends = {FOREVER_S} if text in ("", "purchase=400d") else {FOREVER_S, 1_800_000_000, 1_700_000_000 + 2 * day_s}
        until_s = np.array([*ends, *ends], np.uint32)
        bought = np.array([False] * len(ends) + [bool(policy.seconds["purchase"])] * len(ends))
        hashes = np.arange(1, len(until_s) + 1, dtype=np.uint64)
        if policy.seconds["purchase"] == FOREVER_S:
            until_s[bought] = FOREVER_S
        snapshot = SeenSnapshot(5, hashes, until_s, bought)
        assert encode_seen(snapshot_of(seen_of(snapshot, policy), policy, 5)) == encode_seen(snapshot), text


# --- for every story --------------------------------------------------------------------------------------------------

# Of those that may be older than the log no command speaks: what it left would be gone with them.
clicked = st.builds(
    lambda number, time_ms, item, kind, user: Event(f"e{number}", user, item, kind, time_ms),
    st.integers(0, 7),
    st.integers(1, 20),
    st.sampled_from("ijklmn"),
    st.sampled_from(["click", "view", "purchase"]),
    st.sampled_from(["u", "u", "u", "s"]),
)
told_of = st.one_of(
    st.builds(lambda number: Remove(f"r{number}", "u", f"e{number}", 0), st.integers(8, 15)),
    st.builds(lambda number: Erase(f"x{number}", "u", 0), st.integers(0, 2)),
    st.just(Merge("m", "s", "u", 0)),
    st.builds(
        lambda country: ProfileChange("u", {"country": country} if country else {}, 0, 0),
        st.sampled_from(["", "GB", "FR"]),
    ),
)
held_only = st.builds(lambda e, number: replace(e, event_id=f"e{number}"), clicked, st.integers(8, 15))
fresh = st.builds(lambda e, at: replace(e, time_ms=at), held_only, st.integers(1000, 1040))


def appended(data: st.DataObject, records: Sequence[Record], from_ms: int) -> list[tuple[int, Record]]:
    """Append times as the log gives them: they never go back, and several records may share one."""
    at, told = from_ms, []
    for offset, record in enumerate(records):
        at += data.draw(st.integers(0, 2))
        if isinstance(record, ProfileChange):
            record = replace(record, offset=offset)
        if isinstance(record, Event):
            record = replace(record, time_ms=min(record.time_ms, at))
        told.append((at, record))
    return told


def settled(job: Job, at_ms: int) -> None:
    """Take what was forwarded, by way of the log."""
    while job.forwarded:
        job.append((at_ms, job.forwarded.pop(0)))


@examples(400)
@given(
    st.data(),
    st.lists(clicked, max_size=12),
    st.lists(st.one_of(clicked, held_only, fresh, told_of), min_size=1, max_size=20),
    st.lists(st.one_of(fresh, told_of), max_size=6),
    st.integers(1, 6),
)
def test_a_restored_job_ends_as_one_that_was_never_lost(
    data: st.DataObject, gone: list[Record], held: list[Record], later: list[Record], keep: int
) -> None:
    """*gone* left the log, *held* is replayed, and the lost job had read only a part of it; *later* comes afterwards.

    The topics hold the same content in the end, versions only grow, and before the join nothing is published.
    """
    first = appended(data, gone, 1000)
    second = appended(data, held, 1030)
    third = appended(data, later, 1100)
    read = data.draw(st.integers(0, len(second)))
    whole, lost = Job(Topics(), keep), Job(Topics(), keep)
    whole.append(*first, *second)
    lost.append(*first, *second[:read])
    covered = second[: data.draw(st.integers(0, read))]
    job = Job(lost.topics.copy(), keep)
    job.restore()
    job.append(*covered)
    restored = lost.topics.users()
    assert {u: r for u, r in job.topics.sequences.items() if u in restored} == lost.topics.sequences
    job = Job(lost.topics.copy(), keep)
    job.restore()
    profiles = [each for each in second if isinstance(each[1], ProfileChange)]
    clicks = [each for each in second if not isinstance(each[1], ProfileChange)]
    job.append(*(profiles + clicks if data.draw(st.booleans()) else second))
    job.join()
    job.forwarded[:0] = lost.forwarded  # it wrote them before it was lost
    for one in (whole, job):
        settled(one, 1090)
        one.append(*third)
        settled(one, 1200)
    for user in "us":
        assert job.topics.content(user) == whole.topics.content(user)
        # Which of several events that met one item a removal takes depends on when they left the window.
        if not any(isinstance(record, Remove) for record in (*held, *later)):
            assert job.topics.seen(user) == whole.topics.seen(user)


@given(st.lists(st.one_of(clicked, fresh), min_size=1, max_size=30), st.integers(1, 6))
def test_joining_without_anything_new_publishes_no_sequence(records: list[Record], keep: int) -> None:
    told = timed(*records)
    for replayed in (told, told[len(told) // 2 :], []):
        before, after = after_a_loss(told, replayed, keep=keep)
        assert after.sequences == before.sequences
        assert {user: after.seen(user) for user in after.users()} == {
            user: before.seen(user) for user in before.users()
        }


def test_seen_items_of_a_restored_user_are_those_of_the_snapshot() -> None:
    told = timed(*[event(n) for n in range(10)])
    lost = Job(Topics())
    lost.append(*told)
    job = Job(lost.topics.copy())
    job.restore()
    kept = snapshot_of(decode_seen_items(job.seen["u"]), POLICY, 0)
    assert set(kept.hashes.tolist()) == set(decode_seen(lost.topics.snapshots["u"][-1]).hashes.tolist())
