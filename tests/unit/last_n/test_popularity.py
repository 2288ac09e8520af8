"""What an event adds to its item's popularity."""

import math

import pytest

from flink_jobs.last_n.popularity import LANDMARK_MS, WEIGHTS, check_half_life, gain
from nearline.errors import Misconfigured
from nearline.events import EVENT_TYPES, Event

DAY_MS = 24 * 3600 * 1000


def event(kind: str = "click", *, at_ms: int = LANDMARK_MS, synthetic: bool = False) -> Event:
    return Event("e", "u", "i", kind, at_ms, synthetic=synthetic)


def test_an_event_a_half_life_later_counts_twice() -> None:
    early, late = event(at_ms=LANDMARK_MS), event(at_ms=LANDMARK_MS + 7 * DAY_MS)
    assert gain(late, half_life_ms=7 * DAY_MS) == 2 * gain(early, half_life_ms=7 * DAY_MS)


def test_every_type_has_a_weight_and_negative_ones_have_none() -> None:
    assert set(WEIGHTS) == set(EVENT_TYPES)
    assert gain(event("dislike"), half_life_ms=DAY_MS) == gain(event("skip"), half_life_ms=DAY_MS) == 0
    assert gain(event("purchase"), half_life_ms=DAY_MS) > gain(event("view"), half_life_ms=DAY_MS) > 0


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
