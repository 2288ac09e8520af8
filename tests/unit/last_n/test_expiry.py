"""When the job looks at idle users: not too early, at most two days late, spread over the day."""

from hypothesis import given
from hypothesis import strategies as st

from flink_jobs.last_n.expiry import idle_since_ms, looked_at_ms
from flink_jobs.last_n.user_state import Marks, User
from nearline.erasure import IDLE_LOOK_MS
from nearline.sequences import UserSequence

DAY_MS = 24 * 3600 * 1000
TTL_MS = 400 * DAY_MS


@given(st.text(min_size=1, max_size=8), st.integers(10**12, 2 * 10**12))
def test_a_user_is_looked_at_after_the_time_to_live_and_at_most_two_days_later(user: str, since_ms: int) -> None:
    late_ms = looked_at_ms(user, since_ms, TTL_MS) - (since_ms + TTL_MS)
    assert 0 < late_ms <= IDLE_LOOK_MS


@given(st.text(min_size=1, max_size=8), st.integers(0, 10**9), st.integers(0, DAY_MS - 1), st.integers(0, DAY_MS - 1))
def test_looks_of_one_user_and_day_are_one_timer(user: str, day: int, one_ms: int, other_ms: int) -> None:
    assert looked_at_ms(user, day * DAY_MS + one_ms, TTL_MS) == looked_at_ms(user, day * DAY_MS + other_ms, TTL_MS)


def test_looks_of_one_day_are_spread_over_it() -> None:
    times = {looked_at_ms(f"u-{number}", 0, TTL_MS) // (DAY_MS // 24) for number in range(1000)}
    assert len(times) == 24


def test_a_time_to_live_of_seconds_has_looks_within_seconds() -> None:
    assert 4000 < looked_at_ms("u", 0, 4000) <= 12_000


def test_a_user_is_idle_since_the_last_change_or_the_last_record_about_the_profile() -> None:
    window = UserSequence("u", 500, ["i"], [1], ["click"], [1.0], ["e"])
    assert idle_since_ms(User(window)) == 500
    assert idle_since_ms(User(window, marks=Marks(told=(700, 3)))) == 700
