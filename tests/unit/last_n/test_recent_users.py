"""The job remembers users whose records came last, and never instead of what their state says."""

from flink_jobs.last_n.recent_users import RecentUsers
from flink_jobs.last_n.user_state import User, decode_state, encode_state, sequence_of
from nearline.sequences import UserSequence


def user(version: int) -> User:
    return User(UserSequence("u", version, ["shoe"], [10], ["click"], [1.0], [f"e{version}"]), 1, 10)


def state_of(one: User) -> bytes:
    return encode_state(one, sequence_of(one))


def test_a_user_who_comes_again_is_not_decoded_again() -> None:
    recent, known = RecentUsers(), user(1)
    recent.keep("u", state_of(known), known)
    assert recent.decoded("u", state_of(known)) is known


def test_what_the_state_says_counts_whatever_is_remembered() -> None:
    """A restore brings older bytes back, an expiry none, and either may be somebody else's."""
    recent, known = RecentUsers(), user(2)
    recent.keep("u", state_of(known), known)
    assert recent.decoded("u", state_of(user(1))) == user(1)
    assert recent.decoded("u", None) is None
    assert recent.decoded("v", state_of(known)) == known


def test_those_whose_records_came_longest_ago_are_forgotten_first() -> None:
    state = state_of(user(1))
    recent = RecentUsers(most_bytes=2 * len(state))
    for name in ("a", "b", "a", "c"):
        recent.keep(name, state, user(1))
    remembered = {name: recent.decoded(name, state) is recent.decoded(name, state) for name in ("a", "b", "c")}
    assert remembered == {"a": True, "b": False, "c": True}
    assert len(recent) == 2


def test_a_state_that_is_larger_than_all_that_is_kept_is_decoded_each_time() -> None:
    recent, known = RecentUsers(most_bytes=10), user(1)
    recent.keep("u", state_of(known), known)
    assert len(recent) == 0
    assert recent.decoded("u", state_of(known)) == decode_state(state_of(known))
