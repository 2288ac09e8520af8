"""A retrieval service with its read routes: forty items of two categories on an arc, towers and a store in memory."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from starlette.types import ASGIApp

from nearline.adapters.http import status_routes
from nearline.adapters.memory import MemoryStore
from nearline.hashing import hash64_all
from nearline.item_vectors import ItemFields, ItemVector
from nearline.seen import parse_seen_policy
from nearline.space import Space
from nearline.user_documents import UserDocument, encode_user_document
from services.retrieval.api import create_app
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.items.text_index import TextIndex
from services.retrieval.recommender import Recommender
from services.retrieval.routes.reads import Reads
from services.retrieval.sessions import Sessions
from services.retrieval.users.active_users import ActiveUsers
from services.retrieval.users.reader import UserReader
from services.retrieval.users.session_vectors import SessionVectors
from services.retrieval.users.store_guard import GuardedStore
from tests.support.fakes import ExactGraph, ScriptedTowers

SPACE = Space(3, 4)
NOW_MS = 2_000_000_000_000
COLOURS = ("red", "blue", "green", "white")


def at(nth: float) -> NDArray[np.float32]:
    """Where item number *nth* lies; neighbours are near."""
    return np.array([np.cos(nth / 50), np.sin(nth / 50), 0, 0], np.float32)


def item(nth: int, version: int = 1, item_id: str | None = None, **shown: Any) -> ItemVector:
    """Item number *nth*: even ones are mugs, odd ones lamps."""
    about = {
        "title": f"{COLOURS[nth % 4].title()} thing number{nth}",
        "category": "lamps" if nth % 2 else "mugs",
        "price": float(nth),
        "listed_ms": 1_000 + nth,
        "brand": "Zauber & Söhne" if nth == 7 else "",
    }
    vector = at(nth)
    return ItemVector(
        item_id or f"i{nth}", version, ItemFields(**(about | shown)), vector, vector.astype(np.float16), "d"
    )


def user(
    nth: float, *, seen: tuple[str, ...] = (), has_vector: bool = True, version: int = 7, erased: bool = False
) -> bytes:
    """The document of a user at *nth*."""
    hashes = np.sort(hash64_all(list(seen)))
    nothing = np.empty(0, np.uint64)
    vector = at(nth) if has_vector and not erased else None
    versions = (0 if vector is None and not erased else version, version)
    document = UserDocument(vector, *versions, "e-42", NOW_MS - 850, NOW_MS, hashes, nothing, hashes)
    return encode_user_document(replace(document, seen_version=version, erased=erased), SPACE)


class World:
    """The service, and the loop that all of it lives on."""

    def __init__(self, *, searchable: bool = True, most_users: int = 100, seen: str = "") -> None:
        self.runner = asyncio.Runner()
        self.store = MemoryStore(ttl_ms=10**15)
        self.guard = GuardedStore(self.store)
        self.texts = TextIndex() if searchable else None
        self.catalogue = Catalogue(4, LiveIndex(4, lambda capacity: ExactGraph(4, capacity)), self.texts)
        for nth in range(40):
            self.catalogue.apply(item(nth))
        for nth, score in ((39, 3.0), (38, 2.0), (20, 1.0)):
            self.catalogue.trending.score(f"i{nth}", score)
        self.towers = ScriptedTowers(4)
        self.vectors = SessionVectors(self.towers, self.catalogue)
        self.users = ActiveUsers(self.guard, SPACE, most=most_users)
        recommender = Recommender(
            self.catalogue, UserReader(self.guard, SPACE, now_ms=lambda: NOW_MS), SPACE, now_ms=lambda: NOW_MS
        )
        self.sessions = Sessions(recommender, self.vectors, parse_seen_policy(seen), now_ms=lambda: NOW_MS)
        reads = Reads(SPACE, self.catalogue, self.guard, self.sessions, self.texts, self.users, self.catalogue)
        self.app = create_app(recommender, status_routes(dict), reads)
        self.run(self.guard.probe())
        self.run(self.vectors.probe())

    def run(self, work: Awaitable[Any]) -> Any:
        """What *work* gives."""

        async def awaited() -> Any:
            return await work

        return self.runner.run(awaited())

    def close(self) -> None:
        """End what has a thread."""
        if self.texts is not None:
            self.texts.close()
        self.runner.close()

    def put_users(self, **documents: bytes) -> None:
        """Store *documents*, and tell of it."""
        self.run(self.store.put_many_if_newer(documents))
        for user_id in documents:
            self.users.note(user_id)
        self.run(self.users.read())

    def send(self, method: str, target: str, **given: Any) -> httpx.Response:
        """One request."""
        answer: httpx.Response = self.run(exchange(self.app, lambda client: client.request(method, target, **given)))
        return answer

    def get(self, target: str, **given: Any) -> httpx.Response:
        """One GET."""
        return self.send("GET", target, **given)

    def post(self, target: str, body: Any) -> httpx.Response:
        """One POST of *body* as JSON."""
        return self.send("POST", target, json=body)


async def exchange(app: ASGIApp, question: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """What *app* answers, without a network."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://retrieval") as client:
        return await question(client)


def ids(answer: httpx.Response) -> list[str]:
    """The items of a good answer."""
    assert answer.status_code == 200, answer.text
    return [each["item_id"] for each in answer.json()["items"]]
