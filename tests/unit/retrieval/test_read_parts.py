"""The parts behind the read routes: they start without Triton, and user updates reach every listener."""

import asyncio

from nearline.adapters.memory import MemoryStore
from nearline.log import Record
from nearline.settings import Settings, load_settings
from nearline.user_updates import UserUpdate, encode_user_updates
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.items.text_index import TextIndex
from services.retrieval.recommender import Recommender
from services.retrieval.routes.read_parts import ReadParts
from services.retrieval.users.reader import UserReader
from services.retrieval.users.store_guard import GuardedStore
from tests.support.fakes import ExactGraph
from tests.support.read_world import SPACE, at, item, user


def settings_with(**changes: object) -> Settings:
    return load_settings({"NEARLINE_TRITON": "127.0.0.1:1", "NEARLINE_SPACE": "3"}).model_copy(
        update={"dimension": 4, **changes}
    )


def updates(**users: UserUpdate) -> Record:
    return Record("user-updates.3", 0, 0, 0, None, encode_user_updates(users))


def test_a_user_who_is_heard_of_is_known_and_triton_away_stops_nothing() -> None:
    asyncio.run(_story())


async def _story() -> None:
    store = MemoryStore(ttl_ms=10**15)
    guard, texts = GuardedStore(store), TextIndex()
    catalogue = Catalogue(4, LiveIndex(4, lambda capacity: ExactGraph(4, capacity)), texts)
    catalogue.apply(item(7))
    recommender = Recommender(catalogue, UserReader(guard, SPACE), SPACE)
    parts = ReadParts(
        settings_with(active_users=10), SPACE, catalogue, guard, recommender, known=catalogue, texts=texts
    )
    assert parts.reads.users is not None
    assert parts.reads.known is catalogue, "/similar of a sold-out item and /why need its history vector"
    await guard.probe()
    await store.put_many_if_newer({"silent": user(1), "active": user(2)})
    heard: list[str] = []
    hear = parts.hearing(lambda user_id, _: heard.append(user_id))
    running = asyncio.ensure_future(parts.run())
    hear(updates(active=UserUpdate(1, 1, 0, 1)))
    async with asyncio.timeout(30):
        while not len(parts.reads.users):
            await asyncio.sleep(0.01)
        found = await texts.search("number7", 1)
    assert [user_id for user_id, _, _ in await parts.reads.users.nearest(at(1), 10)] == ["active"]
    assert heard == ["active"]
    assert [item_id for item_id, _ in found[0]] == ["i7"]
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_disabled_read_routes_have_no_parts() -> None:
    guard = GuardedStore(MemoryStore(ttl_ms=1))
    catalogue = Catalogue(4, LiveIndex(4, lambda capacity: ExactGraph(4, capacity)))
    recommender = Recommender(catalogue, UserReader(guard, SPACE), SPACE)
    parts = ReadParts(settings_with(active_users=0), SPACE, catalogue, guard, recommender, known=None, texts=None)
    assert (parts.reads.users, parts.reads.texts, parts.reads.sessions) == (None, None, None)
    heard: list[str] = []
    parts.hearing(lambda user_id, _: heard.append(user_id))(updates(u=UserUpdate(1, 1, 0, 1)))
    assert heard == ["u"]
