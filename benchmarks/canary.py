"""Checks the canary's accuracy: its percentiles beside the load generator's, for the same system at the same time.

Both send a click by POST /events and request once an answer that has used it. The load generator stores each time; the
canary's percentiles come from its histogram, as in Prometheus and on the screens.
"""

import asyncio
import http.client
import random
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson

from benchmarks.stage import UNTIL_STOPPED_S, LoadedSystem
from local.layout import ROOT, environment_python
from local.ports import HOST
from local.processes import wait_until
from nearline.adapters.metrics_reader import MetricsReader
from nearline.errors import Unavailable
from nearline.live import MetricsPages, figures_between

EVERY_S = 0.2  # of either: together ten clicks a second, beside the load
RATE = 100
_LEAD_S = 3.0
_WAIT_MS = 5_000
_USERS = 16
_AT_ONCE = 8
_JSON = {"Content-Type": "application/json"}


def measure(stage: LoadedSystem) -> dict[str, Any]:
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


def _clicks(stage: LoadedSystem, count: int) -> list[float]:
    """The exact seconds of each of the load generator's *count* clicks; a slow one does not delay others."""
    pause = random.Random(stage.seed)
    shop = _Shop(stage)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        clicks = []
        for number in range(count):
            clicks.append(pool.submit(shop.click_to_answer, f"beside-{number % _USERS}", stage.item_of_probe(number)))
            time.sleep(EVERY_S * pause.uniform(0.8, 1.2))
        return [click.result() for click in clicks]


class _Shop:
    """Clicks and answers, of each thread over one connection to each service."""

    def __init__(self, stage: LoadedSystem) -> None:
        self._headers = {"Authorization": f"Bearer {stage.system.key}", **_JSON}
        self._ingest, self._retrieval = (urlsplit(url).netloc for url in (stage.system.ingest, stage.system.retrieval))
        self._mine = threading.local()

    def click_to_answer(self, user_id: str, item_id: str) -> float:
        """Seconds from before the click is sent to the answer that has used it."""
        event_id = f"beside-{uuid.uuid4().hex}"
        body = orjson.dumps({"event_id": event_id, "user_id": user_id, "item_id": item_id, "type": "click"})
        path = f"/recommend/{user_id}?k=10&exclude_seen=none&fields=title&after={event_id}&wait_ms={_WAIT_MS}"
        started = time.perf_counter()
        self._asked(self._ingest, "POST", "/events", body)
        answer = orjson.loads(self._asked(self._retrieval, "GET", path))
        took = time.perf_counter() - started
        if not answer["fresh"]:
            raise Unavailable(f"no answer used {event_id} within {_WAIT_MS} ms; this came: {answer!r:.300}")
        return took

    def _asked(self, where: str, method: str, path: str, body: bytes | None = None) -> bytes:
        try:
            return self._exchange(where, method, path, body)
        except (http.client.HTTPException, ConnectionError):
            vars(self._mine).pop(where)  # it closes a connection idle for five seconds
            return self._exchange(where, method, path, body)

    def _exchange(self, where: str, method: str, path: str, body: bytes | None) -> bytes:
        kept = vars(self._mine)
        if where not in kept:
            kept[where] = http.client.HTTPConnection(where, timeout=10)
        kept[where].request(method, path, body, self._headers)
        response = kept[where].getresponse()
        said: bytes = response.read()
        if response.status != 200:
            raise Unavailable(f"{method} {path} answered {response.status}: {said[:200]!r}")
        return said


@contextmanager
def _canary(stage: LoadedSystem) -> Iterator[None]:
    """Run the canary of the system under test as a process; stop it at the end."""
    environment = {**stage.system.environment(), "NEARLINE_CANARY_EVERY_S": str(EVERY_S)}
    command = [str(environment_python("services")), "-m", "services.canary"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        url = f"http://{HOST}:{stage.system.ports.canary}"
        if not wait_until(lambda: asyncio.run(_read({"canary": url}))["canary"] is not None, 30.0):
            raise Unavailable(f"the canary did not answer on {url}")
        yield
    finally:
        process.terminate()
        process.wait(10)


def _pages(stage: LoadedSystem) -> MetricsPages:
    return asyncio.run(_read({"canary": f"http://{HOST}:{stage.system.ports.canary}"}))


async def _read(addresses: dict[str, str]) -> MetricsPages:
    async with MetricsReader(addresses) as metrics:
        return await metrics.read()
