"""Measures answers per second within a bound on p99: alone, with the most expensive options, and beside clicks."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.load import Result, get, open_loop
from benchmarks.rates import answered, figures
from benchmarks.recall import K, recall_at_50
from benchmarks.seen import SEEN, seen_users
from benchmarks.stage import UNTIL_STOPPED_S, LoadedSystem
from benchmarks.targets import DIVERSITY_SEEN_P99_MS, READS_P99_MS, READS_UNDER_LOAD_P99_MS
from benchmarks.traffic import user_id

LOAD_PER_S = 500
DIVERSITY = 0.3
DIVERSITY_SEEN_RPS = 1_000  # what must be reached without them
_ASKERS = 2_000  # different users that the reads ask for
_FIRST_RPS = 800.0
_WARM_UP_RPS = 300.0
_RUNS = 3


def measure_idle(stage: LoadedSystem) -> dict[str, Any]:
    """``{"recommend": {"idle": …}}``: the write path idle."""
    stage.probe.settle(stage.item_of_probe(0))
    return {"recommend": {"idle": _measure(stage, READS_P99_MS)}}


def measure_under_load(stage: LoadedSystem) -> dict[str, Any]:
    """``{"reads_under_load": …}``: beside 500 clicks/s, all on the same cores."""
    with stage.steady_load(LOAD_PER_S, UNTIL_STOPPED_S) as load:
        found = _measure(stage, READS_UNDER_LOAD_P99_MS)
        load.stop()
    return {"reads_under_load": found}


def measure_diversity_seen(stage: LoadedSystem) -> dict[str, Any]:
    """``{"recommend": {"diversity_seen": …}}``: the write path idle, the median of three runs at one rate.

    And ``within``: the highest rate that the bounds hold at.
    """
    users = seen_users(stage)
    urls = _urls(stage, users, f"&diversity={DIVERSITY}")
    requests = [get(url, stage.system.key) for url in urls]
    runs = []
    for run in range(_RUNS):
        stage.say(f"diversity and {SEEN:,} seen items at {DIVERSITY_SEEN_RPS:,} rps, run {run + 1} of {_RUNS}")
        runs.append(answered(open_loop(urls[0], requests, DIVERSITY_SEEN_RPS, stage.scale.confirm_s)))
    within = figures(stage, "reads", urls[0], requests, DIVERSITY_SEEN_P99_MS, first=_FIRST_RPS / 2)
    found = median_run(runs) | {"users": len(users), "seen": SEEN, "within": within}
    return {"recommend": {"diversity_seen": found}}


def median_run(runs: Sequence[Result]) -> dict[str, Any]:
    """The figures of the middle one; p99 is of all requests, so that refusing some makes nothing look better."""
    median = statistics.median_low([run.p99_of_all_ms for run in runs])
    chosen = next(run for run in runs if run.p99_of_all_ms == median)
    return {
        "p99_ms": round(chosen.p99_of_all_ms, 2),
        "p50_ms": round(chosen.p50_ms, 2),
        "rps": round(chosen.achieved_rps),
        "refused": sum(run.refused for run in runs),
        "errors": sum(run.errors for run in runs),
        "degraded_share": round(sum(run.degraded for run in runs) / max(1, sum(run.answered for run in runs)), 4),
        "runs_p99_ms": [round(run.p99_of_all_ms, 2) for run in runs],
        "generator_cpu": round(chosen.load_cpu, 2),
        "generator_late_p99_ms": round(chosen.late_p99_ms, 2),
    }


def _measure(stage: LoadedSystem, bounds_ms: tuple[float, float]) -> dict[str, Any]:
    url, requests = reads(stage)
    stage.say(f"warming up: {_WARM_UP_RPS:.0f} reads/s for {stage.scale.warm_reads_s:g} s")
    answered(open_loop(url, requests, _WARM_UP_RPS, stage.scale.warm_reads_s))
    recall = recall_at_50(stage)
    found = figures(stage, "reads", url, requests, bounds_ms, first=_FIRST_RPS)
    return found | {"recall_at_50": round(recall, 4)}


def reads(stage: LoadedSystem) -> tuple[str, list[bytes]]:
    """Requests of many users, in a seeded order; what they have seen is left out of their answers, as by default."""
    numbers = np.random.default_rng(stage.seed).permutation(min(_ASKERS, stage.scale.users))
    urls = _urls(stage, [user_id(number) for number in numbers.tolist()])
    return urls[0], [get(url, stage.system.key) for url in urls]


def _urls(stage: LoadedSystem, users: Sequence[str], more: str = "") -> list[str]:
    return [f"{stage.system.retrieval}/recommend/{user}?k={K}{more}" for user in users]
