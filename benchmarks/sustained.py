"""Measures the sustained rate of clicks to stored vectors, and how fast a backlog is processed."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from benchmarks.search import highest_passing
from benchmarks.stage import LoadedSystem

_LAG_S = 1.0  # the limit for the last clicks after half a minute: above it the lag grows
_SENT_SHARE = 0.97  # below it the generator was delayed and did not offer that rate
_STEP = 100  # rates are tried in whole hundreds


def measure(stage: LoadedSystem) -> dict[str, Any]:
    """The drain of a backlog, then the highest offered rate whose lag is small at its end and returns to zero."""
    drained = _drain(stage)
    trials: list[dict[str, float]] = []

    def sustained(rate: float) -> bool:
        trial = _offer(stage, max(_STEP, round(rate / _STEP) * _STEP))
        trials.append(trial)
        return trial["lag_s"] <= _LAG_S and trial["sent_per_s"] >= _SENT_SHARE * trial["offered_per_s"]

    best = highest_passing(sustained, first=drained * 0.8, factor=1.25, precision=0.05, most_trials=5)
    passed = [t for t in trials if best is not None and t["offered_per_s"] == round(best / _STEP) * _STEP]
    return {
        "sustained_clicks_per_s": round(passed[-1]["sent_per_s"]) if passed else 0,
        "sustained_trials": trials,
        "drain_clicks_per_s": round(drained),
    }


def _offer(stage: LoadedSystem, rate: float) -> dict[str, float]:
    stage.say(f"offering {rate:,.0f} clicks/s for {stage.scale.offer_s:g} s")
    with stage.steady_load(rate, stage.scale.offer_s) as load:
        sent = load.finish()
    lag_s = stage.probe.settle(stage.item_of_probe(0))
    return {"offered_per_s": rate, "sent_per_s": round(sent.rate, 1), "lag_s": round(lag_s, 3)}


def _drain(stage: LoadedSystem) -> float:
    """Clicks a second at which a backlog becomes stored vectors: the job is held still while it builds up."""
    stage.say(f"working off a backlog of {stage.scale.backlog:,} clicks")
    with held_still(stage.system.supervisor.pid_of("last_n")), stage.flood(stage.scale.backlog) as flood:
        flood.finish()
    started = time.perf_counter()
    stage.probe.settle(stage.item_of_probe(1))
    return stage.scale.backlog / (time.perf_counter() - started)


@contextmanager
def held_still(pid: int) -> Iterator[None]:
    """Suspend the process and its descendants during the block."""
    root = psutil.Process(pid)
    family = [root.pid, *(child.pid for child in root.children(recursive=True))]
    for one in family:
        os.kill(one, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in family:
            os.kill(one, signal.SIGCONT)
