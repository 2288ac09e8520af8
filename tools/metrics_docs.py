"""Writes docs/metrics.md: every metric that the parts declare.

    .venv/services/bin/python -m tools.metrics_docs          # writes docs/metrics.md (make docs)

Each part is imported in its own process, so that the page lists exactly the metrics of its /metrics. A test compares
the page with this tool's output; metrics_page.md holds the text around the tables.
"""

import multiprocessing
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from nearline.telemetry import BATCH_BUCKETS, LATENCY_BUCKETS_S, Declared, declared

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "metrics.md"
# The modules whose import declares all metrics of a part: its composition root, and its later imports.
PARTS: Mapping[str, tuple[str, ...]] = {
    "retrieval": ("services.retrieval.app", "services.retrieval.in_process.local_items"),
    "retrieval on Milvus": ("services.retrieval.app", "services.retrieval.in_engine.remote_items"),
    "ingest": ("services.ingest.app",),
    "user_tower": ("services.user_tower.app",),
    "item_tower": ("services.item_tower.app",),
    "canary": ("services.canary.app",),
    "web": ("services.web.app",),
    "last_n": ("flink_jobs.last_n.metrics", "nearline.adapters.kafka.reader"),
}
# What most parts import and take seconds over, imported once for all of them. They declare no metric of ours.
_LIBRARIES = ["fastapi", "grpc.aio", "hnswlib", "kafka", "numpy", "orjson", "prometheus_client", "pydantic_settings"]
_LIBRARIES += ["structlog", "throttled", "tritonclient.grpc.aio", "uvicorn", "httpx", "cryptography", "jwt"]
_KINDS = {"counter": "counters", "gauge": "gauges", "histogram": "histograms"}
_MOST_VALUES = 16  # values of a label in one cell
_TEXT = Path(__file__).with_name("metrics_page.md")  # the page's text around the tables


def of_part(modules: Sequence[str]) -> list[Declared]:
    """The metrics that importing *modules* declares; imports them into this process."""
    for module in modules:
        __import__(module)
    return declared()


def asked(modules: Sequence[str]) -> list[Declared]:
    """What a process that imports *modules* declares; run in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LIBRARIES)
    with ProcessPoolExecutor(1, context) as process:
        return process.submit(of_part, modules).result()


def page(parts: Mapping[str, Sequence[Declared]], of_flink: Mapping[str, str]) -> str:
    """The page for each part's metrics; *of_flink* describes the operator's counters."""
    found: dict[str, Declared] = {}
    where: dict[str, list[str]] = {}
    for part, metrics in parts.items():
        for metric in metrics:
            found[metric.name] = metric
            where.setdefault(metric.name, []).append(part)
    before, after = _TEXT.read_text().split("<!-- the tables -->")
    sections = [before.strip()]
    for kind, title in _KINDS.items():
        rows = [_row(found[name], where[name]) for name in sorted(found) if found[name].kind == kind]
        sections.append("\n".join([f"## {title.capitalize()}", "", *_buckets(kind), *_HEAD, *rows]))
    sections += [_flink(of_flink), after.strip()]
    return "\n\n".join(sections) + "\n"


_HEAD = ("| name | part | labels | meaning |", "|---|---|---|---|")


def _buckets(kind: str) -> list[str]:
    if kind != "histogram":
        return []
    durations, sizes = (", ".join(f"{bound:g}" for bound in bounds) for bounds in (LATENCY_BUCKETS_S, BATCH_BUCKETS))
    return [f"Bounds of durations, unless the meaning names others: {durations}. Of sizes: {sizes}.", ""]


def _row(metric: Declared, parts: Sequence[str]) -> str:
    return f"| `{metric.name}` | {_parts(parts)} | {_labels(metric)} | {_sentence(metric.about)} |"


def _parts(parts: Sequence[str]) -> str:
    """The parts of a metric; both kinds of retrieval count as one if both have it."""
    both = {"retrieval", "retrieval on Milvus"} <= set(parts)
    return ", ".join(part for part in parts if not (both and part == "retrieval on Milvus"))


def _labels(metric: Declared) -> str:
    said = []
    for place, label in enumerate(metric.labels):
        values = sorted({known[place] for known in metric.known}, key=_natural)
        shown = ", ".join(f"`{value}`" for value in values[:_MOST_VALUES]) or "*as set up*"
        more = f" and {len(values) - _MOST_VALUES} more" if len(values) > _MOST_VALUES else ""
        said.append(f"**{label}**: {shown}{more}")
    return "<br>".join(said)


def _natural(value: str) -> tuple[int, str]:
    return (int(value), "") if value.isdigit() else (-1, value)


def _sentence(about: str) -> str:
    text = re.sub(r"\s+", " ", about.strip()).replace("|", "\\|")
    return text if text.endswith(".") else f"{text}."


def _flink(of_flink: Mapping[str, str]) -> str:
    rows = [f"| `{name}` | {about} |" for name, about in of_flink.items()]
    intro = "Counted inside Flink by the job's Python operator, which Flink shows as gauges on port 9249:"
    return "\n".join(["## The job's operator", "", intro, "", "| name | meaning |", "|---|---|", *rows])


def written() -> str:
    """The content of the page."""
    from flink_jobs.last_n.metrics import ABOUT, flink_name

    of_flink = {flink_name(count): about for count, about in ABOUT.items()}
    return page({part: asked(modules) for part, modules in PARTS.items()}, of_flink)


if __name__ == "__main__":
    PAGE.write_text(written())
    print(f"wrote {PAGE.relative_to(ROOT)}")
