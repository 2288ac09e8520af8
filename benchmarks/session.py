"""Measures answers per second for anonymous sessions, whose clicks come in the request and are not stored."""

import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import orjson

from benchmarks.load import post
from benchmarks.rates import figures
from benchmarks.recall import K
from benchmarks.stage import LoadedSystem
from benchmarks.targets import SESSION_P99_MS
from benchmarks.traffic import pairs

EVENTS = 5
_SESSIONS = 2_000  # different ones, asked for in turn
_FIRST_RPS = 300.0
_APART_MS = 10_000


def measure(stage: LoadedSystem) -> dict[str, Any]:
    """``{"session": …}``: POST /recommend with five events each, the write path idle."""
    stage.probe.settle(stage.item_of_probe(0))
    url = stage.system.retrieval
    return {"session": figures(stage, "sessions", url, sessions(stage, url), SESSION_P99_MS, first=_FIRST_RPS)}


def sessions(stage: LoadedSystem, url: str) -> list[bytes]:
    """Whole requests of different sessions to the retrieval at *url*."""
    told = bodies(_SESSIONS, stage.scale.items, stage.seed, now_ms=time.time_ns() // 1_000_000)
    return [post(f"{url}/recommend", body, stage.system.key) for body in told]


def bodies(count: int, items: int, seed: int, *, now_ms: int) -> list[bytes]:
    """*count* sessions of five clicks on popular items, by Zipf's law, seeded; ten seconds apart, the newest now."""
    clicked = (item for _, item in pairs(1, items, seed))
    return [orjson.dumps({"events": _session(list(islice(clicked, EVENTS)), now_ms), "k": K}) for _ in range(count)]


def _session(items: Sequence[str], now_ms: int) -> list[dict[str, Any]]:
    times_ms = range(now_ms - (len(items) - 1) * _APART_MS, now_ms + 1, _APART_MS)
    return [{"item_id": item, "type": "click", "time_ms": at} for item, at in zip(items, times_ms, strict=True)]
