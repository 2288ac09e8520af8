"""Live figures from the parts' metrics, for a screen that follows the running system.

A page is one part's /metrics. Everything here is pure: it computes figures from the pages of two moments. A counter
that fell belongs to a restarted part and counts from 0 again, as in Prometheus. An unknown figure is ``None``; a part
whose page is missing is named, and its figures are unknown.
"""

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

LabelSet = tuple[tuple[str, str], ...]  # sorted
MetricsPage = Mapping[str, Mapping[LabelSet, float]]  # sample's name -> labels -> value
MetricsPages = Mapping[str, MetricsPage | None]  # part -> its page, None if it did not answer

PARTS = ("ingest", "last_n", "user_tower", "item_tower", "retrieval", "canary")
WINDOW_S = 60.0

_LAGS = {
    "last_n": ("flink_taskmanager_job_task_operator_pendingRecords",),
    "user_tower": ("nearline_lag_records",),
    "item_tower": ("nearline_lag_records",),
    "retrieval": ("nearline_lag_records",),
}
_DEAD_LETTERS = {
    "last_n": "flink_taskmanager_job_task_operator_reason_nearline_refused",
    "user_tower": "nearline_sequences_refused_total",
    "item_tower": "nearline_items_refused_total",
}
_OTHERS = (
    "nearline_click_to_servable_seconds",
    "nearline_click_stage_seconds",
    "nearline_canary_",
    "nearline_sequences_total",
    "nearline_ingest_events_accepted_total",
    "nearline_recommend_seconds",
    "nearline_recommend_answers_total",
    "nearline_index_",
    "nearline_user_cache_",
)
_WANTED = (*(name for names in _LAGS.values() for name in names), *_DEAD_LETTERS.values(), *_OTHERS)


@dataclass(frozen=True, slots=True)
class Delay:
    """Percentiles of a delay in seconds, and the number of samples."""

    p50_s: float
    p99_s: float
    count: float


@dataclass(frozen=True, slots=True)
class LiveFigures:
    """The system between two moments, *seconds* apart.

    *freshness* is from a click's ``produced_ms`` to its stored vector, *stages* its parts (append, sequence, vector).
    *lag* is each part's number of unread records; *dead_letters* count since the parts' start, by reason. *recall* is
    by k, of *recall_samples* queries.
    """

    seconds: float
    freshness: Delay | None = None
    stages: Mapping[str, Delay] = field(default_factory=dict)
    clicks_per_s: float | None = None  # sequences that user_tower read: clicks that changed something
    events_per_s: float | None = None  # received by HTTP
    answers_per_s: float | None = None
    answers: Delay | None = None
    fallback_share: float | None = None
    lag: Mapping[str, float] = field(default_factory=dict)
    recall: Mapping[int, float] = field(default_factory=dict)
    recall_samples: float = 0.0
    index_items: float | None = None
    delta_rows: float | None = None
    cache_hit_rate: float | None = None
    dead_letters: Mapping[str, float] = field(default_factory=dict)
    canary: Delay | None = None
    canary_up: bool | None = None
    canary_clicks: Mapping[str, float] = field(default_factory=dict)  # by outcome, between the moments
    down: tuple[str, ...] = ()


def read_page(text: str) -> MetricsPage:
    """The samples in *text* (Prometheus' format) that a figure needs; ``ValueError`` if *text* has another format."""
    page: dict[str, dict[LabelSet, float]] = defaultdict(dict)
    # Most of a page is not needed here, and parsing is expensive.
    lines = "\n".join(line for line in text.splitlines() if line.startswith(_WANTED))
    for family in text_string_to_metric_families(lines):
        for sample in family.samples:
            page[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    return dict(page)


def figures_between(before: MetricsPages, after: MetricsPages, seconds: float) -> LiveFigures:
    """The figures at *after*, and of the *seconds* since *before*."""
    now = _merged(after)
    # For a part that did not answer at *before*, the changes since then are unknown.
    known = {part: page if before.get(part) is None else before[part] for part, page in after.items()}
    then = _merged({part: known[part] for part, page in after.items() if page is not None})
    answers = _grown(then, now, "nearline_recommend_answers_total")
    hits = _rise(then, now, "nearline_user_cache_hits_total")
    looked_up = hits + _rise(then, now, "nearline_user_cache_misses_total")
    has_passed = seconds > 0

    def rate(name: str) -> float | None:
        return _rise(then, now, name) / seconds if has_passed and name in now else None

    return LiveFigures(
        seconds=seconds,
        freshness=_delay(then, now, "nearline_click_to_servable_seconds"),
        stages=_stages(then, now),
        clicks_per_s=rate("nearline_sequences_total"),
        events_per_s=rate("nearline_ingest_events_accepted_total"),
        answers_per_s=rate("nearline_recommend_seconds_count"),
        answers=_delay(then, now, "nearline_recommend_seconds"),
        fallback_share=_share(answers),
        lag={part: sum(_sum(after[part], name) for name in names) for part, names in _LAGS.items() if after.get(part)},
        recall={int(dict(labels)["k"]): value for labels, value in now.get("nearline_index_recall_ratio", {}).items()},
        recall_samples=_sum(now, "nearline_index_recall_samples"),
        index_items=_told(now, "nearline_index_items"),
        delta_rows=_told(now, "nearline_index_delta_rows"),
        cache_hit_rate=hits / looked_up if looked_up else None,
        dead_letters=_dead_letters(now),
        canary=_delay(then, now, "nearline_canary_click_to_answer_seconds"),
        canary_up=None if (up := _told(now, "nearline_canary_up")) is None else up > 0,
        canary_clicks=_by(_grown(then, now, "nearline_canary_clicks_total"), "outcome"),
        down=tuple(part for part, page in after.items() if page is None),
    )


class LiveWindow:
    """The figures of the last *seconds*, updated with each reading of the pages."""

    def __init__(self, seconds: float = WINDOW_S) -> None:
        self._seconds = seconds
        self._kept: deque[tuple[float, MetricsPages]] = deque()

    def add(self, now_s: float, pages: MetricsPages) -> LiveFigures:
        """Add *pages* read at *now_s* (a monotonic clock); return the figures of the window that ends then.

        The first pages give current values only, and no rates.
        """
        self._kept.append((now_s, pages))
        while len(self._kept) > 1 and self._kept[1][0] <= now_s - self._seconds:
            self._kept.popleft()
        then_s, then = self._kept[0]
        return figures_between(then, pages, now_s - then_s)


def quantile(buckets: Mapping[float, float], q: float) -> float | None:
    """Quantile *q* of a histogram, by its cumulated *buckets* (upper bound -> count), or ``None`` without a sample.

    Linear within a bucket, as Prometheus' ``histogram_quantile``; beyond the last bound the result is that bound.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    rank = q * buckets[bounds[-1]]
    below_bound = below = 0.0
    for bound in bounds:
        if buckets[bound] >= rank and buckets[bound] > below:
            if math.isinf(bound):
                return below_bound
            return below_bound + (bound - below_bound) * (rank - below) / (buckets[bound] - below)
        below_bound, below = bound, buckets[bound]
    return below_bound


def _merged(pages: MetricsPages) -> dict[str, dict[LabelSet, float]]:
    """The samples of all *pages*; except for lag, parts have no metric names in common."""
    merged: dict[str, dict[LabelSet, float]] = defaultdict(dict)
    for page in pages.values():
        for name, samples in (page or {}).items():
            merged[name].update(samples)
    return dict(merged)


def _grown(then: MetricsPage, now: MetricsPage, name: str) -> Mapping[LabelSet, float]:
    """The increase of each sample of a counter; if one fell, the process was restarted and its full value counts."""
    before, after = then.get(name, {}), now.get(name, {})
    if any(value < before.get(labels, 0.0) for labels, value in after.items()):
        return after
    return {labels: value - before.get(labels, 0.0) for labels, value in after.items()}


def _rise(then: MetricsPage, now: MetricsPage, name: str) -> float:
    return sum(_grown(then, now, name).values())


def _sum(page: MetricsPage | None, name: str) -> float:
    return sum((page or {}).get(name, {}).values())


def _told(page: MetricsPage, name: str) -> float | None:
    return _sum(page, name) if name in page else None


def _by(samples: Mapping[LabelSet, float], label: str) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for labels, value in samples.items():
        sums[dict(labels).get(label, "")] += value
    return dict(sums)


def _share(answers: Mapping[LabelSet, float]) -> float | None:
    """The share of answers that were not fully personalised."""
    by_reason = _by(answers, "reason")
    total = sum(by_reason.values())
    return 1 - by_reason.get("none", 0.0) / total if total else None


def _stages(then: MetricsPage, now: MetricsPage) -> dict[str, Delay]:
    stages = _by(now.get("nearline_click_stage_seconds_count", {}), "stage")
    found = {stage: _delay(then, now, "nearline_click_stage_seconds", stage=stage) for stage in stages}
    return {stage: delay for stage, delay in found.items() if delay is not None}


def _delay(then: MetricsPage, now: MetricsPage, name: str, **wanted: str) -> Delay | None:
    """The percentiles of a histogram's new samples between *then* and *now*, or of those with the labels *wanted*."""
    buckets: dict[float, float] = defaultdict(float)
    for labels, value in _grown(then, now, f"{name}_bucket").items():
        told = dict(labels)
        if all(told.get(label) == value for label, value in wanted.items()):
            buckets[float(told["le"])] += value
    p50_s, p99_s = quantile(buckets, 0.5), quantile(buckets, 0.99)
    if p50_s is None or p99_s is None:
        return None
    return Delay(p50_s, p99_s, max(buckets.values()))


def _dead_letters(now: MetricsPage) -> dict[str, float]:
    counts: dict[str, float] = defaultdict(float)
    for name in _DEAD_LETTERS.values():
        for reason, count in _by(now.get(name, {}), "reason").items():
            counts[reason] += count
    return {reason: count for reason, count in counts.items() if count}


def metrics_urls(told: str, defaults: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The URL of each part's metrics: *defaults*, overridden by *told* (``part=url, part=url``).

    ``ValueError`` names a malformed pair of *told*.
    """
    urls = dict(defaults)
    for pair in filter(None, (each.strip() for each in told.split(","))):
        part, _, url = pair.partition("=")
        if part not in urls or not url.startswith(("http://", "https://")):
            raise ValueError(f"{pair!r}: expected part=http://host:port with one of {', '.join(urls)}")
        urls[part] = url.rstrip("/")
    return urls
