"""Two embedding spaces in one process: each answer is of one of them alone, whichever parts it takes."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import numpy as np
import orjson
import pytest

from nearline.adapters.memory import MemoryStore
from nearline.adapters.signed_tokens import SignedTokens
from nearline.hashing import hash64_all
from nearline.item_vectors import ItemFields, ItemVector
from nearline.space import Space
from nearline.user_documents import UserDocument, encode_user_document
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.pages import FIRST, PageTokens
from services.retrieval.recommender import Recommender
from services.retrieval.request import RecommendRequest
from services.retrieval.sessions import Sessions, session_of
from services.retrieval.spaces import SessionSwitch, SpaceSwitch
from services.retrieval.users.reader import UserReader
from services.retrieval.users.session_vectors import SessionVectors
from services.retrieval.users.store_guard import GuardedStore
from tests.support.fakes import ExactGraph, ScriptedTowers

T = TypeVar("T")
NOW_MS = 1_732_100_000_000
NONE = np.empty(0, np.uint64)
SEAL = SignedTokens(b"s" * 16, "page", lives_s=60)


class OneSpace:
    """The parts of space *number*: of its vectors, only axis *number* is not zero."""

    def __init__(self, number: int) -> None:
        self.space = Space(number, 8)
        self.store = MemoryStore(ttl_ms=10**15)
        self.guard = GuardedStore(self.store)
        self.catalogue = Catalogue(8, LiveIndex(8, lambda capacity: ExactGraph(8, capacity)))
        for nth in range(12):
            vector = self.vector(1.0 if nth % 2 == number % 2 else 0.5)
            shown = ItemFields(f"Item {nth}", "x", listed_ms=nth)
            self.catalogue.apply(ItemVector(f"i{nth}", 1, shown, vector, vector.astype(np.float16), "d"))
        users = UserReader(self.guard, self.space, now_ms=lambda: NOW_MS)
        pages = PageTokens(SEAL, self.space)
        self.recommender = Recommender(self.catalogue, users, self.space, pages=pages, now_ms=lambda: NOW_MS)
        self.tower = ScriptedTowers(8)
        self.vectors = SessionVectors(self.tower, self.catalogue)
        self.sessions = Sessions(self.recommender, self.vectors, now_ms=lambda: NOW_MS)

    def vector(self, length: float) -> Any:
        vector = np.zeros(8, np.float32)
        vector[self.space.number] = length
        return vector

    async def open(self, *users: str) -> None:
        await self.guard.probe()
        await self.vectors.probe()
        document = UserDocument(self.vector(1.0), 7, 9, "e-1", NOW_MS, NOW_MS, NONE, NONE, hash64_all(["e-1"]))
        await self.store.put_many_if_newer({user: encode_user_document(document, self.space) for user in users})


@pytest.fixture
def spaces() -> dict[int, OneSpace]:
    return {number: OneSpace(number) for number in (3, 4)}


def by_user(user_id: str, request: RecommendRequest) -> int:
    """Users whose id ends with 4 are answered in space 4, all others in space 3."""
    return 4 if user_id.endswith("4") else 3


def run(spaces: dict[int, OneSpace], story: Awaitable[T]) -> T:
    async def opened() -> T:
        for each in spaces.values():
            await each.open("u-3", "u-4")
        return await story

    return asyncio.run(opened())


def switch(spaces: dict[int, OneSpace], choose: Any = by_user) -> SpaceSwitch:
    recommenders = {number: each.recommender for number, each in spaces.items()}
    return SpaceSwitch(recommenders, choose, PageTokens(SEAL, spaces[3].space))


async def asked(answers: Any, who: Any, request: RecommendRequest, request_id: str = "r") -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(await answers.answer(who, request, request_id))
    return found


@pytest.mark.parametrize("number", [3, 4])
def test_an_answer_is_of_the_space_that_was_chosen_for_its_request(spaces: dict[int, OneSpace], number: int) -> None:
    answer = run(spaces, asked(switch(spaces), f"u-{number}", RecommendRequest(6)))
    assert (answer["space"], answer["reason"]) == (number, None)
    assert {int(item["item_id"][1:]) % 2 for item in answer["items"]} == {number % 2}
    assert {item["score"] for item in answer["items"]} == {1.0}, "vectors of two spaces have inner product 0 here"


def test_a_list_of_pages_stays_in_its_space_when_the_choice_changes(spaces: dict[int, OneSpace]) -> None:
    async def story() -> tuple[dict[str, Any], dict[str, Any]]:
        first = await asked(switch(spaces), "u-3", RecommendRequest(4, page=FIRST))
        moved = switch(spaces, lambda user_id, request: 4)
        return first, await asked(moved, "u-3", RecommendRequest(4, page=first["next_page"]))

    first, second = run(spaces, story())
    assert first["space"] == second["space"] == 3
    assert not {item["item_id"] for item in first["items"]} & {item["item_id"] for item in second["items"]}


def test_a_session_is_read_by_the_tower_of_its_own_space(spaces: dict[int, OneSpace]) -> None:
    sessions = SessionSwitch({number: each.sessions for number, each in spaces.items()}, by_user)
    events = [{"item_id": "i1", "type": "view", "time_ms": NOW_MS - 5}]

    async def story() -> list[dict[str, Any]]:
        session = session_of(events, {}, now_ms=sessions.now_ms())
        return [await asked(sessions, session, RecommendRequest(2), f"r-{number}") for number in (4, 3, 4)]

    assert [answer["space"] for answer in run(spaces, story())] == [4, 3, 4]
    assert [sum(spaces[number].tower.user_calls) for number in (3, 4)] == [1, 2]
