"""Live figures: what the parts' metrics say of the moment, for a screen that follows the running system.

A page is what one part shows at /metrics. Everything here is pure: pages of two moments in, figures of the time between
them out. A counter that fell belongs to a part that was started anew, and counts from nothing again, as Prometheus
does it. What nobody can say yet is ``None``; a part whose page is missing is named and leaves its figures out.
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
    """Percentiles of a delay in seconds, and of how many."""

    p50_s: float
    p99_s: float
    count: float


@dataclass(frozen=True, slots=True)
class LiveFigures:
    """The system between two moments, *seconds* apart.

    *freshness* is from a click's ``produced_ms`` to its vector stored, *stages* its parts (append, sequence, vector).
    *lag* is what each part has in the log and has not read; *dead_letters* count since the parts' start, by reason.
    *recall* is by k, of *recall_samples* queries.
    """

    seconds: float
    freshness: Delay | None = None
    stages: Mapping[str, Delay] = field(default_factory=dict)
    clicks_per_s: float | None = None  # sequences that came to user_tower: clicks that changed something
    events_per_s: float | None = None  # that came by HTTP
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
    """The samples in *text* (Prometheus' format) that a figure needs; ``ValueError`` if it is no such text."""
    page: dict[str, dict[LabelSet, float]] = defaultdict(dict)
    # Most of a page is of no use here, and parsing is what costs.
    lines = "\n".join(line for line in text.splitlines() if line.startswith(_WANTED))
    for family in text_string_to_metric_families(lines):
        for sample in family.samples:
            page[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    return dict(page)


def figures_between(before: MetricsPages, after: MetricsPages, seconds: float) -> LiveFigures:
    """What *after* says, and what came about since *before*, which was *seconds* earlier."""
    now = _merged(after)
    # Of a part that did not answer then, nobody knows what came about since.
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
    """The figures of the last *seconds*, as pages come in."""

    def __init__(self, seconds: float = WINDOW_S) -> None:
        self._seconds = seconds
        self._kept: deque[tuple[float, MetricsPages]] = deque()

    def add(self, now_s: float, pages: MetricsPages) -> LiveFigures:
        """Take in what was read at *now_s*, by a clock that never goes back; the figures of the window that ends then.

        The first pages have nothing before them: they tell how things stand, and of no rate.
        """
        self._kept.append((now_s, pages))
        while len(self._kept) > 1 and self._kept[1][0] <= now_s - self._seconds:
            self._kept.popleft()
        then_s, then = self._kept[0]
        return figures_between(then, pages, now_s - then_s)


def quantile(buckets: Mapping[float, float], q: float) -> float | None:
    """Quantile *q* of a histogram, by its cumulated *buckets* (upper bound -> count), or ``None`` without a sample.

    Within a bucket linear, as Prometheus' ``histogram_quantile``; beyond the last bound there is only that bound.
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
    """The samples of all *pages*; but for lag, the names of different parts do not meet."""
    merged: dict[str, dict[LabelSet, float]] = defaultdict(dict)
    for page in pages.values():
        for name, samples in (page or {}).items():
            merged[name].update(samples)
    return dict(merged)


def _grown(then: MetricsPage, now: MetricsPage, name: str) -> Mapping[LabelSet, float]:
    """By how much each sample of a counter grew; all of it counts if any fell, for then its process is a new one."""
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
    """The share of answers that were not wholly personal."""
    by_reason = _by(answers, "reason")
    total = sum(by_reason.values())
    return 1 - by_reason.get("none", 0.0) / total if total else None


def _stages(then: MetricsPage, now: MetricsPage) -> dict[str, Delay]:
    stages = _by(now.get("nearline_click_stage_seconds_count", {}), "stage")
    found = {stage: _delay(then, now, "nearline_click_stage_seconds", stage=stage) for stage in stages}
    return {stage: delay for stage, delay in found.items() if delay is not None}


def _delay(then: MetricsPage, now: MetricsPage, name: str, **wanted: str) -> Delay | None:
    """The percentiles of what a histogram, or its samples with the labels *wanted*, counted meanwhile."""
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
    """Where each part's metrics are: *defaults*, but for what *told* says (``part=url, part=url``).

    ``ValueError`` naming what of *told* is no such pair.
    """
    urls = dict(defaults)
    for pair in filter(None, (each.strip() for each in told.split(","))):
        part, _, url = pair.partition("=")
        if part not in urls or not url.startswith(("http://", "https://")):
            raise ValueError(f"{pair!r}: expected part=http://host:port with one of {', '.join(urls)}")
        urls[part] = url.rstrip("/")
    return urls
