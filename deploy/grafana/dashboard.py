"""The dashboard: what it shows, in the order of the flow, and its JSON for Grafana.

    python deploy/grafana/dashboard.py > deploy/grafana/dashboards/nearline.json

The JSON is committed, since Grafana reads it; a test compares the two. Standard library only.
"""

import json
from dataclasses import dataclass

WIDTH, HEIGHT = 8, 7


@dataclass(frozen=True)
class Panel:
    """One graph: its queries as (PromQL, legend), the unit by Grafana's name, and what to read from it."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    about: str


def quantile(q: float, histogram: str) -> str:
    """The *q* quantile of a histogram of ours over the last minute."""
    return f"histogram_quantile({q}, sum by (le) (rate({histogram}_bucket[1m])))"


def rate(counter: str, *by: str) -> str:
    """A counter's change a second over the last minute, added up over everything but *by*."""
    return f"sum by ({', '.join(by)}) (rate({counter}[1m]))" if by else f"sum(rate({counter}[1m]))"


def both(histogram: str, what: str) -> tuple[tuple[str, str], ...]:
    """The usual and the worst hundredth."""
    return tuple(
        (quantile(q, histogram), f"{what}, {name}") for q, name in ((0.5, "half within"), (0.99, "99 % within"))
    )


PANELS = (
    Panel(
        "Freshness",
        "s",
        both("nearline_sequence_to_stored_seconds", "user vector") + both("nearline_item_to_published_seconds", "item"),
        "From the log's append of a sequence (or item) to its vector stored (or published).",
    ),
    Panel(
        "Answers: time",
        "s",
        both("nearline_recommend_seconds", "answer"),
        "GET /recommend, from the request to the answer's bytes.",
    ),
    Panel(
        "Answers: rate and why not personal",
        "reqps",
        (
            (rate("nearline_recommend_seconds_count"), "all"),
            (rate("nearline_recommend_answers_total", "reason"), "{{reason}}"),
        ),
        "A growing share with a reason: the store, the user vectors or the index are behind or away.",
    ),
    Panel(
        "Events by HTTP",
        "cps",
        (
            (rate("nearline_ingest_events_accepted_total"), "accepted"),
            (rate("nearline_ingest_events_refused_total", "reason"), "refused: {{reason}}"),
            (rate("nearline_ingest_requests_refused_total", "status"), "requests answered {{status}}"),
        ),
        "429 is back-pressure, 503 a log that is away; a reason that grows is a caller with a mistake.",
    ),
    Panel(
        "Events by HTTP: time to the log",
        "s",
        both("nearline_ingest_acknowledged_seconds", "acknowledged"),
        "From a request's check to the log's acknowledgement.",
    ),
    Panel(
        "Events",
        "cps",
        (
            (rate("nearline_sequences_total"), "sequences read"),
            (rate("nearline_user_vectors_total"), "user vectors stored"),
            (rate("nearline_items_total"), "item changes read"),
        ),
        "A burst of one user's clicks is many sequences and one vector.",
    ),
    Panel(
        "Lag",
        "short",
        (
            ("sum(flink_taskmanager_job_task_operator_pendingRecords)", "clicks before last_n"),
            ("sum(nearline_user_tower_lag_records)", "sequences before user_tower"),
            ("sum(nearline_item_tower_lag_records)", "items before item_tower"),
            ("max by (topic) (nearline_table_lag_records)", "{{topic}} before retrieval"),
        ),
        "Records that are in the log and were not read. Growing: that part is too slow or waits for another.",
    ),
    Panel(
        "Refused",
        "cps",
        (
            (rate("nearline_sequences_refused_total", "reason"), "sequence: {{reason}}"),
            (rate("nearline_items_refused_total", "reason"), "item: {{reason}}"),
            (rate("nearline_records_refused_total", "topic", "reason"), "{{topic}}: {{reason}}"),
        ),
        "Records that can never be used. `nearline dlq list` shows them with their reason.",
    ),
    Panel(
        "The job",
        "short",
        (
            ("max(flink_jobmanager_job_numRestarts)", "restarts since its start"),
            ("sum(flink_jobmanager_numRegisteredTaskManagers)", "task managers"),
            ("max(flink_jobmanager_job_numberOfFailedCheckpoints)", "failed checkpoints"),
        ),
        "Restarts that keep growing: the same record or the same missing server, again and again.",
    ),
    Panel(
        "Waiting for a server",
        "short",
        (
            ("sum(nearline_user_tower_waiting_users)", "users whose vector waits"),
            (rate("nearline_user_tower_waits_total"), "user_tower's rounds without Triton or store, a second"),
            (rate("nearline_item_tower_waits_total"), "item_tower's rounds without Triton, a second"),
            ("min(nearline_store_up)", "store answers retrieval"),
        ),
        "Nothing is lost while it waits: the log keeps it.",
    ),
    Panel(
        "Up",
        "short",
        (("min by (job) (up)", "{{job}}"),),
        "0: it did not answer Prometheus.",
    ),
)


def dashboard() -> dict[str, object]:
    """The whole dashboard as Grafana stores it."""
    return {
        "uid": "nearline",
        "title": "Nearline",
        "schemaVersion": 39,
        "editable": False,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "panels": [graph(number, panel) for number, panel in enumerate(PANELS)],
    }


def graph(number: int, panel: Panel) -> dict[str, object]:
    """One panel at its place, three in a row."""
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "gridPos": {"x": number % 3 * WIDTH, "y": number // 3 * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": expr, "legendFormat": legend}
            for place, (expr, legend) in enumerate(panel.queries)
        ],
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=2))
