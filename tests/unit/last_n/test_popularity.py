"""What an event adds to its item's popularity."""

import math

import pytest

from flink_jobs.last_n.popularity import LANDMARK_MS, WEIGHTS, check_half_life, gain
from flink_jobs.last_n.user_reducer import UserReducer
from flink_jobs.last_n.user_state import decode_state
from nearline.errors import Misconfigured
from nearline.events import EVENT_TYPES, Event
from nearline.seen import parse_seen_policy
from nearline.settings import load_settings

HOUR_MS = 3600 * 1000
DAY_MS = 24 * HOUR_MS


def event(kind: str = "click", *, at_ms: int = LANDMARK_MS, synthetic: bool = False) -> Event:
    return Event("e", "u", "i", kind, at_ms, synthetic=synthetic)


def test_an_event_a_half_life_later_counts_twice() -> None:
    early, late = event(at_ms=LANDMARK_MS), event(at_ms=LANDMARK_MS + 7 * DAY_MS)
    assert gain(late, half_life_ms=7 * DAY_MS) == 2 * gain(early, half_life_ms=7 * DAY_MS)


def test_every_type_has_a_weight_and_negative_ones_have_none() -> None:
    assert set(WEIGHTS) == set(EVENT_TYPES)
    assert gain(event("dislike"), half_life_ms=DAY_MS) == gain(event("skip"), half_life_ms=DAY_MS) == 0
    assert gain(event("purchase"), half_life_ms=DAY_MS) > gain(event("view"), half_life_ms=DAY_MS) > 0


def gains(*told: tuple[str, str, float], once_hours: float = 24) -> list[float]:
    """What a user's events add at any time to the scores of their items: (type, item, hours after the landmark)."""
    reducer = UserReducer(50, 10**18, 400 * DAY_MS, parse_seen_policy(""), int(once_hours * HOUR_MS))
    state, found = None, []
    for nth, (kind, item_id, hours) in enumerate(told):
        at_ms = LANDMARK_MS + int(hours * HOUR_MS)
        one = Event(f"e{nth}", "u", item_id, kind, at_ms)
        outcome = reducer.apply(decode_state(state), one, lambda: None, append_ms=LANDMARK_MS + 1_000 * DAY_MS + nth)
        state = outcome.state or state
        found.append(round(outcome.gain, 9))
    return found


def test_a_user_and_item_count_once_in_a_window_as_the_strongest_event() -> None:
    assert gains(("view", "i", 0), ("view", "i", 1), ("view", "j", 1), ("view", "i", 23)) == [1, 0, 1, 0]
    assert gains(("view", "i", 0), ("purchase", "i", 1), ("click", "i", 2), ("purchase", "i", 3)) == [1, 4, 0, 0]
    assert gains(("dislike", "i", 0), ("view", "i", 1)) == [0, 1]
    assert gains(*[("click", "i", nth / 60) for nth in range(49)]) == [2, *[0] * 48]


def test_after_the_window_a_user_and_item_count_again_and_a_setting_says_how_long_it_is() -> None:
    assert gains(("view", "i", 0), ("view", "i", 24), ("view", "i", 47)) == [1, 1, 0]
    assert gains(("view", "i", 24), ("view", "i", 1)) == [1, 0], "whichever came first"
    assert gains(("view", "i", 0), ("view", "i", 1), once_hours=1) == [1, 1]
    assert gains(("view", "i", 0), ("view", "i", 0), once_hours=0) == [1, 1]
    assert load_settings({}).popularity_once_hours == 24


def test_synthetic_events_are_no_popularity() -> None:
    assert gain(event(synthetic=True), half_life_ms=DAY_MS) == 0


def test_no_time_leaves_the_range_of_a_double() -> None:
    """The year 2000 adds nothing that can be seen, a far future stops at the ceiling."""
    assert gain(event(at_ms=946_684_800_000), half_life_ms=DAY_MS) == 0.0
    assert math.isfinite(1e6 * gain(event(at_ms=LANDMARK_MS + 10_000 * DAY_MS), half_life_ms=DAY_MS))


def test_a_half_life_that_would_overflow_is_refused_with_the_shortest_possible() -> None:
    now_ms = LANDMARK_MS + 595 * DAY_MS
    assert check_half_life(7 * DAY_MS, now_ms=now_ms) == 7 * DAY_MS
    assert check_half_life(DAY_MS, now_ms=now_ms) == DAY_MS
    with pytest.raises(Misconfigured, match="at least 1 days"):
        check_half_life(DAY_MS // 2, now_ms=now_ms)
