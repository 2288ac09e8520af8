"""Does the canary tell the truth? Its percentiles beside those of the load generator, of the same system at one time.

Both send a click by POST /events and ask once for an answer that has used it. The load generator keeps each time; the
canary's are read from its histogram, as Prometheus and the screens read them.
"""

import asyncio
import http.client
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson

from benchmarks.stage import UNTIL_STOPPED_S, Stage
from local.layout import ROOT, environment_python
from local.ports import HOST
from local.processes import wait_until
from nearline.adapters.parts import PartsMetrics
from nearline.errors import Unavailable
from nearline.live import Pages, figures_between

EVERY_S = 0.2  # of either: together ten clicks a second, beside the load
RATE = 100
_LEAD_S = 3.0
_WAIT_MS = 5_000
_USERS = 16
_JSON = {"Content-Type": "application/json"}


def measure(stage: Stage) -> dict[str, Any]:
    """``{"canary": {p50, p99, generator, p50_off, p99_off, …}}``: ms, and by which part the canary's are off."""
    stage.probe.settle(stage.item_of_probe(0))
    stage.say(f"{stage.scale.canary_clicks:,} clicks of the canary beside as many of the load generator")
    with stage.steady_load(RATE, UNTIL_STOPPED_S) as load, _canary(stage):
        time.sleep(_LEAD_S)
        before, started = _pages(stage), time.monotonic()
        took = _clicks(stage, stage.scale.canary_clicks)
        after, seconds = _pages(stage), time.monotonic() - started
        load.stop()
    figures = figures_between(before, after, seconds)
    if figures.canary is None:
        raise Unavailable("the canary timed no click; see its log")
    p50, p99 = (float(ms) for ms in np.percentile(took, [50, 99]) * 1000)
    told = {"p50": figures.canary.p50_s * 1000, "p99": figures.canary.p99_s * 1000}
    return {
        "canary": {
            **{name: round(ms, 2) for name, ms in told.items()},
            "clicks": figures.canary.count,
            "outcomes": dict(figures.canary_clicks),
            "generator": {"p50": round(p50, 2), "p99": round(p99, 2), "clicks": len(took)},
            "p50_off": round(abs(told["p50"] / p50 - 1), 4),
            "p99_off": round(abs(told["p99"] / p99 - 1), 4),
        }
    }


def _clicks(stage: Stage, count: int) -> list[float]:
    """Seconds of each of *count* clicks of the load generator, exactly."""
    pause = random.Random(stage.seed)
    shop = _Shop(stage)
    took = []
    for number in range(count):
        started = time.perf_counter()
        took.append(shop.click_to_answer(f"beside-{number % _USERS}", stage.item_of_probe(number)))
        rest = EVERY_S * pause.uniform(0.8, 1.2) - (time.perf_counter() - started)
        time.sleep(max(0.0, rest))
    return took


class _Shop:
    """Clicks and answers over one connection to each service."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._headers = {"Authorization": f"Bearer {stage.system.key}", **_JSON}
        self._ingest = http.client.HTTPConnection(urlsplit(stage.system.ingest).netloc, timeout=10)

    def click_to_answer(self, user_id: str, item_id: str) -> float:
        """Seconds from before the click is sent to the answer that has used it."""
        started = time.perf_counter()
        event = self._stage.probe.click(user_id, item_id)
        body = {"event_id": event.event_id, "user_id": user_id, "item_id": item_id, "type": "click"}
        self._ingest.request("POST", "/events", orjson.dumps(body), self._headers)
        response = self._ingest.getresponse()
        said = response.read()
        if response.status != 200:
            raise Unavailable(f"POST /events answered {response.status}: {said[:200]!r}")
        answer = self._stage.probe.ask(user_id, after=event.event_id, wait_ms=_WAIT_MS, exclude_seen="none")
        took = time.perf_counter() - started
        if not answer["fresh"]:
            raise Unavailable(f"no answer used {event.event_id} within {_WAIT_MS} ms; this came: {answer!r:.300}")
        return took


@contextmanager
def _canary(stage: Stage) -> Iterator[None]:
    """The canary of the system under test as a process, answering; ended at the end."""
    environment = {**stage.system.environment(), "NEARLINE_CANARY_EVERY_S": str(EVERY_S)}
    command = ["nice", "-n", "5", str(environment_python("services")), "-m", "services.canary"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        url = f"http://{HOST}:{stage.system.ports.canary}"
        if not wait_until(lambda: asyncio.run(_read({"canary": url}))["canary"] is not None, 30.0):
            raise Unavailable(f"the canary did not answer on {url}")
        yield
    finally:
        process.terminate()
        process.wait(10)


def _pages(stage: Stage) -> Pages:
    return asyncio.run(_read({"canary": f"http://{HOST}:{stage.system.ports.canary}"}))


async def _read(addresses: dict[str, str]) -> Pages:
    async with PartsMetrics(addresses) as metrics:
        return await metrics.read()
