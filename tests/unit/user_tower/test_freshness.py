"""Freshness of every real click: the times that the job reports, and the delays that user_tower measures."""

import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nearline.adapters.memory import MemoryStore
from nearline.errors import Unavailable
from nearline.events import Event
from nearline.log import Record
from nearline.seen import parse_seen_policy
from nearline.sequences import TriggerEvent, encode_sequence, with_cause
from nearline.telemetry import FINE_BUCKETS_S
from nearline.tracing import is_in_share, is_traced
from nearline.user_commands import Erase, Merge, Remove
from services.user_tower import freshness
from services.user_tower.worker import CHUNK, UserWorker
from tests.support.fakes import Outbox, ScriptedReader, ScriptedTowers
from tests.unit.last_n.test_user_reducer import Job
from tests.unit.user_tower.test_worker import SPACE, sequence, table_of

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNTRACED = TRACEPARENT[:-1] + "0"


# --- the job ----------------------------------------------------------------------------------------------------------


def click(number: int, *, produced_ms: int | None = None, user: str = "u", **more: object) -> Event:
    return Event(f"e{number}", user, f"i{number}", "click", number + 1, produced_ms=produced_ms, **more)  # type: ignore[arg-type]


def test_a_sequence_names_the_click_that_it_came_of() -> None:
    job = Job()
    job.append(click(1, produced_ms=40, traceparent=TRACEPARENT), append_ms=42)
    assert job.sequences["u"][-1].cause == TriggerEvent("e1", 40, 42, TRACEPARENT)
    job.append(click(2, produced_ms=50, synthetic=True), append_ms=51)
    assert job.sequences["u"][-1].cause == TriggerEvent("e2", 50, 51, "", True)


def test_a_click_that_says_no_time_of_its_own_is_no_cause() -> None:
    job = Job()
    job.append(click(1, produced_ms=40), click(2), append_ms=42)
    assert [each.cause and each.cause.event_id for each in job.sequences["u"]] == ["e1", None]


def test_the_cause_is_said_and_not_kept() -> None:
    """The state is what it was: as large, and of the same form."""
    job, silent = Job(), Job()
    job.append(click(1, produced_ms=40, traceparent=TRACEPARENT), append_ms=42)
    silent.append(click(1), append_ms=42)
    assert job.states == silent.states
    job.append(Remove("c", "u", "e1", 0), append_ms=43)
    assert job.sequences["u"][-1].cause is None


def test_merged_events_are_not_measured_again() -> None:
    job = Job()
    job.append(click(1, produced_ms=40, user="session"), Merge("c", "session", "u", 0), append_ms=42)
    assert [each.cause for each in job.sequences["u"]] == [None]
    job.append(Erase("c2", "u", 0))
    assert job.sequences["u"][-1].cause is None


def test_a_late_click_that_is_forwarded_was_measured_before_too() -> None:
    job = Job()
    job.append(click(1, produced_ms=40, user="session"), Merge("c", "session", "u", 0), append_ms=42)
    job.append(click(2, produced_ms=41, user="session"), append_ms=43)
    assert job.items() == ["i1", "i2"]
    assert [each.cause for each in job.sequences["u"]] == [None, None]


@pytest.mark.parametrize("told", [UNTRACED, "x" * 1000, "", TRACEPARENT.upper(), "00-" + "0" * 32 + TRACEPARENT[35:]])
def test_a_context_that_is_not_traced_is_not_carried_along(told: str) -> None:
    job = Job()
    job.append(click(1, produced_ms=40, traceparent=told), append_ms=42)
    assert job.sequences["u"][-1].cause == TriggerEvent("e1", 40, 42)
    assert not is_traced(told)


def test_sampling_of_a_click_depends_on_its_id_alone() -> None:
    chosen = [number for number in range(20_000) if is_in_share(f"e{number}", 0.1)]
    assert 1_800 < len(chosen) < 2_200
    assert all(is_in_share(f"e{number}", 0.2) for number in chosen)
    assert is_in_share("e", 1.0)
    assert not is_in_share("e", 0.0)


# --- user_tower -------------------------------------------------------------------------------------------------------


def told_of(metric: object) -> float:
    """How many the histogram or counter has counted."""
    return sum(
        sample.value
        for family in metric.collect()  # type: ignore[attr-defined]
        for sample in family.samples
        if sample.name.endswith(("_count", "_total"))
    )


def arrival(user_id: str, cause: TriggerEvent | None, *, version: int = 1, sequence_ms: int | None = None) -> Record:
    value = encode_sequence(sequence(user_id, "a", version=version))
    value = value if cause is None else with_cause(value, cause)
    return Record("user-sequences", 0, 0, sequence_ms or time.time_ns() // 1_000_000, user_id.encode(), value)


class Tower:
    """user_tower's worker among fakes; it notes what was announced of whom."""

    def __init__(self, *polls: list[Record], towers: ScriptedTowers | None = None) -> None:
        self.towers = towers or ScriptedTowers()
        self.reader = ScriptedReader(*polls)
        self.announced: list[tuple[str, TriggerEvent | None]] = []
        self.worker = UserWorker(
            SPACE,
            reader=self.reader,
            table=table_of("a", "b"),
            towers=self.towers,
            store=MemoryStore(ttl_ms=10**9),
            dead_letters=Outbox(),
            announce=lambda documents, causes: self.announced.extend((one, causes.get(one)) for one in documents),
            policy=parse_seen_policy(""),
            retry_s=0.0,
        )


@pytest.mark.anyio
async def test_each_stage_of_a_click_is_told_once_its_vector_is_stored() -> None:
    now_ms = time.time_ns() // 1_000_000
    tower = Tower([arrival("u", TriggerEvent("e", now_ms - 1_000, now_ms - 990), sequence_ms=now_ms - 960)])
    before = {stage: told_of(freshness._STAGES.labels(stage)) for stage in ("append", "sequence", "vector")}
    sums = [each._sum.get() for each in (freshness.APPEND, freshness.SEQUENCE, freshness.VECTOR, freshness.SERVABLE)]
    await tower.worker.step()
    assert {stage: told_of(freshness._STAGES.labels(stage)) for stage in before} == {
        stage: count + 1 for stage, count in before.items()
    }
    took = [
        each._sum.get() - earlier
        for each, earlier in zip(
            (freshness.APPEND, freshness.SEQUENCE, freshness.VECTOR, freshness.SERVABLE), sums, strict=True
        )
    ]
    assert took[:2] == pytest.approx([0.010, 0.030])
    assert 0.96 <= took[2] < 5
    assert took[3] == pytest.approx(sum(took[:3]))
    assert tower.announced == [("u", TriggerEvent("e", now_ms - 1_000, now_ms - 990))]


@pytest.mark.anyio
async def test_a_tests_click_and_one_that_is_read_again_are_in_no_delay() -> None:
    now_ms = time.time_ns() // 1_000_000
    old = now_ms - freshness.MOST_MS - 1_000
    causes = [TriggerEvent("s", now_ms, now_ms, synthetic=True), TriggerEvent("o", old, old), None]
    tower = Tower([arrival(f"u{n}", cause) for n, cause in enumerate(causes)])
    before = told_of(freshness.SERVABLE), told_of(freshness.SYNTHETIC), told_of(freshness.OLD)
    await tower.worker.step()
    counted = told_of(freshness.SERVABLE), told_of(freshness.SYNTHETIC), told_of(freshness.OLD)
    assert [after - earlier for after, earlier in zip(counted, before, strict=True)] == [0, 1, 1]
    assert [cause and cause.event_id for _, cause in tower.announced] == ["s", "o", None]


@pytest.mark.anyio
async def test_a_click_of_a_producer_whose_clock_is_ahead_is_in_no_delay() -> None:
    """It would count as servable at once: of the time before it was appended nothing is known."""
    now_ms = time.time_ns() // 1_000_000
    ahead = TriggerEvent("a", now_ms + 60_000, now_ms - 3_000)
    tower = Tower([arrival("u", ahead)])
    before = told_of(freshness.SERVABLE), told_of(freshness.AHEAD)
    await tower.worker.step()
    counted = told_of(freshness.SERVABLE), told_of(freshness.AHEAD)
    assert [after - earlier for after, earlier in zip(counted, before, strict=True)] == [0, 1]
    assert tower.announced == [("u", ahead)]


@pytest.mark.anyio
async def test_while_triton_is_down_a_click_is_measured_once_it_is_servable() -> None:
    now_ms = time.time_ns() // 1_000_000
    tower = Tower([arrival("u", TriggerEvent("e", now_ms, now_ms))], [], [])
    before = told_of(freshness.SERVABLE)
    tower.towers.down = True
    await tower.worker.step()
    assert (told_of(freshness.SERVABLE) - before, tower.announced) == (0, [("u", None)])
    tower.towers.down = False
    await tower.worker.step()
    await tower.worker.step()
    assert told_of(freshness.SERVABLE) - before == 1


class HalfAway(ScriptedTowers):
    """Towers that are away for whoever comes alone."""

    away = True

    async def encode_users(self, batch: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        if self.away and len(batch["vectors"]) == 1:
            raise Unavailable("away for one")
        return await super().encode_users(batch)


@pytest.mark.anyio
async def test_a_click_is_measured_once_even_if_its_batch_is_retried() -> None:
    now_ms = time.time_ns() // 1_000_000
    causes = [TriggerEvent(f"e{n}", now_ms, now_ms) for n in range(CHUNK + 1)]
    tower = Tower([arrival(f"u{n}", cause) for n, cause in enumerate(causes)], [], towers=HalfAway())
    before = told_of(freshness.SERVABLE)
    await tower.worker.step()
    assert told_of(freshness.SERVABLE) - before == CHUNK
    tower.towers.away = False  # type: ignore[attr-defined]
    await tower.worker.step()
    assert told_of(freshness.SERVABLE) - before == CHUNK + 1


@pytest.mark.anyio
async def test_every_click_of_a_burst_is_measured_and_the_newest_is_announced() -> None:
    now_ms = time.time_ns() // 1_000_000
    causes = [TriggerEvent(f"e{n}", now_ms - 5, now_ms - 4) for n in range(3)]
    tower = Tower([arrival("u", cause, version=n + 1) for n, cause in enumerate(causes)])
    before = told_of(freshness.SERVABLE)
    await tower.worker.step()
    assert told_of(freshness.SERVABLE) - before == 3
    assert tower.announced == [("u", causes[-1])]


def test_every_label_is_there_from_the_start() -> None:
    stages = {sample.labels["stage"] for family in freshness._STAGES.collect() for sample in family.samples}
    assert stages == {"append", "sequence", "vector"}


def test_no_fine_bucket_is_more_than_a_quarter_above_the_one_before_where_clicks_are() -> None:
    between = [bound for bound in FINE_BUCKETS_S if 0.001 <= bound <= 1.5]
    assert all(upper / lower <= 1.2501 for lower, upper in pairwise(between))
    assert 1.0 in FINE_BUCKETS_S  # the objective's bound
