"""Traces: one click walks from the door to the first answer that used it, and all of its way is one trace."""

import asyncio
import time
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id, format_trace_id

from nearline.adapters.memory import MemoryStore
from nearline.adapters.span_exporters import spans_for
from nearline.adapters.traces import OtelSpans, to_collector
from nearline.events import decode_event
from nearline.item_vectors import ItemFields, ItemVector
from nearline.log import Record
from nearline.seen import parse_seen_policy
from nearline.sequences import encode_sequence
from nearline.settings import load_settings
from nearline.topics import CLICKS
from nearline.tracing import ClickTraces, is_traced, trace_id_of
from nearline.user_updates import UserUpdate, decode_user_updates
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.recommender import Recommender
from services.retrieval.request import RecommendRequest
from services.retrieval.users.reader import UserReader
from services.retrieval.users.store_guard import GuardedStore
from services.retrieval.users.trace_ends import TracedClicks
from services.user_tower.freshness import Freshness
from services.user_tower.updates import Updates
from services.user_tower.worker import UserWorker
from tests.support.fakes import ExactGraph, Outbox, ScriptedReader, ScriptedTowers
from tests.support.ingest_door import CLICK, Door
from tests.unit.last_n.test_user_reducer import Job
from tests.unit.user_tower.test_worker import SPACE, table_of

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

pytestmark = pytest.mark.anyio


class Collector:
    """An exporter in memory, and the spans of any part that go to it."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.spans = OtelSpans("test", SimpleSpanProcessor(self.exporter))

    @property
    def noted(self) -> dict[str, ReadableSpan]:
        found = self.exporter.get_finished_spans()
        assert len({span.name for span in found}) == len(found)
        return {span.name: span for span in found}


def attribute(span: ReadableSpan, name: str) -> object:
    return (span.attributes or {})[name]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def door_of(traces: ClickTraces | None) -> Door:
    return Door(now_ms=now_ms, traces=traces)


class Retrieval:
    """Retrieval over *store*, with the items that the tower knows."""

    def __init__(self, store: MemoryStore, collector: Collector | None) -> None:
        self.guard = GuardedStore(store)
        self.traced = None if collector is None else TracedClicks(collector.spans, most=2)
        shop = Catalogue(
            SPACE.dimension, LiveIndex(SPACE.dimension, lambda capacity: ExactGraph(SPACE.dimension, capacity))
        )
        table = table_of("i", "j")
        for nth, item in enumerate(("i", "j")):
            vector = table.history[table.row_of[item]]
            shop.apply(ItemVector(item, 1, ItemFields(item, listed_ms=nth), vector.astype("float32"), vector, "d"))
        self.recommender = Recommender(
            shop, UserReader(self.guard, SPACE, traced=self.traced), SPACE, traced=self.traced
        )

    async def answer(self, user_id: str, request_id: str) -> None:
        if not self.guard.answered:
            await self.guard.probe()
        await self.recommender.answer(user_id, RecommendRequest(2), request_id)


async def walked(collector: Collector, door: Door) -> tuple[Retrieval, MemoryStore]:
    """What retrieval is, once the door's one click went through the job and the tower."""
    ((_, value),) = door.outbox.sent[CLICKS]
    at_ms = now_ms()
    job = Job()
    job.append(decode_event(value, append_ms=at_ms), append_ms=at_ms)
    sequence = Record("user-sequences", 0, 0, at_ms, b"u", encode_sequence(job.sequences["u"][-1]))
    store, log = MemoryStore(ttl_ms=10**9), Outbox()
    updates = Updates(SPACE, log)
    worker = UserWorker(
        SPACE,
        reader=ScriptedReader([sequence]),
        table=table_of("i", "j"),
        towers=ScriptedTowers(),
        store=store,
        dead_letters=Outbox(),
        announce=updates.announce,
        policy=parse_seen_policy(""),
        freshness=Freshness(collector.spans),
    )
    await worker.step()
    await updates.send()
    retrieval = Retrieval(store, collector)
    for key, value in log.sent["user-updates.1"]:
        for user_id, update in decode_user_updates(Record("user-updates.1", 0, 0, at_ms, key, value)).items():
            retrieval.recommender.users.heard(user_id, update)
    return retrieval, store


async def test_one_trace_leads_from_the_click_to_the_first_answer_that_used_it() -> None:
    collector = Collector()
    door = door_of(ClickTraces(collector.spans, 1.0))
    assert (await door.send(CLICK)).status_code == 200
    retrieval, _ = await walked(collector, door)
    assert "answer" not in collector.noted
    await retrieval.answer("u", "r-1")
    await retrieval.answer("u", "r-2")  # the second is no part of it
    noted = collector.noted
    assert list(noted) == ["append", "last_n", "read", "gather", "triton", "store", "user_tower", "answer"]
    assert len({span.context.trace_id for span in noted.values()}) == 1
    parents = {name: span.parent and span.parent.span_id for name, span in noted.items()}
    ids = {name: span.context.span_id for name, span in noted.items()}
    assert parents["append"] is None
    assert parents["last_n"] == ids["append"]
    assert parents["user_tower"] == ids["last_n"]
    assert {parents[step] for step in ("read", "gather", "triton", "store", "answer")} == {ids["user_tower"]}
    assert attribute(noted["answer"], "nearline.request_id") == "r-1"
    assert len({attribute(noted[name], "nearline.event_id") for name in ("append", "answer")}) == 1
    assert all((span.start_time or 0) <= (span.end_time or 0) for span in noted.values())
    assert retrieval.traced is not None
    assert len(retrieval.traced) == 0


async def test_a_trace_that_the_producer_began_is_gone_on_with() -> None:
    collector = Collector()
    door = door_of(ClickTraces(collector.spans, 0.0))
    await door.send({**CLICK, "traceparent": PARENT})
    append = collector.noted["append"]
    assert format_trace_id(append.context.trace_id) == PARENT.split("-")[1]
    assert append.parent is not None
    assert format_span_id(append.parent.span_id) == PARENT.split("-")[2]


async def test_a_header_is_as_good_as_the_field_and_the_field_counts_more() -> None:
    collector = Collector()
    door = door_of(ClickTraces(collector.spans, 0.0))
    await door.send(CLICK, headers={"traceparent": PARENT})
    assert format_trace_id(collector.noted["append"].context.trace_id) == trace_id_of(PARENT)


async def test_a_click_that_is_not_of_the_share_leaves_no_span_and_its_event_is_what_it_was() -> None:
    collector = Collector()
    door, plain = door_of(ClickTraces(collector.spans, 0.0)), door_of(None)
    for one in (door, plain):
        await one.send({**CLICK, "event_id": "e", "time_ms": 1_700_000_000_000})
    sent = [decode_event(one.outbox.sent[CLICKS][0][1], append_ms=2_000_000_000_000) for one in (door, plain)]
    assert replace(sent[0], produced_ms=0) == replace(sent[1], produced_ms=0)
    await walked(collector, door)
    assert collector.noted == {}


async def test_only_an_answer_that_used_the_click_ends_its_trace() -> None:
    collector = Collector()
    door = door_of(ClickTraces(collector.spans, 1.0))
    await door.send(CLICK)
    retrieval, store = await walked(collector, door)
    kept = await store.get("u")
    await store.delete("u")
    await retrieval.answer("u", "r-0")
    assert "answer" not in collector.noted
    assert kept is not None
    await store.put_many_if_newer({"u": kept})
    await retrieval.answer("u", "r-1")
    assert attribute(collector.noted["answer"], "nearline.request_id") == "r-1"


async def test_an_answer_of_the_document_before_does_not_end_the_waiting() -> None:
    collector = Collector()
    door = door_of(ClickTraces(collector.spans, 1.0))
    await door.send(CLICK)
    retrieval, _ = await walked(collector, door)
    assert retrieval.traced is not None
    update = retrieval.traced._waiting["u"]
    retrieval.traced.heard("u", replace(update, vector_version=update.vector_version + 1))
    await retrieval.answer("u", "r-0")
    assert len(retrieval.traced) == 1
    retrieval.traced.heard("u", update)
    await retrieval.answer("u", "r-1")
    assert attribute(collector.noted["answer"], "nearline.request_id") == "r-1"


def test_the_users_that_are_waited_for_are_bounded() -> None:
    traced = TracedClicks(Collector().spans, most=2)
    for n in range(5):
        traced.heard(f"u{n}", UserUpdate(1, 1, 0, 1, f"e{n}", 1, PARENT))
    assert len(traced) == 2
    traced.heard("v", UserUpdate(1, 1, 0, 1, "e", 1))
    assert len(traced) == 2  # one that is not traced is not waited for


def test_an_update_of_a_traced_click_names_the_span_of_its_vector() -> None:
    collector = Collector()

    async def told() -> UserUpdate:
        door = door_of(ClickTraces(collector.spans, 1.0))
        await door.send(CLICK)
        retrieval, _ = await walked(collector, door)
        assert retrieval.traced is not None
        return retrieval.traced._waiting["u"]

    update = asyncio.run(told())
    assert is_traced(update.traceparent)
    assert update.traceparent.split("-")[2] == format_span_id(collector.noted["user_tower"].context.span_id)


def test_without_an_endpoint_no_spans_are_exported() -> None:
    assert spans_for(load_settings({}), "retrieval") is None


async def test_a_collector_that_is_away_holds_up_nobody() -> None:
    spans = to_collector("http://127.0.0.1:1/v1/traces", "test")
    started = time.monotonic()
    for n in range(1_000):
        spans.begin("append", time.time_ns()).end(time.time_ns(), event_id=f"e{n}")
    assert time.monotonic() - started < 2
    started = time.monotonic()
    await spans.close()
    assert time.monotonic() - started < 5
