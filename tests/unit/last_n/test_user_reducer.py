"""The state of a user after events, commands and profiles: examples first, then properties."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import permutations
from random import Random

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flink_jobs.last_n.history import Met, met_in
from flink_jobs.last_n.outcome import CLEAR_SEEN, Outcome
from flink_jobs.last_n.popularity import gain
from flink_jobs.last_n.seen_items import decode_adopted, decode_seen_items, fold, snapshot_of
from flink_jobs.last_n.user_reducer import ProfileChange, UserReducer
from flink_jobs.last_n.user_state import MOST_REMOVED, User, decode_state, encode_state, sequence_of
from nearline.errors import BadInput, Misconfigured
from nearline.events import MAX_EVENT_BYTES, Event
from nearline.hashing import hash64
from nearline.seen import SeenSnapshot, decode_seen, parse_seen_policy
from nearline.sequences import UserSequence, decode_sequence, encode_sequence, erased_sequence
from nearline.user_commands import Adopt, Command, Erase, Merge, Remove, encode_entry

DAY_MS = 24 * 3600 * 1000
POLICY = parse_seen_policy("")
Record = Event | Command | ProfileChange


@dataclass
class Job:
    """The reducer with its users' states as bytes, as the operator keeps them, and the topics that it writes."""

    keep: int = 4
    policy: str = ""
    clock_ms: int = 1000
    prompt: bool = True  # whether what is forwarded comes back at once, or only with ``settle``
    underway: list[Record] = field(default_factory=list)
    states: dict[str, bytes] = field(default_factory=dict)
    seen: dict[str, bytes] = field(default_factory=dict)
    sequences: dict[str, list[UserSequence]] = field(default_factory=dict)
    snapshots: dict[str, list[SeenSnapshot]] = field(default_factory=dict)
    late: int = 0
    too_old: int = 0

    def append(self, *records: Record, append_ms: int | None = None) -> list[Outcome]:
        """Take the records one after the other, each with what comes of it by way of the log."""
        outcomes = []
        for record in records:
            self.clock_ms = append_ms or self.clock_ms + 1
            outcome = self._take(record, self.clock_ms)
            outcomes.append(outcome)
            self.underway += outcome.forwarded
            if self.prompt:
                self.settle(append_ms=append_ms)
        return outcomes

    def settle(self, append_ms: int | None = None) -> None:
        """Take what was forwarded and has not come back yet."""
        while self.underway:
            self.append(self.underway.pop(0), append_ms=append_ms)

    def _take(self, record: Record, append_ms: int) -> Outcome:
        user = record.user_id
        reducer = UserReducer(self.keep, 7 * DAY_MS, 400 * DAY_MS, parse_seen_policy(self.policy))
        outcome = reducer.apply(
            decode_state(self.states.get(user)), record, lambda: self.seen.get(user), append_ms=append_ms
        )
        assert outcome.user == decode_state(outcome.state), "what the operator remembers is what it would read"
        if outcome.state is not None:
            self.states[user] = outcome.state
        if outcome.seen == CLEAR_SEEN:
            self.seen.pop(user, None)
        elif outcome.seen is not None:
            self.seen[user] = outcome.seen
        if outcome.sequence is not None:
            self.sequences.setdefault(user, []).append(decode_sequence(outcome.sequence))
        if outcome.snapshot is not None:
            self.snapshots.setdefault(user, []).append(decode_seen(outcome.snapshot))
        self.late += outcome.late
        self.too_old += outcome.too_old
        return outcome

    def user(self, user: str = "u") -> User:
        found = decode_state(self.states.get(user))
        assert found is not None
        return found

    def window(self, user: str = "u") -> UserSequence:
        """What readers of the sequence would get now."""
        if user not in self.states:
            return erased_sequence(user, 0)
        return decode_sequence(sequence_of(self.user(user)))

    def items(self, user: str = "u") -> list[str]:
        return self.window(user).items

    def read_seen(self, user: str = "u") -> set[int]:
        """What readers of the newest snapshot and the newest sequence take for seen."""
        newest = self.snapshots.get(user, [])[-1:]
        window = self.sequences[user][-1].items if user in self.sequences else []
        return {int(each) for snapshot in newest for each in snapshot.hashes} | {hash64(item) for item in window}

    def all_seen(self, user: str = "u") -> list[tuple[list[int], list[int], list[bool]]]:
        """The seen set as a fold of everything: what any order must agree on."""
        known = fold(decode_seen_items(self.seen.get(user)), met_in(self.window(user)), POLICY)
        told = snapshot_of(known, POLICY, 0)
        return [(told.hashes.tolist(), told.until_s.tolist(), told.bought.tolist())]


def event(
    number: int, item: str | None = None, *, user: str = "u", time_ms: int | None = None, kind: str = "click"
) -> Event:
    return Event(f"e{number}", user, item or f"i{number}", kind, number + 1 if time_ms is None else time_ms)


def hashes(*items: str) -> set[int]:
    return {hash64(item) for item in items}


ERASE = Erase("c-erase", "u", 0)


# --- erase ------------------------------------------------------------------------------------------------------------


def test_an_erased_user_is_gone_from_the_sequence_and_the_seen_items() -> None:
    job = Job()
    job.append(*[event(n) for n in range(10)], ERASE)
    assert job.sequences["u"][-1] == erased_sequence("u", job.clock_ms)
    assert (job.seen, job.read_seen()) == ({}, set())
    assert job.snapshots["u"][-1].version == job.clock_ms


def test_late_events_of_an_erased_user_are_dropped() -> None:
    job = Job()
    old = [event(n) for n in range(10)]
    job.append(*old, ERASE)
    (*outcomes,) = job.append(*old, event(77, time_ms=job.clock_ms))
    assert all(outcome == Outcome(late=True) for outcome in outcomes)
    assert job.late == 11


def test_an_erasure_also_removes_events_with_times_after_it() -> None:
    """Told before the command, with a time after it: erased, and its late duplicate is not taken for news."""
    job = Job()
    ahead = event(1, time_ms=5000)
    job.append(ahead, ERASE, ahead, append_ms=2000)
    assert job.items() == []
    job.append(event(2, time_ms=5001), append_ms=2001)
    assert job.items() == ["i2"]


def test_an_erased_user_who_comes_back_begins_anew_with_a_newer_version() -> None:
    job = Job()
    job.append(event(1), ERASE, event(2, time_ms=5000), append_ms=3000)
    assert job.items() == ["i2"]
    versions = [sequence.version for sequence in job.sequences["u"]]
    assert versions == sorted(set(versions))


def test_a_repeated_erasure_removes_nothing_newer() -> None:
    job = Job()
    job.append(event(1), ERASE, event(2, time_ms=5000), ERASE, append_ms=3000)
    assert job.items() == ["i2"]


def test_even_an_unknown_user_is_erased_for_good() -> None:
    """The store may hold a document that the job's state outlived not."""
    job = Job()
    job.append(ERASE, append_ms=3000)
    assert job.sequences["u"] == [erased_sequence("u", 3000)]
    assert job.append(event(1, time_ms=2999), append_ms=3001)[0].late


def test_an_erased_user_keeps_no_profile() -> None:
    job = Job()
    job.append(*[event(n, "secret") for n in range(3)], ProfileChange("u", {"country": "GB"}, 0, 0), ERASE)
    assert b"secret" not in job.states["u"]
    assert b"GB" not in job.states["u"]


# --- remove -----------------------------------------------------------------------------------------------------------


def test_a_removed_event_is_gone_and_its_late_duplicate_stays_out() -> None:
    job = Job()
    job.append(event(1), event(2), event(3), Remove("c", "u", "e2", 0))
    assert (job.items(), job.window().version) == (["i1", "i3"], job.clock_ms)
    job.append(event(2))
    assert job.items() == ["i1", "i3"]
    assert len(job.sequences["u"]) == 4


def test_an_event_that_was_removed_before_it_came_never_counts() -> None:
    job = Job()
    outcome, *_, last = job.append(Remove("c", "u", "e2", 0), event(1), event(2))
    assert outcome.sequence is None
    assert (last.sequence, last.item, job.items()) == (None, None, ["i1"])


def test_a_removed_event_leaves_the_seen_items_unless_another_event_met_its_item() -> None:
    job = Job(keep=4)
    job.append(event(1, "x"), event(2, "y"), event(3, "x"), event(4), Remove("c", "u", "e2", 0))
    assert job.read_seen() == hashes("x", "i4")
    job.append(Remove("c", "u", "e3", 0))
    assert job.read_seen() == hashes("x", "i4")


def test_an_event_beyond_the_window_can_be_removed_from_the_seen_items() -> None:
    job = Job(keep=4)
    job.append(*[event(n) for n in range(12)])
    assert hash64("i0") in job.read_seen()
    before = job.window().version
    job.append(Remove("c", "u", "e0", 0))
    assert hash64("i0") not in job.read_seen()
    assert hash64("i1") in job.read_seen()
    assert job.snapshots["u"][-1].version > before
    job.append(event(0))
    assert hash64("i0") not in job.read_seen()


def test_a_user_whose_only_event_is_removed_is_gone_until_the_next() -> None:
    job = Job()
    job.append(event(1), Remove("c", "u", "e1", 0))
    assert job.sequences["u"][-1].erased
    job.append(event(2))
    assert job.items() == ["i2"]


def test_the_last_hundred_removed_events_are_remembered() -> None:
    job = Job()
    job.append(*[Remove(f"c{n}", "u", f"gone{n}", 0) for n in range(MOST_REMOVED + 5)])
    assert len(job.user().marks.removed) == MOST_REMOVED
    assert hash64("gone104") in job.user().marks.removed


# --- merge ------------------------------------------------------------------------------------------------------------


def session(number: int, *, time_ms: int | None = None, kind: str = "click") -> Event:
    made = event(number, f"s{number}", user="s", time_ms=time_ms, kind=kind)
    return made if kind == "click" else replace(made, event_id=f"e{number}-{kind}")


MERGE = Merge("c-merge", "s", "u", 0)


def test_a_sessions_events_become_the_users_and_the_session_is_erased() -> None:
    job = Job()
    job.append(event(1), session(2), session(3), MERGE)
    assert job.items() == ["i1", "s2", "s3"]
    assert job.sequences["s"][-1].erased


def test_a_late_event_of_a_merged_session_is_forwarded_to_the_user() -> None:
    job = Job()
    job.append(session(2), MERGE)
    (outcome,) = job.append(session(1))
    assert outcome.forwarded == (replace(session(1), user_id="u", merged_from=("s",)),)
    assert job.items() == ["s1", "s2"]


def test_events_after_a_merge_start_a_new_session() -> None:
    job = Job()
    job.append(session(1), MERGE, append_ms=3000)
    job.append(session(2, time_ms=3001), append_ms=3002)
    assert (job.items("s"), job.items("u")) == (["s2"], ["s1"])


def test_a_repeated_merge_changes_nothing() -> None:
    job = Job()
    job.append(session(1), MERGE, session(2, time_ms=3001), MERGE, append_ms=3000)
    assert (job.items("s"), job.items("u")) == (["s2"], ["s1"])


def test_a_later_login_of_somebody_else_gets_nothing_of_the_earlier_one() -> None:
    job = Job()
    job.append(session(1), MERGE, append_ms=3000)
    job.append(session(2, time_ms=4000), Merge("c-other", "s", "w", 0), append_ms=5000)
    assert job.append(session(3, time_ms=2000))[0].forwarded == ()
    assert (job.items("u"), job.items("w")) == (["s1"], ["s2"])
    job.append(session(4, time_ms=4500))
    assert job.items("w") == ["s2", "s4"]


def test_a_merge_moves_profile_and_events_but_not_removed_events_or_popularity() -> None:
    job = Job(clock_ms=1_800_000_000_000)
    told = replace(
        session(2, time_ms=1_799_999_999_999), value=2.5, type="purchase", context={"device": "phone", "page": "/"}
    )
    outcomes = job.append(session(1), told, Remove("c", "s", "e1", 0), MERGE)
    passed, *adopted = outcomes[-1].forwarded
    assert isinstance(passed, Event)
    assert [type(each) for each in adopted] == [Adopt]
    assert passed == replace(told, user_id="u", context={"device": "phone"}, merged_from=("s",))
    assert gain(told, half_life_ms=7 * DAY_MS) > gain(passed, half_life_ms=7 * DAY_MS) == 0.0


def test_an_erased_user_gets_nothing_of_a_session_from_before() -> None:
    job = Job()
    job.append(session(1), ERASE, MERGE, append_ms=3000)
    assert job.window("u").erased


def test_a_merge_also_hands_over_seen_items_older_than_the_window() -> None:
    job = Job(keep=4)
    job.append(event(50), *[session(n) for n in range(12)])
    *_, merge = job.append(Remove("c", "s", "e1", 0), MERGE)
    assert [type(each) for each in merge.forwarded] == [Event] * 4 + [Adopt]
    assert job.read_seen() == hashes("i50", *(f"s{n}" for n in range(12) if n != 1))
    job.append(Remove("c-too", "u", "e2", 0), *merge.forwarded)
    assert job.read_seen() == hashes("i50", *(f"s{n}" for n in range(12) if n not in (1, 2)))


@pytest.mark.parametrize("command", [ERASE, Merge("c-on", "u", "w", 0)])
def test_an_erased_user_adopts_nothing_of_before_and_a_merged_one_passes_it_on(command: Erase | Merge) -> None:
    job = Job(keep=4, prompt=False)
    job.append(*[session(n) for n in range(12)], MERGE, command)
    job.settle()
    assert job.window("u").erased
    assert job.read_seen("u") == set()
    assert job.read_seen("w") == (set() if command is ERASE else hashes(*(f"s{n}" for n in range(12))))


def test_many_adopted_items_go_in_records_that_the_log_takes() -> None:
    job = Job(keep=4)
    job.append(*[session(n, kind=kind) for n in range(1, 1990) for kind in ("view", "click")])
    (merge,) = job.append(MERGE)
    assert len(merge.forwarded) == 4 + 3
    assert max(len(encode_entry(each)) for each in merge.forwarded) < MAX_EVENT_BYTES
    assert len(job.read_seen()) == 1989


@pytest.mark.parametrize("told", [b"", b"1", b"2\0\0\0\0", b"1\1\0\0\0", b"1\1\0\0\0" + b"\xff" * 25])
def test_undecodable_adopted_items_are_refused(told: bytes) -> None:
    with pytest.raises(BadInput):
        decode_adopted(told)


def test_sessions_merged_into_each_other_do_not_send_events_round_for_ever() -> None:
    job = Job()
    job.append(session(1), MERGE, Merge("c-back", "u", "s", 0), append_ms=3000)
    job.append(session(2), event(3, time_ms=4), append_ms=3001)
    assert job.late > 0


# --- profile ----------------------------------------------------------------------------------------------------------


def test_a_profile_alone_makes_a_sequence_without_events() -> None:
    job = Job()
    job.append(ProfileChange("u", {"country": "GB"}, 0, 0), append_ms=2000)
    (only,) = job.sequences["u"]
    assert (only.items, only.profile, only.as_of_ms, only.version) == ([], {"country": "GB"}, 2000, 2000)


def test_a_profile_goes_with_the_events_and_leaves_with_its_tombstone() -> None:
    job = Job()
    job.append(event(1), ProfileChange("u", {"country": "GB"}, 0, 0))
    assert (job.items(), job.window().profile) == (["i1"], {"country": "GB"})
    job.append(ProfileChange("u", {}, 0, 1))
    assert job.window() == replace(job.sequences["u"][0], version=job.clock_ms)


def test_without_events_a_profiles_tombstone_leaves_nothing() -> None:
    job = Job()
    job.append(ProfileChange("u", {"country": "GB"}, 0, 0), ProfileChange("u", {}, 0, 1))
    assert job.sequences["u"][-1].erased


def test_a_repeated_profile_is_not_published_again() -> None:
    job = Job()
    job.append(
        event(1),
        ProfileChange("u", {"country": "GB"}, 0, 0),
        ProfileChange("u", {"country": "GB"}, 0, 1),
        ProfileChange("u", {}, 0, 2),
        ProfileChange("u", {}, 0, 3),
    )
    assert len(job.sequences["u"]) == 3


def test_an_empty_profile_of_an_unknown_user_publishes_nothing() -> None:
    job = Job()
    assert job.append(ProfileChange("u", {}, 0, 0))[0].sequence is None


def test_an_older_record_never_replaces_a_newer_profile() -> None:
    job = Job()
    job.append(ProfileChange("u", {"country": "GB"}, 0, 7), append_ms=2000)
    job.append(ProfileChange("u", {"country": "FR"}, 0, 6), append_ms=2000)
    assert job.window().profile == {"country": "GB"}


def test_an_erasure_takes_the_profile_of_before_and_leaves_the_one_of_after_whichever_is_read_first() -> None:
    """The two topics are read at different speeds."""
    for swapped in (False, True):
        before, after = Job(), Job()
        told_before, told_after = (
            (ProfileChange("u", {"country": "GB"}, 0, 0), 1900),
            (ProfileChange("u", {"country": "GB"}, 0, 0), 2100),
        )
        for job, told in ((before, told_before), (after, told_after)):
            records: list[tuple[Record, int]] = [(ERASE, 2000), told]
            for record, at in sorted(records, key=lambda each: each[1], reverse=swapped):
                job.append(record, append_ms=at)
        assert before.window().profile == {}
        assert after.window().profile == {"country": "GB"}


# --- partitions in any order ------------------------------------------------------------------------------------------


def test_an_event_from_before_an_erasure_stays_out_though_its_partition_is_read_later() -> None:
    """A client with another partitioner wrote it, with a clock that is ahead."""
    job = Job()
    job.append(ERASE, append_ms=2000)
    (outcome,) = job.append(event(1, time_ms=5000), append_ms=1500)
    assert outcome.late
    assert job.items() == []


def test_an_event_from_after_an_erasure_stays_though_its_partition_is_read_first() -> None:
    job = Job()
    job.append(*[event(n) for n in range(9)])
    job.append(event(11, time_ms=3000), append_ms=3001)
    job.append(ERASE, append_ms=2000)
    assert job.items() == ["i11"]
    assert job.read_seen() == hashes("i11")
    assert job.append(event(12, time_ms=2000), append_ms=3002)[0].late
    job.append(event(13, time_ms=3500), append_ms=3501)
    assert job.items() == ["i11", "i13"]


def test_a_merge_forwards_what_was_appended_before_it_and_leaves_the_rest_to_the_session() -> None:
    job = Job()
    job.append(event(1, user="s"), append_ms=1000)
    job.append(event(2, user="s", time_ms=3000), append_ms=3001)
    job.append(Merge("c", "s", "u", 0), append_ms=2000)
    assert (job.items("u"), job.items("s")) == (["i1"], ["i2"])


def test_an_older_erasure_that_is_read_last_takes_nothing_from_after_the_newer_one() -> None:
    job = Job()
    job.append(Erase("newer", "u", 0), append_ms=4000)
    job.append(event(1, time_ms=4500), append_ms=4501)
    job.append(Erase("older", "u", 0), append_ms=2000)
    assert job.items() == ["i1"]
    assert job.append(event(2, time_ms=3000), append_ms=4600)[0].late


def test_of_two_profiles_in_two_partitions_the_later_appended_one_counts_whichever_is_read_first() -> None:
    records: list[tuple[Record, int]] = [
        (ProfileChange("u", {"country": "GB"}, 5, 900), 1000),
        (ProfileChange("u", {"country": "FR"}, 2, 7), 1001),
        (ProfileChange("u", {"country": "DE"}, 3, 7), 1001),  # one millisecond: any order, but always the same
    ]
    for order in permutations(records):
        job = Job()
        for record, at in order:
            job.append(record, append_ms=at)
        assert job.window().profile == {"country": "DE"}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30), st.booleans()), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_a_user_is_the_same_in_whatever_order_the_partitions_are_read(
    records: list[tuple[int, int, bool]], random: Random
) -> None:
    """One record a tick of the log's clock, an event up to 30 ticks late; within a partition the log's order holds."""
    log: list[tuple[int, int, Record]] = []
    for n, (partition, delay, erases) in enumerate(records):
        at = 1000 + 10 * n
        log.append((partition, at, Erase(f"c{n}", "u", 0) if erases else event(n, time_ms=at - delay)))
    in_order, shuffled = Job(keep=50), Job(keep=50)
    for _, at, record in log:
        in_order.append(record, append_ms=at)
    queues = [[each for each in log if each[0] == partition] for partition in range(4)]
    while any(queues):
        _, at, record = random.choice([queue for queue in queues if queue]).pop(0)
        shuffled.append(record, append_ms=at)
    assert shuffled.items() == in_order.items()
    assert shuffled.read_seen() == in_order.read_seen()


# --- seen items -------------------------------------------------------------------------------------------------------


def test_snapshots_come_after_half_a_window_of_new_events() -> None:
    job = Job(keep=10)
    written = [outcome.snapshot is not None for outcome in job.append(*[event(n) for n in range(20)])]
    assert [at for at, snapshot in enumerate(written, start=1) if snapshot] == [5, 10, 15, 20]
    job.append(*[event(n) for n in range(20)])
    assert len(job.snapshots["u"]) == 4


def test_repeated_items_write_no_further_snapshot() -> None:
    job = Job(keep=10)
    job.append(*[event(n, f"i{n % 3}") for n in range(40)])
    assert len(job.snapshots["u"]) == 1


def test_an_event_too_old_for_the_window_is_seen_at_once_and_shown_to_nobody() -> None:
    job = Job(keep=4)
    job.append(*[event(n) for n in range(10, 20)])
    (outcome, again) = job.append(event(1), event(1))
    assert (outcome.sequence, again) == (None, Outcome(too_old=True))
    assert hash64("i1") in job.read_seen()
    assert job.snapshots["u"][-1].version > job.sequences["u"][-1].version


def test_a_snapshot_that_would_expire_is_written_again_though_it_says_the_same() -> None:
    job = Job(keep=10)
    job.append(*[event(n, "x") for n in range(5)], append_ms=1000)
    assert len(job.snapshots["u"]) == 1
    job.append(event(6, "x"), append_ms=1000 + 99 * DAY_MS)
    assert len(job.snapshots["u"]) == 1
    job.append(event(7, "x"), append_ms=1000 + 101 * DAY_MS)
    assert len(job.snapshots["u"]) == 2
    job.append(event(8, "x"), append_ms=1000 + 102 * DAY_MS)
    assert len(job.snapshots["u"]) == 2


def test_a_late_event_that_soon_falls_out_again_is_seen_although_no_snapshot_was_near() -> None:
    """keep 10, the window and its snapshot hold 110 to 200: 115 gets in, and the next event pushes it out."""
    job = Job(keep=10)
    job.append(*[event(n, time_ms=10 * n) for n in range(1, 21)])
    written = len(job.snapshots["u"])
    job.append(event(30, "late", time_ms=115), event(31, time_ms=310))
    assert "late" not in job.items()
    assert hash64("late") in job.read_seen()
    assert len(job.snapshots["u"]) == written + 1


def test_events_that_are_older_than_the_window_are_counted_also_those_whose_items_are_known() -> None:
    """keep 4, the window holds 60 to 90: a click of a clock that is behind is never used."""
    job = Job()
    job.append(*[event(n, time_ms=10 * n) for n in range(10)])
    assert job.too_old == 0
    job.append(event(20, "behind", time_ms=59), event(21, "behind", time_ms=58))
    assert job.items() == ["i6", "i7", "i8", "i9"]
    assert hash64("behind") in job.read_seen()
    # One that enters, and two of an event that the window holds: a repeated one, and one that says another time.
    job.append(event(22, time_ms=61), event(9, time_ms=90), event(9, time_ms=1))
    assert job.too_old == 2


def test_the_policy_decides_which_event_types_count_as_seen_and_for_how_long() -> None:
    job = Job(keep=2, policy="skip=never, view=30d")
    job.append(event(1, "skipped", kind="skip"), event(2, "viewed", kind="view"))
    job.append(event(3, "bought", kind="purchase"), event(4, "both", kind="purchase"), event(5, "both", kind="view"))
    job.append(*[event(n, kind="skip") for n in range(6, 9)])
    snapshot = job.snapshots["u"][-1]
    found = {
        int(h): (int(u), bool(b)) for h, u, b in zip(snapshot.hashes, snapshot.until_s, snapshot.bought, strict=True)
    }
    assert found == {
        hash64("viewed"): (30 * 24 * 3600, False),
        hash64("bought"): (0xFFFFFFFF, True),
        hash64("both"): (0xFFFFFFFF, True),
    }


# --- what is stored ---------------------------------------------------------------------------------------------------

# Written down, not computed: these bytes lie in checkpoints of the first release.
FIRST_RELEASE = (
    b'1{"v":1,"user_id":"u","version":1732100000003,"items":["i-1","i-2"],"times_ms":[1732099999999,1732100000000],'
    b'"types":["click","purchase"],"values":[1.0,9.5],"event_ids":["e-0","e-1"],'
    b'"contexts":[null,{"country":"GB","device":"phone"}]}'
)


def test_the_state_of_the_first_release_still_loads_and_goes_on() -> None:
    job = Job(states={"u": FIRST_RELEASE})
    kept = job.user()
    assert encode_sequence(kept.window) == FIRST_RELEASE[1:]
    assert (kept.fresh, kept.fresh_from_ms, kept.snapshot_ms) == (2, 1732099999999, 0)
    job.append(event(3, time_ms=1732100000001))
    assert job.items() == ["i-1", "i-2", "i3"]
    assert job.read_seen() == hashes("i-1", "i-2", "i3")


def test_a_window_full_of_the_first_releases_events_is_seen_with_the_next() -> None:
    names = [f"i{n}" for n in range(10)]
    full = UserSequence("u", 1, names, list(range(1, 11)), ["click"] * 10, [1.0] * 10, [f"e{n}" for n in range(10)])
    job = Job(keep=10, states={"u": b"1" + encode_sequence(full)})
    job.append(event(10))
    assert job.read_seen() == hashes(*names, "i10")


def test_a_plain_users_state_is_its_sequence_and_three_numbers() -> None:
    job = Job()
    (outcome,) = job.append(event(1))
    assert outcome.sequence is not None
    assert job.states["u"] == b"2" + outcome.sequence + b"\n[1,2,0]"


def test_a_user_with_marks_is_read_back_as_he_was() -> None:
    job = Job()
    job.append(
        event(1), event(2), Remove("c", "u", "e1", 0), ProfileChange("u", {"interests": ["tea"]}, 0, 3), event(5)
    )
    user = job.user()
    assert decode_state(encode_state(user, sequence_of(user))) == user
    assert user.window.event_ids == ["e1", "e2", "e5"]


def test_state_without_the_profiles_partition_is_read() -> None:
    """Earlier releases stored the append time and the offset; a replay of that record changes nothing for readers."""
    job = Job()
    job.states["u"] = b'2{"v":1,"user_id":"u","version":5,"erased":true}\n[0,0,0,{"told":[1000,7]}]'
    assert job.user().marks.told == (1000, -1, 7)
    job.append(ProfileChange("u", {"country": "GB"}, 3, 6), append_ms=999)
    assert job.window().profile == {}
    job.append(ProfileChange("u", {"country": "GB"}, 3, 8), append_ms=1000)
    assert job.window().profile == {"country": "GB"}


def test_state_of_a_later_release_is_refused() -> None:
    with pytest.raises(Misconfigured, match="newer release"):
        decode_state(b"3{}")
    with pytest.raises(Misconfigured, match="newer release"):
        decode_seen_items(b"2\0\0\0\0")


def test_damaged_state_is_refused() -> None:
    with pytest.raises(BadInput):
        decode_state(b'1{"v":1}')


# --- for every story --------------------------------------------------------------------------------------------------

# Times lie before every append time (``Job.clock_ms`` begins at 1,000); clocks that run ahead have their own story.
events = st.builds(
    lambda number, time_ms, item, kind, user: Event(f"e{number}", user, item, kind, time_ms),
    st.integers(0, 11),
    st.integers(1, 20),
    st.sampled_from("ijklmn"),
    st.sampled_from(["click", "view", "purchase"]),
    st.sampled_from(["u", "u", "u", "s"]),
)
removes = st.builds(lambda number: Remove(f"r{number}", "u", f"e{number}", 0), st.integers(0, 11))
keeps = st.integers(1, 6)


def run(records: Sequence[Record], keep: int, *, prompt: bool = True) -> Job:
    job = Job(keep, prompt=prompt)
    job.append(*records)
    job.settle()
    return job


def bytes_of(job: Job, user: str) -> bytes:
    return encode_sequence(replace(job.window(user), version=1))


@given(st.data(), st.lists(st.one_of(events, events, removes), min_size=1, max_size=25), keeps)
def test_any_order_and_repetition_of_events_and_removals_gives_the_same_sequence(
    data: st.DataObject, records: list[Record], keep: int
) -> None:
    repeats = data.draw(st.lists(st.sampled_from(records), max_size=8))
    shuffled = data.draw(st.permutations(records + repeats))
    one, other = run(records, keep), run(shuffled, keep)
    assert [bytes_of(one, user) for user in "us"] == [bytes_of(other, user) for user in "us"]


@given(st.data(), st.lists(events, min_size=1, max_size=25), keeps)
def test_any_order_and_repetition_of_events_gives_the_same_seen_items(
    data: st.DataObject, records: list[Record], keep: int
) -> None:
    repeats = data.draw(st.lists(st.sampled_from(records), max_size=8))
    shuffled = data.draw(st.permutations(records + repeats))
    one, other = run(records, keep), run(shuffled, keep)
    for user in "us":
        assert one.all_seen(user) == other.all_seen(user)
        assert one.read_seen(user) == other.read_seen(user)


@given(st.lists(events, min_size=1, max_size=30), keeps)
def test_newest_snapshot_plus_newest_sequence_hold_every_seen_item(records: list[Event], keep: int) -> None:
    job, met = Job(keep), dict[str, set[int]]()
    for record in records:
        job.append(record)
        met.setdefault(record.user_id, set()).add(hash64(record.item_id))
        assert {user: job.read_seen(user) for user in met} == met


@given(st.data(), st.lists(st.one_of(events, removes), min_size=1, max_size=20), keeps)
def test_a_merge_gives_the_user_the_same_sequence_wherever_it_stands(
    data: st.DataObject, records: list[Record], keep: int
) -> None:
    """And however late what it forwarded comes back."""
    one, other = (run(with_merge(data, records), keep, prompt=data.draw(st.booleans())) for _ in range(2))
    assert bytes_of(one, "u") == bytes_of(other, "u")
    assert one.window("s").erased
    assert other.window("s").erased
    if not any(isinstance(record, Remove) for record in records):
        assert one.all_seen("u") == other.all_seen("u")
        assert one.read_seen("u") == other.read_seen("u")


def with_merge(data: st.DataObject, records: list[Record]) -> list[Record]:
    at = data.draw(st.integers(0, len(records)))
    return [*records[:at], MERGE, *records[at:]]


@given(
    st.data(),
    st.lists(st.one_of(events, removes), max_size=20),
    st.lists(st.one_of(events, removes), max_size=10),
    keeps,
)
def test_an_erased_user_is_never_resurrected(
    data: st.DataObject, before: list[Record], after: list[Record], keep: int
) -> None:
    """Whatever came before the erasure, however often it comes again, and what else is told of that time."""
    job = run([*before, ERASE], keep)
    repeats = data.draw(st.lists(st.sampled_from(before), max_size=10)) if before else []
    others = [each for each in [*repeats, *after] if each.user_id == "u"]
    job.append(*data.draw(st.permutations(others)))
    assert job.sequences["u"][-1].erased
    assert job.read_seen() == set()
    assert "u" not in job.seen


@given(
    st.data(),
    st.lists(st.one_of(events, removes, st.just(MERGE), st.just(ERASE)), min_size=1, max_size=25),
    keeps,
)
def test_versions_only_grow_and_a_replay_of_the_log_changes_nothing(
    data: st.DataObject, records: list[Record], keep: int
) -> None:
    job = run(records, keep)
    for published in job.sequences.values():
        versions = [sequence.version for sequence in published]
        assert versions == sorted(set(versions))
    told = {user: bytes_of(job, user) for user in "us"}
    counts = {user: len(published) for user, published in job.sequences.items()}
    commands = [record for record in records if not isinstance(record, Event)]
    job.append(*(commands if data.draw(st.booleans()) else records[data.draw(st.integers(0, len(records))) :]))
    assert {user: bytes_of(job, user) for user in "us"} == told
    assert {user: len(published) for user, published in job.sequences.items()} == counts


@given(st.lists(st.one_of(events, removes, st.just(MERGE)), min_size=1, max_size=20), keeps)
def test_the_same_log_gives_the_same_bytes(records: list[Record], keep: int) -> None:
    one, other = run(records, keep), run(records, keep)
    assert (one.states, one.seen) == (other.states, other.seen)


def test_items_beyond_the_limit_are_dropped_in_any_order() -> None:
    times = {"i0": 0, "i2": 0, "i3": 0, "i4": 0, "i5": 0}
    told = [("i1", "purchase", 1, "e1"), *((item, "view", at, f"e{item}") for item, at in times.items())]
    late = ("i1", "view", 0, "e5")
    at_once = fold(decode_seen_items(None), [*told, late], POLICY, most=5)
    after = fold(fold(decode_seen_items(None), told, POLICY, most=5), [late], POLICY, most=5)
    assert len(at_once) == len(after) == 5


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60), st.sampled_from(["view", "purchase"])), max_size=60),
    st.data(),
)
def test_the_newest_items_are_kept_whatever_the_order_and_wherever_it_is_cut(
    met: list[tuple[int, int, str]], data: st.DataObject
) -> None:
    told = [(f"i{item}", kind, time_ms, f"e{at}") for at, (item, time_ms, kind) in enumerate(met)]
    shuffled = data.draw(st.permutations(told))
    cut = data.draw(st.integers(0, len(told)))
    limited = partial(fold, policy=POLICY, most=5, most_bought=3)
    at_once = limited(decode_seen_items(None), told)
    bit_by_bit = limited(limited(decode_seen_items(None), shuffled[:cut]), shuffled[cut:])
    for name in ("items", "kinds", "times_ms", "events"):
        np.testing.assert_array_equal(getattr(at_once, name), getattr(bit_by_bit, name))

    def newest_of(told: list[Met], most: int) -> list[str]:
        newest = {item: max(t for i, _, t, _ in told if i == item) for item, *_ in told}
        return sorted(newest, key=lambda item: (newest[item], hash64(item)))[-most:]

    expected = newest_of(told, 5) + newest_of([each for each in told if each[1] == "purchase"], 3)
    assert {int(each) for each in at_once.items} == {hash64(item) for item in expected}


def test_state_bytes_are_json_that_any_tool_reads() -> None:
    job = Job()
    job.append(event(1), Remove("c", "u", "e9", 0))
    sequence, rest = job.states["u"][1:].split(b"\n")
    assert orjson.loads(sequence)["items"] == ["i1"]
    assert orjson.loads(rest)[3]["removed"] == [hash64("e9")]
