"""The job remembers users whose records came last, for as long as their state is certain to be there."""

from flink_jobs.last_n.recent_users import RecentUsers
from flink_jobs.last_n.user_state import User
from nearline.sequences import UserSequence


def user(name: str, version: int = 1) -> User:
    return User(UserSequence(name, version, ["shoe"], [10], ["click"], [1.0], [f"e{version}"]), 1, 10)


def test_a_user_who_comes_again_is_not_read_again() -> None:
    recent = RecentUsers(ttl_ms=1_000)
    recent.keep(user("u", 1), 100)
    recent.keep(user("u", 2), 100)
    assert recent.get("u") == user("u", 2)
    assert recent.get("v") is None


def test_a_user_whose_state_was_written_in_another_way_is_read_again() -> None:
    recent = RecentUsers(ttl_ms=1_000)
    recent.keep(user("u"), 100)
    recent.forget("u")
    recent.forget("never came")
    assert recent.get("u") is None


def test_a_user_is_read_again_before_the_state_can_have_expired() -> None:
    now = [0.0]
    recent = RecentUsers(ttl_ms=10_000, now_s=lambda: now[0])
    recent.keep(user("u"), 100)
    now[0] = 4.9
    assert recent.get("u") == user("u")
    now[0] = 5.0
    assert recent.get("u") is None


def test_those_whose_records_came_longest_ago_are_forgotten_first() -> None:
    recent = RecentUsers(ttl_ms=1_000, most_bytes=200)
    for name in ("a", "b", "a", "c"):
        recent.keep(user(name), 100)
    assert [name for name in ("a", "b", "c") if recent.get(name) is not None] == ["a", "c"]
    assert len(recent) == 2


def test_a_user_who_is_larger_than_all_that_is_kept_is_read_each_time() -> None:
    recent = RecentUsers(ttl_ms=1_000, most_bytes=10)
    recent.keep(user("u"), 100)
    assert len(recent) == 0
    recent.keep(user("v"), 10)
    assert recent.get("v") == user("v")
