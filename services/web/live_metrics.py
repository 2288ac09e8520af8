"""The system's live figures: read every two seconds while a page shows them, kept, and sent to the open pages."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from nearline.live import Delay, LiveFigures, LiveWindow, MetricsPages
from services.web.histories import now_ms
from services.web.templating import milliseconds

EVERY_S = 2.0
UNWATCHED_S = 20.0  # between two readings while no page shows them: each costs every part about 20 ms
KEPT = 300  # readings: ten minutes while a page shows them


class LiveMetrics:
    """Reads the parts' metrics with *read*; the figures name the parts that are down."""

    def __init__(
        self,
        read: Callable[[], Awaitable[MetricsPages]],
        *,
        every_s: float = EVERY_S,
        wall_ms: Callable[[], int] = now_ms,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._every_s = every_s
        self._wall_ms = wall_ms
        self._clock = clock
        self._window = LiveWindow()
        self.figures: LiveFigures | None = None
        self.points: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._beat = asyncio.Condition()
        self._read_at = -UNWATCHED_S
        self._is_watched = False  # a page asked for figures since the last reading, or waits for the next

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            if self._is_watched or self._clock() - self._read_at >= UNWATCHED_S:
                await self.beat()
            await asyncio.sleep(self._every_s)

    async def beat(self) -> None:
        """Read once, and notify the waiting pages."""
        self._is_watched, self._read_at = False, self._clock()
        self.figures = self._window.add(self._read_at, await self._read())
        self.points.append(point_of(self.figures, self._wall_ms()))
        async with self._beat:
            self._beat.notify_all()

    async def next(self) -> dict[str, Any]:
        """The next reading's point."""
        self._is_watched = True
        async with self._beat:
            await self._beat.wait()
        return self.points[-1]

    def words(self) -> Mapping[str, str]:
        """The figures on the shop's page, as text by name; figures without data in the last minute are left out."""
        self._is_watched = True
        figures = self.figures
        if figures is None:
            return {}
        texts = {
            "click → answer, p50 of the last minute": _p50(figures.canary),
            "click → vector stored, p50": _p50(figures.freshness),
            "an answer takes, p50": _p50(figures.answers),
            "answers a second": _number(figures.answers_per_s),
            "live recall@10": _share(figures.recall.get(10)),
        }
        return {name: text for name, text in texts.items() if text is not None}


def point_of(figures: LiveFigures, at_ms: int) -> dict[str, Any]:
    """One point of the charts, delays in milliseconds; ``None`` for unknown figures."""
    delays = {"freshness": figures.freshness, "answers": figures.answers, "canary": figures.canary}
    point: dict[str, Any] = {"at_ms": at_ms}
    for name, delay in delays.items():
        point |= {f"{name}_p50": None, f"{name}_p99": None}
        if delay is not None:
            point |= {f"{name}_p50": delay.p50_s * 1000, f"{name}_p99": delay.p99_s * 1000}
    point |= {"stages": {stage: delay.p50_s * 1000 for stage, delay in figures.stages.items()}}
    wanted = ("clicks_per_s", "events_per_s", "answers_per_s", "fallback_share", "lag", "recall", "index_items",
              "delta_rows", "cache_hit_rate", "dead_letters", "canary_up", "down")  # fmt: skip
    values = asdict(figures)
    return point | {name: values[name] for name in wanted} | {"recall": {str(k): v for k, v in figures.recall.items()}}


def _p50(delay: Delay | None) -> str | None:
    return None if delay is None else milliseconds(delay.p50_s)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:,.1f}"


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
