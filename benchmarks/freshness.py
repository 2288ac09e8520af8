"""Measures freshness under load: from just before a click is sent to the first answer that used it."""

import random
import time
from typing import Any

from benchmarks.probe import percentiles_ms
from benchmarks.stage import UNTIL_STOPPED_S, LoadedSystem

RATES = (100, 500, 2_000)
_USERS = 10  # of the probe, apart from the load's
_LEAD_S = 3.0  # the load runs for so long before the first probe
_PAUSE_S = (0.05, 0.25)  # random pause between two probes, so that they do not synchronise with anything


def measure(stage: LoadedSystem) -> dict[str, Any]:
    """``{"freshness_ms": {rate: {p50, p99, max}}}``."""
    return {"freshness_ms": {str(rate): _at(stage, rate) for rate in RATES}}


def _at(stage: LoadedSystem, rate: int) -> dict[str, float]:
    stage.say(f"freshness beside {rate:,} clicks/s")
    pause = random.Random(stage.seed)
    took = []
    with stage.steady_load(rate, UNTIL_STOPPED_S) as load:
        time.sleep(_LEAD_S)
        for number in range(stage.scale.probes):
            took.append(stage.probe.click_to_answer(f"probe-{number % _USERS}", stage.item_of_probe(number)))
            time.sleep(pause.uniform(*_PAUSE_S))
        load.stop()
    stage.probe.settle(stage.item_of_probe(0))
    return percentiles_ms(took)
