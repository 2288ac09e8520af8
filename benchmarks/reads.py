"""How many answers a second within a bound on p99, and are they the right ones? First alone, then beside clicks."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import Result, open_loop
from benchmarks.search import highest_passing
from benchmarks.stage import UNTIL_STOPPED_S, Stage
from benchmarks.targets import READS_P99_MS, READS_UNDER_LOAD_P99_MS
from benchmarks.traffic import user_id
from nearline.adapters.kafka import TableReader
from nearline.adapters.stores import store_for
from nearline.item_vectors import decode_item_vector
from nearline.log import Record
from nearline.space import Space
from nearline.topics import item_vectors_topic
from nearline.user_documents import decode_user_document

K = 50
LOAD_PER_S = 500
_ASKERS = 2_000  # different users that the reads ask for
_CHECKED = 200  # answers compared with exact search
_TIE = 1e-5  # items this close to the fiftieth are as good as it
_FIRST_RPS = 800.0
_TRIES = 2
_CONFIRMATIONS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)  # of the rate found in short runs


Trials = dict[float, list[Result]]


def measure(stage: Stage) -> dict[str, Any]:
    """``{"reads": …}``: the write path idle."""
    stage.probe.settle(stage.item_of_probe(0))
    return {"reads": _measure(stage, READS_P99_MS)}


def measure_under_load(stage: Stage) -> dict[str, Any]:
    """``{"reads_under_load": …}``: beside 500 clicks/s, all on the same cores."""
    with stage.steady_load(LOAD_PER_S, UNTIL_STOPPED_S) as load:
        found = _measure(stage, READS_UNDER_LOAD_P99_MS)
        load.stop()
    return {"reads_under_load": found}


def _measure(stage: Stage, bounds_ms: tuple[float, float]) -> dict[str, Any]:
    recall = asyncio.run(_recall(stage))
    trials: Trials = {}
    must, goal = (_highest(stage, bound, trials) for bound in bounds_ms)
    return {
        "rps": round(must.achieved_rps) if must else 0,
        "p99_ms": round(must.p99_ms, 2) if must else None,
        "p50_ms": round(must.p50_ms, 2) if must else None,
        "generator_cpu": round(must.load_cpu, 2) if must else None,
        "rps_at_goal": round(goal.achieved_rps) if goal else 0,
        "p99_ms_at_goal": round(goal.p99_ms, 2) if goal else None,
        "recall_at_50": round(recall, 4),
        "trials_p99_ms": {str(rate): [round(one.p99_ms, 2) for one in trials[rate]] for rate in sorted(trials)},
    }


def _highest(stage: Stage, bound_ms: float, trials: Trials) -> Result | None:
    """The run at the highest open-loop rate with p99 within the bound, confirmed by a longer one."""
    urls = _urls(stage)

    def run(rate: float, seconds: float) -> Result:
        stage.say(f"{rate:,.0f} reads/s, p99 within {bound_ms:g} ms?")
        return open_loop(urls, rate, seconds, key=stage.system.key)

    def within(result: Result) -> bool:
        return result.errors == 0 and result.p99_ms <= bound_ms and result.achieved_rps >= 0.97 * result.wanted_rps

    def passes(rate: float) -> bool:
        rate = round(rate)
        tried = trials.setdefault(rate, [])
        # One pause of the machine fails a short run: a rate is too high when it fails twice. The long run decides.
        while len(tried) < _TRIES and not any(map(within, tried)):
            tried.append(run(rate, stage.scale.read_s))
        return any(map(within, tried))

    rate = highest_passing(passes, first=_FIRST_RPS) or 0.0
    for share in _CONFIRMATIONS if rate else ():
        confirmed = run(rate * share, stage.scale.confirm_s)
        if within(confirmed):
            return confirmed
    return None


def _urls(stage: Stage) -> list[str]:
    """Requests of many users, in a seeded order; what they have seen is left out of their answers, as by default."""
    users = np.random.default_rng(stage.seed).permutation(min(_ASKERS, stage.scale.users))
    return [f"{stage.system.retrieval}/recommend/{user_id(user)}?k={K}" for user in users.tolist()]


async def _recall(stage: Stage) -> float:
    """Share of the true fifty nearest in the answers of many users; ties with the fiftieth count as true."""
    stage.say("recall against exact search")
    space = stage.settings.embedding_space
    ids, vectors = await _catalogue(stage.system.bootstrap, space)
    rows = {one: row for row, one in enumerate(ids)}
    store = store_for(
        stage.settings.store_url, space, ttl_ms=stage.settings.history_ttl_ms, read_ms=1_000, writer=False
    )
    await store.open()
    shares = []
    try:
        for number in range(min(_CHECKED, stage.scale.users)):
            vector, answer = await _together(stage, store, space, user_id(number))
            scores = vectors @ vector
            found = [rows[item["item_id"]] for item in answer["items"]]
            shares.append(recall(scores, found, K))
    finally:
        await store.close()
    return float(np.mean(shares))


async def _together(stage: Stage, store: Any, space: Space, user: str) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """A user's vector and an answer that used just this one; clicks may come meanwhile."""
    while True:
        raw = await store.get(user)
        assert raw is not None, f"{user} has no document"
        document = decode_user_document(raw, space)
        assert document.vector is not None, f"{user} has no vector"
        answer = stage.probe.ask(user, k=K, exclude_seen="none")
        if answer["vector_version"] == document.vector_version:
            return document.vector, answer


def recall(scores: NDArray[np.float32], found: Sequence[int], k: int) -> float:
    """Share of *found* rows whose score is among the *k* best of *scores*."""
    fiftieth = np.partition(scores, len(scores) - k)[len(scores) - k]
    return float((scores[list(found)] >= fiftieth - _TIE).sum()) / k


async def _catalogue(kafka: str, space: Space) -> tuple[list[str], NDArray[np.float32]]:
    """Every live item's id and vector, read from the topic itself."""
    newest: dict[str, Record] = {}
    async with TableReader(kafka, item_vectors_topic(space)) as reader:
        while not reader.caught_up:
            for record in await reader.poll():
                newest[record.id] = record
    live = {}
    for one, record in newest.items():
        item = decode_item_vector(one, record.value, space) if record.value else None
        if item is not None and item.candidate is not None and item.shown.available:
            live[one] = item.candidate
    return list(live), np.array(list(live.values()), np.float32)
