"""The parts behind the read routes, on a real log: a user whose document changes is known within moments."""

import asyncio
from dataclasses import replace

from nearline.adapters.kafka import Producer, Topics
from nearline.adapters.memory import MemoryStore
from nearline.settings import load_settings
from nearline.topics import all_topics, user_updates_topic
from nearline.user_updates import UserUpdate, encode_user_update
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.recommender import Recommender
from services.retrieval.routes.parts import ReadParts
from services.retrieval.store_guard import GuardedStore
from services.retrieval.text_index import TextIndex
from tests.fakes import ExactGraph
from tests.read_world import SPACE, at, item, user

TOPIC = user_updates_topic(SPACE)
UPDATE = encode_user_update(UserUpdate(7, 7, 7, 1))


def test_users_who_changed_since_the_start_are_known_and_triton_away_stops_nothing(broker: str) -> None:
    topics = Topics(broker)
    topics.ensure(
        [replace(topic, partitions=2) for topic in all_topics(SPACE, history_ttl_ms=1) if topic.name == TOPIC]
    )
    topics.close()
    asyncio.run(_story(broker))


async def _story(broker: str) -> None:
    settings = load_settings({"NEARLINE_KAFKA": broker, "NEARLINE_TRITON": "127.0.0.1:1", "NEARLINE_SPACE": "3"})
    settings = settings.model_copy(update={"dimension": 4, "active_users": 10})
    store = MemoryStore(ttl_ms=10**15)
    guard, texts = GuardedStore(store), TextIndex()
    catalogue = Catalogue(4, LiveIndex(4, lambda capacity: ExactGraph(4, capacity)), texts)
    catalogue.apply(item(7))
    recommender = Recommender(catalogue, guard, SPACE)
    parts = ReadParts(settings, catalogue, guard, recommender, known=catalogue, texts=texts)
    users = parts.reads.users
    assert users is not None
    await guard._probe()
    await store.put_many_if_newer({"early": user(1), "late": user(2)})
    async with Producer(broker) as producer:
        await producer.send_all(TOPIC, [(b"early", UPDATE)])
        running = asyncio.ensure_future(parts.run())
        try:
            async with asyncio.timeout(60):
                while "late" not in [user_id for user_id, _, _ in await users.nearest(at(2), 10)]:
                    await producer.send_all(TOPIC, [(b"late", UPDATE)])
                    await asyncio.sleep(0.05)
                found = await texts.search("number7", 1)
            assert [user_id for user_id, _, _ in await users.nearest(at(2), 10)] == ["late"], (
                "early was before the start"
            )
            assert [item_id for item_id, _ in found[0]] == ["i7"]
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
