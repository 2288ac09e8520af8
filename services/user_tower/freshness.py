"""Measures the delay of every real click until its vector is stored.

A replayed click is not measured: clicks produced longer ago than ``MOST_MS`` are left out and counted, as are a test's
events and those of a producer whose clock is ahead of the log's (nearline/events.py). The times come from three clocks
(the producer's, the log's, this process's), so a stage may be below 0; it counts as 0.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nearline.events import is_ahead
from nearline.sequences import TriggerEvent
from nearline.telemetry import FINE_BUCKETS_S, counter, seconds
from nearline.tracing import About, Spans, note
from services.user_tower.documents import Arrived, News

MOST_MS = 300_000

_STAGES = seconds(
    "click_stage_seconds",
    "A click's stages: produced to appended, appended to its sequence appended, that to its vector stored",
    "stage",
    known=("append", "sequence", "vector"),
    buckets=FINE_BUCKETS_S,
)
APPEND, SEQUENCE, VECTOR = (_STAGES.labels(stage) for stage in ("append", "sequence", "vector"))
SERVABLE = seconds(
    "click_to_servable_seconds", "From a click's produced_ms to its stored vector", buckets=FINE_BUCKETS_S
)
_LEFT_OUT = counter(
    "click_delays_left_out_total",
    "Clicks without a measured delay, by why",
    "reason",
    known=("synthetic", "old", "ahead"),
)
SYNTHETIC, OLD, AHEAD = (_LEFT_OUT.labels(reason) for reason in ("synthetic", "old", "ahead"))


class Laps:
    """When each step of a batch ended, in ns; the first begins when this is created."""

    def __init__(self) -> None:
        self.started_ns = time.time_ns()
        self.ended_ns: list[tuple[str, int]] = []

    def end(self, step: str) -> None:
        """Note that *step* ends now."""
        self.ended_ns.append((step, time.time_ns()))


class Freshness:
    """Observes clicks' delays, and records traced clicks in *spans*."""

    def __init__(self, spans: Spans | None = None) -> None:
        self._spans = spans

    def stored(
        self, chunk: Mapping[str, News], vectors: Mapping[str, NDArray[np.float32]], laps: Laps
    ) -> dict[str, TriggerEvent]:
        """Measure the clicks of *chunk*, whose *vectors* are now stored; return each user's click for the update.

        Each click is measured once, then removed from its news.
        """
        now_ns = time.time_ns()
        told: dict[str, TriggerEvent] = {}
        for user_id in vectors:
            arrived = chunk[user_id].arrived
            if arrived:
                told[user_id] = self._tell(arrived, now_ns, laps)
                chunk[user_id].arrived = []
        return told

    def _tell(self, arrived: Sequence[Arrived], now_ns: int, laps: Laps) -> TriggerEvent:
        for cause, appended_ms in arrived:
            _observe(cause, appended_ms, now_ns // 1_000_000)
        newest = arrived[-1].cause
        traced = self._noted(arrived, now_ns, laps) if self._spans is not None else None
        return traced or (replace(newest, traceparent="") if newest.traceparent else newest)

    def _noted(self, arrived: Iterable[Arrived], now_ns: int, laps: Laps) -> TriggerEvent | None:
        """Record the spans of traced clicks; return the newest one, with its vector's traceparent."""
        newest = None
        for cause, appended_ms in arrived:
            if cause.traceparent:
                newest = replace(cause, traceparent=self._note(cause, appended_ms, now_ns, laps))
        return newest

    def _note(self, cause: TriggerEvent, appended_ms: int, now_ns: int, laps: Laps) -> str:
        assert self._spans is not None
        appended_ns = appended_ms * 1_000_000
        about: dict[str, About] = {"event_id": cause.event_id, "synthetic": cause.synthetic}
        # The job has no tracer: its span is made from its records' times in the log.
        job = note(self._spans, "last_n", cause.appended_ms * 1_000_000, appended_ns, cause.traceparent, **about)
        tower = self._spans.begin("user_tower", appended_ns, job)
        started_ns = laps.started_ns
        for step, ended_ns in laps.ended_ns:
            note(self._spans, step, started_ns, ended_ns, tower.traceparent)
            started_ns = ended_ns
        tower.end(now_ns, **about)
        return tower.traceparent


def _observe(cause: TriggerEvent, appended_ms: int, now_ms: int) -> None:
    if cause.synthetic:
        SYNTHETIC.inc()
    elif now_ms - cause.produced_ms > MOST_MS:
        OLD.inc()
    elif is_ahead(cause.produced_ms, cause.appended_ms):
        AHEAD.inc()
    else:
        APPEND.observe(max(0, cause.appended_ms - cause.produced_ms) / 1000)
        SEQUENCE.observe(max(0, appended_ms - cause.appended_ms) / 1000)
        VECTOR.observe(max(0, now_ms - appended_ms) / 1000)
        SERVABLE.observe(max(0, now_ms - cause.produced_ms) / 1000)
