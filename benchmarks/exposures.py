"""Measures the cost of exposures: answers at a steady rate, with none and all of them sent to a real broker.

    python -m benchmarks.exposures [--rate 1000] [--seconds 10]

Prints, for each share of exposed answers, the time from when an answer was due to its last byte, and the process's
processor time per answer. It runs in one process without HTTP, so the lines differ only in exposures.
"""

import argparse
import asyncio
import gc
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import uvloop

from local.broker import running_broker
from nearline.adapters.hnsw import HnswGraph
from nearline.adapters.kafka.admin import Topics
from nearline.adapters.kafka.producer import Producer
from nearline.adapters.memory import MemoryStore
from nearline.hashing import hash64_all
from nearline.item_vectors import ItemFields, ItemVector
from nearline.space import Space
from nearline.telemetry import configure_logs
from nearline.topics import all_topics
from nearline.user_documents import UserDocument, encode_user_document
from services.retrieval.exposure_log import ExposureLog
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.in_process.maintenance import IndexMaintenance
from services.retrieval.recommender import Recommender
from services.retrieval.request import RecommendRequest
from services.retrieval.users.reader import UserReader
from services.retrieval.users.store_guard import GuardedStore

SPACE = Space(1, 64)
ITEMS, USERS, K = 20_000, 1_000, 50
NOW_MS = 2_000_000_000_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=1_000, help="answers a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    asked = parser.parse_args()
    configure_logs("benchmark", level="warning", style="console")
    sys.setswitchinterval(0.0005)  # as services/retrieval/app.py does
    with tempfile.TemporaryDirectory() as folder, running_broker(Path(folder)) as broker:
        topics = Topics(broker.bootstrap)
        topics.ensure(all_topics(SPACE))
        topics.close()
        print(
            f"{ITEMS:,} items of {SPACE.dimension} dimensions, k = {K}, {asked.rate:,} answers/s, {asked.seconds:g} s"
        )
        print(f"{'exposed':>8} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} {'CPU us/answer':>14} {'sent':>9}")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            made = runner.run(world())
            for share in (0.0, 1.0, 0.0, 1.0):
                print(runner.run(_measured(made, broker.bootstrap, share, asked.rate, asked.seconds)), flush=True)


async def world() -> tuple[Catalogue, GuardedStore]:
    """A catalogue in its graph, and a store with users' documents, answering."""
    random = np.random.default_rng(1)
    vectors = random.standard_normal((ITEMS, SPACE.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = LiveIndex(SPACE.dimension, lambda capacity: HnswGraph(SPACE.dimension, capacity))
    catalogue = Catalogue(SPACE.dimension, index)
    for nth, vector in enumerate(vectors):
        shown = ItemFields(f"Item number {nth}", f"kind {nth % 50}", price=float(nth % 90), listed_ms=nth)
        catalogue.apply(ItemVector(f"item-{nth:06}", 1, shown, vector, vector.astype(np.float16), "d"))
    await IndexMaintenance(index, lambda: True, rest_s=0, pause_s=0).step()
    store = MemoryStore(ttl_ms=10**15)
    documents = {}
    for nth in range(USERS):
        seen = np.sort(hash64_all([f"item-{each:06}" for each in random.choice(ITEMS, 50, replace=False)]))
        user = UserDocument(vectors[nth], 7, 7, "e", NOW_MS, NOW_MS, seen, seen[:0], seen[:0])
        documents[f"user-{nth}"] = encode_user_document(user, SPACE)
    await store.put_many_if_newer(documents)
    guard = GuardedStore(store)
    watch = asyncio.create_task(guard.watch())
    while not guard.answered:
        await asyncio.sleep(0.01)
    watch.cancel()
    gc.collect()
    gc.freeze()
    return catalogue, guard


async def _measured(world: tuple[Catalogue, GuardedStore], broker: str, share: float, rate: int, seconds: float) -> str:
    catalogue, guard = world
    async with Producer(broker) as producer:
        exposures = ExposureLog(share, producer.send_all) if share else None
        recommender = Recommender(catalogue, UserReader(guard, SPACE), SPACE, exposures=exposures)
        sending = asyncio.create_task(exposures.run()) if exposures else None
        await _answers(recommender, rate, 1.0)
        started_cpu = time.process_time()
        took = await _answers(recommender, rate, seconds)
        if sending is not None and exposures is not None:
            sending.cancel()
            with suppress(asyncio.CancelledError):
                await sending
            await exposures.drain()
        cpu = (time.process_time() - started_cpu) / len(took)
    p50, p99, most = np.percentile(took, [50, 99, 100]) * 1e3
    sent = len(took) if share else 0
    return f"{share:8.0%} {p50:8.3f} {p99:8.3f} {most:8.3f} {cpu * 1e6:14.0f} {sent:9,}"


async def _answers(recommender: Recommender, rate: int, seconds: float) -> list[float]:
    """Seconds from when each answer was due to its last byte."""
    asked, took = RecommendRequest(K), []
    start = time.perf_counter()
    for nth in range(int(rate * seconds)):
        due = start + nth / rate
        wait = due - time.perf_counter()
        await asyncio.sleep(max(0.0, wait))
        await recommender.answer(f"user-{nth % USERS}", asked, f"{nth:016x}")
        took.append(time.perf_counter() - max(due, start))
    return took


if __name__ == "__main__":
    main()
