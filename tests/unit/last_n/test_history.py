"""The history of a user: examples first, then properties."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flink_jobs.last_n.history import append, blanked, blanked_in, holds, left_out, published
from nearline.events import EVENT_TYPES, Event
from nearline.sequences import UserSequence, decode_sequence, erased_sequence
from nearline.sequences import encode_sequence as encode
from nearline.signals import CONTEXT_KEYS, Context
from nearline.topics import MAX_SEQUENCE_BYTES

Columns = tuple[list[str], list[int], list[str], list[float], list[str], list[Context | None]]
PHONE, DESK = {"device": "phone"}, {"device": "desk"}


def event(
    event_id: str,
    time_ms: int,
    item: str = "i",
    *,
    kind: str = "click",
    value: float = 1.0,
    context: Mapping[str, Any] | None = None,
) -> Event:
    return Event(event_id, "u", item, kind, time_ms, value, context or {})


def appended(history: UserSequence | None, record: Event, *, keep: int, append_ms: int) -> UserSequence:
    return append(history, record, keep=keep, append_ms=append_ms, known=holds(history, record.event_id))


def run(events: list[Event], keep: int = 3) -> UserSequence:
    """The history after the events, in the order given."""
    history: UserSequence | None = None
    for at, each in enumerate(events):
        history = appended(history, each, keep=keep, append_ms=1000 + at)
    assert history is not None
    return history


def columns(history: UserSequence) -> Columns:
    return history.items, history.times_ms, history.types, history.values, history.event_ids, history.contexts


# --- stories ----------------------------------------------------------------------------------------------------------


def test_the_first_event_makes_a_history() -> None:
    assert run([event("a", 10, "shoe", kind="purchase", value=2.5)]) == UserSequence(
        "u", 1000, ["shoe"], [10], ["purchase"], [2.5], ["a"]
    )


def test_a_late_event_takes_its_place_in_time() -> None:
    """a(10) c(30) then b(20) arrives."""
    assert run([event("a", 10), event("c", 30), event("b", 20)]).event_ids == ["a", "b", "c"]


def test_events_of_one_moment_stand_in_the_order_of_their_ids() -> None:
    assert run([event("c", 10), event("a", 10), event("b", 10)]).event_ids == ["a", "b", "c"]


def test_the_oldest_falls_out_when_the_history_is_full() -> None:
    """keep 3: a(10) b(20) c(30) | d(40) pushes a out."""
    assert run([event("a", 10), event("b", 20), event("c", 30), event("d", 40)]).event_ids == ["b", "c", "d"]


def test_an_event_older_than_everything_kept_changes_nothing() -> None:
    full = run([event("b", 20), event("c", 30), event("d", 40)])
    assert appended(full, event("a", 10), keep=3, append_ms=9000) is full


def test_a_repeated_event_changes_nothing() -> None:
    once = run([event("a", 10)])
    assert appended(once, event("a", 10), keep=3, append_ms=9000) is once


def test_the_later_version_of_an_event_wins_in_either_order() -> None:
    early, late = event("a", 10, "shoe"), event("a", 20, "boot")
    assert run([early, late]).items == run([late, early]).items == ["boot"]


def test_of_two_versions_with_equal_times_the_greater_wins() -> None:
    """Even where the values are equal as numbers: they are written differently."""
    plus, minus = event("a", 10, value=0.0), event("a", 10, value=-0.0)
    assert encode(replace(run([plus, minus]), version=1)) == encode(replace(run([minus, plus]), version=1))


def test_a_later_version_of_an_event_moves_it_without_evicting_another() -> None:
    """keep 3: a(10) b(20) c(30), then a again at 40."""
    assert run([event("a", 10), event("b", 20), event("c", 30), event("a", 40)]).event_ids == ["b", "c", "a"]


def test_the_version_is_the_append_time_but_always_grows() -> None:
    first = appended(None, event("a", 10), keep=3, append_ms=500)
    same_moment = appended(first, event("b", 11), keep=3, append_ms=500)
    clock_went_back = appended(same_moment, event("c", 12), keep=3, append_ms=400)
    assert [h.version for h in (first, same_moment, clock_went_back)] == [500, 501, 502]
    assert appended(clock_went_back, event("d", 13), keep=3, append_ms=700).version == 700


def test_a_shorter_setting_trims_at_the_next_event() -> None:
    long = run([event("a", 10), event("b", 20), event("c", 30)])
    assert appended(long, event("d", 40), keep=2, append_ms=9000).event_ids == ["c", "d"]


def test_a_history_knows_what_it_holds() -> None:
    assert holds(run([event("a", 10)]), "a")
    assert not holds(run([event("a", 10)]), "b")
    assert not holds(None, "a")


# --- contexts ---------------------------------------------------------------------------------------------------------


def test_a_context_stands_beside_its_event() -> None:
    """a(10) c(30, phone) then b(20) arrives."""
    history = run([event("a", 10), event("c", 30, context=PHONE), event("b", 20)])
    assert history.contexts == [None, None, PHONE]


def test_only_what_the_towers_may_read_of_a_context_is_kept() -> None:
    strange = {"device": "phone", "page": "/home", "country": 7}
    assert run([event("a", 10, context=strange)]).contexts == [PHONE]
    assert run([event("a", 10, context={"page": "/home"})]).contexts == []


def test_histories_without_a_context_are_written_as_before_there_were_any() -> None:
    assert b"contexts" not in encode(run([event("a", 10), event("b", 20, context={"page": "/home"})]))


def test_a_context_leaves_with_its_event() -> None:
    """keep 3: a(10, phone) b(20) c(30) | d(40) pushes a out, and with it the column."""
    history = run([event("a", 10, context=PHONE), event("b", 20), event("c", 30), event("d", 40)])
    assert (history.event_ids, history.contexts) == (["b", "c", "d"], [])


def test_a_later_version_of_an_event_replaces_its_context() -> None:
    assert run([event("a", 10, context=PHONE), event("a", 20, context=DESK)]).contexts == [DESK]
    assert run([event("a", 10, context=PHONE), event("a", 20)]).contexts == []


def test_of_two_versions_with_equal_times_the_one_with_a_context_wins() -> None:
    bare, said = event("a", 10), event("a", 10, context=PHONE)
    assert run([bare, said]).contexts == run([said, bare]).contexts == [PHONE]


def test_a_version_that_differs_only_in_ignored_fields_changes_nothing() -> None:
    once = run([event("a", 10, context=PHONE)])
    assert appended(once, event("a", 10, context=PHONE | {"page": "/home"}), keep=3, append_ms=9000) is once


def test_the_longest_history_with_the_longest_contexts_fits_into_its_topic() -> None:
    long = {key: "\0" * 99 for key in CONTEXT_KEYS} | {"interests": [f"{n}" + "\0" * 99 for n in range(9)]}
    history: UserSequence | None = None
    for number in range(500):
        quotes = f"{number:04}" + '"' * 124
        each = Event(quotes, '"' * 128, quotes, "add_to_cart", 1_732_100_000_000 + number, -1.2345678901234567e11, long)
        history = appended(history, each, keep=500, append_ms=1_732_100_000_000)
    assert history is not None
    assert 1_500_000 < len(encode(history)) < MAX_SEQUENCE_BYTES


# --- removed events ---------------------------------------------------------------------------------------------------


def test_a_removed_event_leaves_a_blank_that_no_reader_sees() -> None:
    history = blanked_in(run([event("a", 10, context=PHONE), event("b", 20), event("c", 30)]), "a", 9000)
    assert history.event_ids == ["a", "b", "c"]
    assert published(history) == replace(run([event("b", 20), event("c", 30)]), version=9000)


def test_an_event_that_is_not_there_cannot_be_removed_nor_one_be_removed_twice() -> None:
    history = run([event("a", 10), event("b", 20)])
    assert blanked_in(history, "z", 9000) is history
    once = blanked_in(history, "a", 9000)
    assert blanked_in(once, "a", 9001) is once


def test_a_removed_event_is_not_accepted_again() -> None:
    history = blanked_in(run([event("a", 10), event("b", 20)]), "a", 9000)
    assert appended(history, event("a", 10), keep=3, append_ms=9001) is history
    assert appended(history, event("a", 99, "boot"), keep=3, append_ms=9001) is history


def test_when_all_events_are_removed_nothing_is_left() -> None:
    assert published(blanked_in(run([event("a", 10)]), "a", 9000)) == erased_sequence("u", 9000)


def test_a_profile_outlives_the_events_and_moves_along_with_them() -> None:
    told = replace(run([event("a", 10)]), profile={"country": "GB"}, profile_ms=5)
    assert appended(told, event("b", 20), keep=3, append_ms=9000).profile == {"country": "GB"}
    left = published(blanked_in(told, "a", 9000))
    assert (left.items, left.erased, left.as_of_ms, left.newest_event_id) == ([], False, 5, "")
    assert decode_sequence(encode(left)) == left


# --- what a window leaves out -----------------------------------------------------------------------------------------


def left(records: list[Event], last: Event) -> list[tuple[str, str, int, str]]:
    before = run(records)
    return left_out(before, appended(before, last, keep=3, append_ms=9000), last, known=holds(before, last.event_id))


def test_events_pushed_out_of_the_window_are_returned() -> None:
    """keep 3: a b c | d pushes a out; an event older than all never gets in."""
    three = [event("a", 10, "shoe"), event("b", 20), event("c", 30)]
    assert left(three, event("d", 40)) == [("shoe", "click", 10, "a")]
    assert left(three, event("z", 5, "hat")) == [("hat", "click", 5, "z")]
    assert left(three[:2], event("d", 40)) == []


def test_both_versions_of_an_event_are_reported_but_exact_repeats_are_not() -> None:
    told = event("a", 10, "shoe")
    assert left([told], event("a", 20, "boot")) == [("shoe", "click", 10, "a")]
    assert left([event("a", 20, "boot")], told) == [("shoe", "click", 10, "a")]
    assert left([told, event("b", 20), event("c", 30)], event("a", 40, "boot")) == [("shoe", "click", 10, "a")]
    assert left([told], told) == []


def test_a_removed_event_is_not_reported_as_evicted() -> None:
    three = blanked_in(run([event("a", 10, "shoe"), event("b", 20), event("c", 30)]), "a", 50)
    last = event("d", 40)
    assert left_out(three, appended(three, last, keep=3, append_ms=60), last, known=False) == []
    last = blanked(event("0", 1))
    assert left_out(three, appended(three, last, keep=3, append_ms=60), last, known=False) == []


# --- for every story --------------------------------------------------------------------------------------------------

events = st.builds(
    event,
    st.sampled_from("abcdefgh"),
    st.integers(0, 12),
    st.sampled_from(["i", "j"]),
    kind=st.sampled_from(EVENT_TYPES[:3]),
    value=st.sampled_from([0.0, -0.0, 1.0]),
    context=st.sampled_from(
        [None, None, PHONE, DESK, {"page": "/home"}, {"country": "GB", "interests": ["tea", "tea"]}]
    ),
)
keeps = st.integers(1, 6)


def told_best(records: list[Event]) -> list[Event]:
    """Each event once, in its greatest telling, in the total order: the definition, computed the slow way."""
    single = {each.event_id: run([each], keep=1) for each in records}
    best = {e.event_id: e for e in records}
    for each in records:
        kept = appended(single[each.event_id], each, keep=1, append_ms=0)
        if kept is not single[each.event_id]:
            single[each.event_id], best[each.event_id] = kept, each
    return sorted(best.values(), key=lambda e: (e.time_ms, e.event_id))


@given(st.lists(events, min_size=1, max_size=25), keeps)
def test_a_history_is_the_newest_of_the_best_told_events(records: list[Event], keep: int) -> None:
    assert run(records, keep).event_ids == [e.event_id for e in told_best(records)[-keep:]]


@given(st.data(), st.lists(events, min_size=1, max_size=12), keeps)
def test_any_order_and_repetition_gives_the_same_bytes(data: st.DataObject, records: list[Event], keep: int) -> None:
    repeats = data.draw(st.lists(st.sampled_from(records), max_size=8))
    shuffled = data.draw(st.permutations(records + repeats))
    assert encode(replace(run(shuffled, keep), version=1)) == encode(replace(run(records, keep), version=1))


@given(st.lists(events, min_size=1, max_size=12), st.integers(0, 11), keeps)
def test_a_replay_from_any_offset_ends_where_it_was(records: list[Event], offset: int, keep: int) -> None:
    assert columns(run(records + records[offset:], keep)) == columns(run(records, keep))


@given(st.lists(st.tuples(events, st.integers(0, 50)), min_size=1, max_size=20), keeps)
def test_versions_only_grow_and_only_with_a_change(arrivals: list[tuple[Event, int]], keep: int) -> None:
    history = None
    for each, append_ms in arrivals:
        after = appended(history, each, keep=keep, append_ms=append_ms)
        if history is not None and after is not history:
            assert after.version > history.version
            assert repr(columns(after)) != repr(columns(history))
        history = after


@given(st.lists(events, min_size=1, max_size=25), keeps)
def test_a_history_is_ordered_without_repeats_and_short_enough(records: list[Event], keep: int) -> None:
    history = run(records, keep)
    order = list(zip(history.times_ms, history.event_ids, strict=True))
    assert all(a < b for a, b in itertools.pairwise(order))
    assert len(set(history.event_ids)) == len(order) <= keep
    assert {len(column) for column in columns(history) if column} == {len(order)}
    assert any(history.contexts) == bool(history.contexts)


@given(st.lists(events, min_size=1, max_size=12), keeps)
def test_a_step_leaves_the_history_before_it_as_it_was(records: list[Event], keep: int) -> None:
    before = run(records, keep)
    written = encode(before)
    appended(before, event("z", 6), keep=keep, append_ms=1)
    assert encode(before) == written
