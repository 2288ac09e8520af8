"""The policy of what counts as seen, and its snapshots."""

import numpy as np
import pytest

from nearline.errors import Misconfigured
from nearline.events import EVENT_TYPES
from nearline.seen import FOREVER_S, SeenSnapshot, parse_seen_policy, until_s_of
from nearline.settings import load_settings

NOW_MS = 1_732_100_000_000
DAY_S = 24 * 3600


def test_by_default_every_event_type_counts_as_seen_for_ever() -> None:
    policy = parse_seen_policy("")
    assert {policy.until_s(kind, NOW_MS) for kind in [*EVENT_TYPES, "a type of tomorrow"]} == {FOREVER_S}


def test_each_type_has_its_own_time() -> None:
    policy = parse_seen_policy(" purchase = forever, view=30d ,skip=never,")
    assert policy.until_s("view", NOW_MS) == NOW_MS // 1000 + 30 * DAY_S
    assert until_s_of(policy, ["purchase", "skip"], [NOW_MS, NOW_MS]).tolist() == [FOREVER_S, 0]
    assert [policy.counts(kind) for kind in ("purchase", "view", "skip")] == [True, True, False]


def test_a_time_that_ends_never_reaches_for_ever() -> None:
    assert parse_seen_policy("view=36500d").until_s("view", 2**32 * 1000) == FOREVER_S - 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("purchse=forever", "did you mean purchase"),
        ("view", "forever, never or a number of days"),
        ("view=30", "such as 30d"),
        ("view=0d", "such as 30d"),
        ("view=-1d", "such as 30d"),
        ("view=²d", "such as 30d"),
        ("view=99999d", "such as 30d"),
    ],
)
def test_a_policy_that_is_not_understood_is_refused_with_its_part(text: str, said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        parse_seen_policy(text)


def test_the_setting_is_the_policy() -> None:
    assert load_settings({"NEARLINE_SEEN": "like=7d"}).seen_policy.until_s("like", 0) == 7 * DAY_S


def test_expired_items_no_longer_count_as_seen() -> None:
    hashes = np.array([1, 2, 3], np.uint64)
    snapshot = SeenSnapshot(1, hashes, np.array([FOREVER_S, 100, 200], np.uint32), np.zeros(3, bool))
    assert snapshot.in_force(99) is hashes
    assert snapshot.in_force(100).tolist() == [1, 3]
    assert snapshot.in_force(2_000_000_000).tolist() == [1]
