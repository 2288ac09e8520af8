"""How many anonymous sessions a second get an answer? Their clicks come in the request, and nothing is stored."""

from itertools import islice
from typing import Any

import orjson

from benchmarks.load import post
from benchmarks.rates import figures
from benchmarks.recall import K
from benchmarks.stage import Stage
from benchmarks.targets import SESSION_P99_MS
from benchmarks.traffic import pairs

EVENTS = 5
_SESSIONS = 2_000  # different ones, asked for in turn
_FIRST_RPS = 300.0


def measure(stage: Stage) -> dict[str, Any]:
    """``{"session": …}``: POST /recommend with five events each, the write path idle."""
    stage.probe.settle(stage.item_of_probe(0))
    url = f"{stage.system.retrieval}/recommend"
    requests = [post(url, body, stage.system.key) for body in bodies(_SESSIONS, stage.scale.items, stage.seed)]
    return {"session": figures(stage, "sessions", url, requests, SESSION_P99_MS, first=_FIRST_RPS)}


def bodies(count: int, items: int, seed: int) -> list[bytes]:
    """*count* sessions of five clicks on popular items, by Zipf's law, seeded."""
    clicked = (item for _, item in pairs(1, items, seed))
    return [
        orjson.dumps({"events": [{"item_id": item} for item in islice(clicked, EVENTS)], "k": K}) for _ in range(count)
    ]
