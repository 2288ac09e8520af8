"""Exploration of new items: by lot, the same for the same request, with the propensity that it says."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.merchandising.exploration import explore, opened_places

ANSWER = [f"i{nth}" for nth in range(10)]
POOL = [f"new{nth}" for nth in range(4)]


def test_the_same_request_gets_the_same_answer() -> None:
    def one(request_id: str) -> list[str]:
        opened = opened_places(request_id, 10, 0.5)
        return explore(ANSWER, opened, POOL, share=0.5, request_id=request_id).item_ids

    assert one("r-1") == one("r-1")
    assert len({tuple(one(f"r-{nth}")) for nth in range(20)}) > 10


def test_without_a_share_nothing_is_drawn() -> None:
    assert all(opened_places(f"r-{nth}", 50, 0.0) == [] for nth in range(100))
    assert opened_places("r", 5, 1.0) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("share", "pool"), [(0.2, 4), (0.5, 25), (1.0, 10), (0.1, 1)])
def test_an_item_comes_to_a_place_as_often_as_its_propensity_says(share: float, pool: int) -> None:
    new = [f"new{nth}" for nth in range(pool)]
    came: Counter[tuple[int, str]] = Counter()
    rounds = 6_000
    said: dict[tuple[int, str], float] = {}
    for nth in range(rounds):
        found = explore(ANSWER, opened_places(f"r-{nth}", 10, share), new, share=share, request_id=f"r-{nth}")
        for at, (item_id, propensity) in enumerate(zip(found.item_ids, found.propensities, strict=True)):
            came[at, item_id] += 1
            assert said.setdefault((at, item_id), propensity) == propensity
    for (at, item_id), propensity in said.items():
        deviation = (propensity * (1 - propensity) / rounds) ** 0.5
        assert abs(came[at, item_id] / rounds - propensity) <= 5 * deviation, (at, item_id)
    assert sum(said[0, name] for name in [ANSWER[0], *new] if (0, name) in said) == pytest.approx(1.0)


@given(size=st.integers(0, 12), pool=st.integers(0, 12), share=st.floats(0, 1), request_id=st.text(max_size=8))
def test_an_explored_answer_is_as_long_and_holds_each_item_once(
    size: int, pool: int, share: float, request_id: str
) -> None:
    answer, new = ANSWER[:size] + [f"j{nth}" for nth in range(size - 10)], [f"new{nth}" for nth in range(pool)]
    found = explore(answer, opened_places(request_id, size, share), new, share=share, request_id=request_id)
    assert len(found.item_ids) == len(answer) == len(set(found.item_ids)) == len(found.propensities)
    assert found.drawn == set(found.item_ids) & set(new)
    assert all(found.item_ids[at] in (item_id, *new) for at, item_id in enumerate(answer))
