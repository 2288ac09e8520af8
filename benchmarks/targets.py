"""The target of each figure, what it must be and should be, and the verdict on a result."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """One figure: where it stands in the results, what it must be and what it should be (``None``: not bound)."""

    figure: str
    path: tuple[str, ...]
    must: float | None
    goal: float | None
    unit: str
    more_is_better: bool = False

    def measured(self, results: Results) -> float | None:
        """The figure in *results*, or ``None`` if it was not measured."""
        found: Any = results
        for name in self.path:
            if not isinstance(found, Mapping) or name not in found:
                return None
            found = found[name]
        return None if found is None else float(found)

    def verdict(self, results: Results) -> str:
        """``goal``, ``must``, ``missed``, or ``-`` for what was not measured."""
        value = self.measured(results)
        if value is None:
            return "-"
        if self.goal is not None and self._reaches(value, self.goal):
            return "goal"
        if self.must is None:
            return "-" if self.goal is None else "not yet"
        return "must" if self._reaches(value, self.must) else "missed"

    def _reaches(self, value: float, bound: float) -> bool:
        return value >= bound if self.more_is_better else value <= bound


# The bounds on p99 between which the read figures are found: what must be, and what should be (ms).
READS_P99_MS = (5.0, 2.0)
DIVERSITY_SEEN_P99_MS = (8.0, 3.0)
READS_UNDER_LOAD_P99_MS = (20.0, 5.0)
SESSION_P99_MS = (30.0, 10.0)

TARGETS = (
    Target("freshness at 500 clicks/s, p50", ("freshness_ms", "500", "p50"), 100, 25, "ms"),
    Target("freshness at 500 clicks/s, p99", ("freshness_ms", "500", "p99"), 500, 150, "ms"),
    Target("freshness at 2,000 clicks/s, p50", ("freshness_ms", "2000", "p50"), None, None, "ms"),
    Target("freshness at 2,000 clicks/s, p99", ("freshness_ms", "2000", "p99"), None, None, "ms"),
    Target("a backlog of clicks worked off", ("drain_clicks_per_s",), None, None, "/s", True),
    Target("clicks sustained to stored vectors", ("sustained_clicks_per_s",), 2_000, 6_000, "/s", True),
    Target("GET /recommend, p99 <= 5 ms", ("recommend", "idle", "rps"), 1_000, None, "rps", True),
    Target("GET /recommend, p99 <= 2 ms", ("recommend", "idle", "rps_at_goal"), None, 3_500, "rps", True),
    Target("recall@50", ("recommend", "idle", "recall_at_50"), 0.95, None, "", True),
    Target("with diversity and 2,000 seen, p99", ("recommend", "diversity_seen", "p99_ms"), 8, 3, "ms"),
    Target("beside 500 clicks/s, p99 <= 20 ms", ("reads_under_load", "rps"), 500, None, "rps", True),
    Target("beside 500 clicks/s, p99 <= 5 ms", ("reads_under_load", "rps_at_goal"), None, 2_000, "rps", True),
    Target("recall@50 beside 500 clicks/s", ("reads_under_load", "recall_at_50"), 0.95, None, "", True),
    Target("item event to searchable, p99", ("item_searchable_ms", "p99"), 500, 50, "ms"),
    Target("POST /recommend, 5 events, p99 <= 30 ms", ("session", "rps"), 300, None, "rps", True),
    Target("POST /recommend, 5 events, p99 <= 10 ms", ("session", "rps_at_goal"), None, 1_000, "rps", True),
    Target("POST /events, batches of 100", ("events", "batch_per_s"), 5_000, 10_000, "/s", True),
    Target("POST /events, one by one", ("events", "single_per_s"), 800, 2_000, "/s", True),
    Target("overload at twice the capacity: refused, p99", ("overload", "shed_ms", "p99"), 20, 5, "ms"),
    Target("overload: p99 of the kept over steady", ("overload", "kept_over_steady_p99"), 3, 2, "x"),
    Target("overload: memory grown", ("overload", "memory_growth_mib"), 32, None, "MiB"),
    Target("after= that must wait, p99 over freshness", ("after_extra_ms", "p99"), 20, 5, "ms"),
    Target("canary's p50 off the load generator's", ("canary", "p50_off"), 0.1, None, "", False),
    Target("canary's p99 off the load generator's", ("canary", "p99_off"), 0.25, None, "", False),
    Target("instrumentation, share of a click's CPU", ("instrumentation", "click", "share"), 0.05, None, ""),
    Target("instrumentation, share of an answer's CPU", ("instrumentation", "answer", "share"), 0.05, None, ""),
    Target("memory in all (PSS)", ("rss_mib", "total"), 4_096, 2_048, "MiB"),
)
