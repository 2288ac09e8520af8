"""Users who were active last: bounded, exact, and never ahead of what the store says."""

import asyncio
from typing import Any

import numpy as np
import pytest

from nearline.adapters.memory import MemoryStore
from nearline.errors import Unavailable
from services.retrieval.users.active_users import ActiveUsers
from services.retrieval.users.store_guard import GuardedStore
from tests.support.read_world import SPACE, at, user


class Users:
    """The index over a store in memory."""

    def __init__(self, most: int = 3) -> None:
        self.store = MemoryStore(ttl_ms=10**15)
        self.guard = GuardedStore(self.store)
        self.index = ActiveUsers(self.guard, SPACE, most=most)
        asyncio.run(self.guard.probe())

    def put(self, **documents: bytes) -> None:
        asyncio.run(self.store.put_many_if_newer(documents))
        for user_id in documents:
            self.index.note(user_id)
        asyncio.run(self.index.read())

    def nearest(self, nth: float, k: int = 10, **named: Any) -> list[str]:
        return [user_id for user_id, _, _ in asyncio.run(self.index.nearest(at(nth), k, **named))]


def test_the_nearest_come_first_with_what_the_store_says() -> None:
    users = Users()
    users.put(a=user(10), b=user(20), c=user(30))
    ((user_id, score, document), *_) = asyncio.run(users.index.nearest(at(21), 1))
    assert (user_id, document.vector_version) == ("b", 7)
    assert score == pytest.approx(float(at(20) @ at(21)), abs=1e-6)
    assert users.nearest(0) == ["a", "b", "c"]
    assert users.nearest(0, 2, but="a") == ["b", "c"]
    assert users.nearest(0, but="nobody") == ["a", "b", "c"]


def test_no_users_are_near_when_none_are_active() -> None:
    assert Users().nearest(0) == []


def test_a_synthetic_user_is_near_nobody() -> None:
    users = Users()
    users.put(**{"canary:1": user(20), "a": user(10)})
    assert users.nearest(20) == ["a"]


def test_the_least_recently_active_user_is_evicted_first() -> None:
    users = Users(most=3)
    users.put(a=user(1))
    users.put(b=user(2))
    users.put(c=user(3))
    users.put(a=user(4, version=8))
    users.put(d=user(5))
    assert sorted(users.nearest(0)) == ["a", "c", "d"]
    assert len(users.index) == 3
    for nth in range(50):
        users.put(**{f"u{nth}": user(nth)})
    assert sorted(users.nearest(0)) == ["u47", "u48", "u49"]


def test_a_user_who_moves_is_found_where_he_is_now() -> None:
    users = Users()
    users.put(a=user(1), b=user(20))
    users.put(a=user(40, version=8))
    assert users.nearest(40) == ["a", "b"]
    asyncio.run(users.store.put_many_if_newer({"a": user(2, version=9)}))
    assert users.nearest(40) == ["b", "a"], "the store is newer than what was read"


def test_deleted_and_vectorless_users_are_not_returned() -> None:
    users = Users()
    users.put(a=user(1), b=user(2), c=user(3))
    asyncio.run(users.store.delete("a"))
    assert users.nearest(0) == ["b", "c"]
    users.put(b=user(2, erased=True, version=9))
    assert users.nearest(0) == ["c"]
    assert len(users.index) == 1


def test_while_the_store_is_down_no_active_users_are_returned_and_changes_wait() -> None:
    users = Users()
    users.put(a=user(1))
    users.store.down = True
    with pytest.raises(Unavailable):
        users.nearest(0)
    users.index.note("b")
    asyncio.run(users.index.read())
    users.store.down = False
    asyncio.run(users.guard.probe())
    asyncio.run(users.store.put_many_if_newer({"b": user(2)}))
    asyncio.run(users.index.read())
    assert users.nearest(0) == ["a", "b"]


def test_a_damaged_document_names_nobody() -> None:
    users = Users()
    users.put(a=user(1))
    users.store._values["a"] = (10**16, user(1)[:-1] + b"x")
    assert users.nearest(0) == []


def test_the_nearest_of_1500_users_are_exact() -> None:
    users = Users(most=2_000)
    random = np.random.default_rng(1)
    places = {f"u{nth}": float(place) for nth, place in enumerate(random.permutation(1_500) / 20)}
    for start in range(0, 1_500, 500):
        users.put(**{name: user(places[name]) for name in list(places)[start : start + 500]})
    expected = sorted(places, key=lambda name: abs(places[name] - 33.3))[:10]
    assert sorted(users.nearest(33.3)) == sorted(expected)
