"""``nearline status``: every part, its lag and its freshness on one screen."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import httpx
import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table

from nearline.adapters.kafka.admin import Topics
from nearline.adapters.metrics_reader import addresses_of
from nearline.cli.console import console, styled
from nearline.cli.watching import watching
from nearline.errors import Unavailable
from nearline.key_file import key_headers
from nearline.settings import Settings, load_settings
from nearline.topics import CLICKS, CLICKS_DLQ, ITEMS, ITEMS_DLQ, USER_SEEN, USER_SEQUENCES, USER_SEQUENCES_DLQ, USERS

_LOOPING = 3  # starts of the job in the last ten minutes, in one data folder, that count as a restart loop
Metrics = dict[str, float]
Urls = Mapping[str, str]  # part -> base URL


@dataclass(frozen=True)
class StatusLine:
    """One part's line on the screen."""

    part: str
    state: str
    detail: str
    mend: str = ""


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show live figures until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="With --watch: seconds between updates.")] = 1.0,
) -> None:
    """Show every part, its lag and its freshness; exit status 1 if something is down."""
    settings = load_settings()
    if watch:
        asyncio.run(watching(settings, console, every_s=every))
        return
    lines = status_lines(settings)
    table = Table("part", "state", "", "what to do")
    colours = {"ready": "green", "starting": "yellow", "counted": "yellow", "restarting": "red", "down": "red"}
    for line in lines:
        table.add_row(line.part, styled((line.state, colours[line.state])), line.detail, line.mend)
    console.print(table)
    if any(line.state in ("down", "restarting") for line in lines):
        raise typer.Exit(1)


def status_lines(settings: Settings) -> list[StatusLine]:
    """The line of every part, each asked at its address in ``NEARLINE_METRICS_OF``, else on this machine."""
    urls = addresses_of(settings)
    lines = [_log(settings), _ingest(settings, urls), _job(settings, urls)]
    lines += [_user_tower(urls), _item_tower(urls), _retrieval(settings, urls), _web(settings, urls)]
    lines += [_canary(urls)] if settings.canary_every_s else []
    return [*lines, *_wrong_partition(urls)]


def _log(settings: Settings) -> StatusLine:
    try:
        topics = Topics(settings.brokers)
    except Unavailable as error:
        return StatusLine("log", "down", str(error), "start the system: make up")
    try:
        missing = {CLICKS, USER_SEQUENCES, ITEMS} - topics.names()
        if missing:
            return StatusLine("log", "down", f"missing topics: {', '.join(sorted(missing))}", "nearline init")
        letters = sum(topics.end_offset(queue) for queue in (CLICKS_DLQ, ITEMS_DLQ, USER_SEQUENCES_DLQ))
        counts = f"{topics.end_offset(CLICKS):,} clicks, {topics.end_offset(ITEMS):,} item changes"
        return StatusLine("log", "ready", f"{counts}, {letters:,} dead letters", "nearline dlq list" if letters else "")
    finally:
        topics.close()


def _ingest(settings: Settings, urls: Urls) -> StatusLine:
    line = _service(
        urls["ingest"],
        "ingest",
        freshness="nearline_ingest_acknowledged_seconds",
        words="events acknowledged",
        topic=CLICKS,
        headers=key_headers(settings),
    )
    known = _metrics(urls["ingest"], key_headers(settings)) if line.state == "ready" else None
    return line if known is None else replace(line, detail="; ".join(filter(None, (ingest_words(known), line.detail))))


def ingest_words(metrics: Metrics) -> str:
    """What ingest received since its start, in words."""

    def total(name: str) -> float:
        return sum(value for key, value in metrics.items() if key.partition("{")[0] == f"nearline_ingest_{name}_total")

    refused = f"{total('events_refused'):,.0f} refused" if total("events_refused") else "none refused"
    unknown = total("unknown_items")
    odd = f", {unknown:,.0f} on items that are not in the catalogue" if unknown else ""
    return f"{total('events_accepted'):,.0f} events, {refused}{odd}; {total('items_accepted'):,.0f} changes of items"


def _job(settings: Settings, urls: Urls) -> StatusLine:
    launcher = _metrics(urls["launcher"])
    if launcher is None:
        return StatusLine("last_n", "down", f"no answer of {urls['launcher']}", _log_hint("last_n"))
    recent = int(launcher.get("nearline_job_recent_starts", 0))
    flink = _metrics(urls["last_n"]) or {}
    detail = f"{_job_lag(settings)}{job_words({**launcher, **flink})}"
    if recent >= _LOOPING:
        return StatusLine("last_n", "restarting", f"{detail}; {recent} starts in ten minutes", _log_hint("last_n"))
    return StatusLine("last_n", "ready" if flink else "starting", detail)


def job_words(metrics: Metrics) -> str:
    """How often the job was started and restarted, in words; a container's job manager does not count its starts."""
    restarts = sum(value for name, value in metrics.items() if name.startswith("flink_jobmanager_job_numRestarts"))
    starts = metrics.get("nearline_job_starts_total")
    return (
        f"{restarts:.0f} restarts" if starts is None else f"started {starts:.0f} times, {restarts:.0f} restarts since"
    )


def _job_lag(settings: Settings) -> str:
    """The clicks that the job's newest checkpoint does not cover yet, in words; empty while unknown."""
    try:
        topics = Topics(settings.brokers)
    except Unavailable:
        return ""
    try:
        lag = topics.group_lag("last_n", CLICKS)
        return "" if lag is None else f"lag {lag:,} at its last checkpoint; "
    finally:
        topics.close()


def _user_tower(urls: Urls) -> StatusLine:
    return _service(
        urls["user_tower"],
        "user_tower",
        reads=(USER_SEQUENCES, USER_SEEN),
        freshness="nearline_sequence_to_stored_seconds",
        words="sequence stored",
    )


def _item_tower(urls: Urls) -> StatusLine:
    return _service(
        urls["item_tower"],
        "item_tower",
        reads=(ITEMS,),
        freshness="nearline_item_to_published_seconds",
        words="item published",
    )


def _retrieval(settings: Settings, urls: Urls) -> StatusLine:
    headers = key_headers(settings)
    line = _service(
        urls["retrieval"],
        "retrieval",
        freshness="nearline_recommend_seconds",
        words="answered",
        headers=headers,
    )
    known = _metrics(urls["retrieval"], headers) if line.state == "ready" else None
    return line if known is None else replace(line, detail="; ".join(filter(None, (line.detail, index_words(known)))))


def _canary(urls: Urls) -> StatusLine:
    line = _service(
        urls["canary"],
        "canary",
        freshness="nearline_canary_click_to_answer_seconds",
        words="its clicks used",
    )
    known = _metrics(urls["canary"]) if line.state == "ready" else None
    return line if known is None else replace(line, detail="; ".join(filter(None, (canary_words(known), line.detail))))


def canary_words(metrics: Metrics) -> str:
    """The outcomes of the canary's clicks since its start, in words."""
    used, late, refused = (
        metrics.get(f'nearline_canary_clicks_total{{outcome="{outcome}"}}', 0)
        for outcome in ("used", "late", "refused")
    )
    return f"{used:,.0f} clicks used, {late:,.0f} late, {refused:,.0f} refused"


def _wrong_partition(urls: Urls) -> list[StatusLine]:
    """A line if other clients wrote records to other partitions than their keys'."""
    words = wrong_partition_words([_metrics(urls[part]) or {} for part in ("item_tower", "last_n")])
    what = "set partitioner=murmur2_random in the producer that writes them (docs/sending.md)"
    return [StatusLine("partitions", "counted", words, what)] if words else []


def wrong_partition_words(parts: Sequence[Metrics]) -> str:
    """How many records of each topic were in the wrong partition since the parts' starts; empty if none were."""
    found = dict.fromkeys((CLICKS, ITEMS, USERS), 0.0)
    for name, value in (each for metrics in parts for each in metrics.items() if "wrong_partition" in each[0]):
        for topic in found:
            found[topic] += value if f'topic="{topic}"' in name else 0
    counts = ", ".join(f"{count:,.0f} of {topic}" for topic, count in found.items() if count)
    return f"records in another partition than their key's: {counts}; they are used" if counts else ""


def _web(settings: Settings, urls: Urls) -> StatusLine:
    line = _service(
        urls["web"],
        "web",
        freshness="nearline_web_click_to_row_seconds",
        words="rows changed on screen",
        headers=key_headers(settings),
    )
    return (
        line
        if line.state == "down"
        else replace(line, detail="; ".join(filter(None, (urls["web"] + "/", line.detail))))
    )


def index_words(metrics: Metrics) -> str:
    """The index in words: its size, and the recall of its sampled queries."""
    if "nearline_engine_up" in metrics:
        return _engine_words(metrics)
    words = f"{metrics.get('nearline_index_items', 0):,.0f} items"
    samples = metrics.get("nearline_index_recall_samples", 0)
    if not samples:
        return f"{words}, recall not sampled yet"
    ten, fifty = (metrics.get(f'nearline_index_recall_ratio{{k="{cut}"}}', 0) for cut in (10, 50))
    return f"{words}, live recall@10 {ten:.3f} and @50 {fifty:.3f} of the last {samples:,.0f} sampled queries"


def _engine_words(metrics: Metrics) -> str:
    state = "answers" if metrics["nearline_engine_up"] else "is down: answers are degraded"
    lag = sum(value for name, value in metrics.items() if name.startswith('nearline_lag_records{topic="item-vectors.'))
    window = metrics.get("nearline_window_items", 0)
    return f"items in an engine that {state}, {lag:,.0f} item vectors behind, {window:,.0f} head items here"


def _service(
    url: str,
    part: str,
    *,
    freshness: str,
    words: str,
    reads: Sequence[str] = (),
    topic: str = "",
    headers: Mapping[str, str] | None = None,
) -> StatusLine:
    metrics = _metrics(url, headers)
    if metrics is None:
        return StatusLine(part, "down", f"no metrics of {url}", _log_hint(part))
    lag = lag_of(metrics, *reads)
    metrics = of_topic(metrics, topic) if topic else metrics
    waiting = _not_ready(url)
    details = [f"lag {lag:,.0f}"] if reads else []
    p50, p99 = (quantile(metrics, freshness, q) for q in (0.5, 0.99))
    if p50 is not None and p99 is not None:
        details.append(f"{words} within {p50 * 1000:g} ms (p50), {p99 * 1000:g} ms (p99) since its start")
    if waiting:
        return StatusLine(part, "starting", f"waiting for {', '.join(waiting)}", _log_hint(part))
    return StatusLine(part, "ready", "; ".join(details))


def lag_of(metrics: Metrics, *topics: str) -> float:
    """How many records of *topics*, in all partitions, the part has not read yet."""
    starts = tuple(f'nearline_lag_records{{topic="{topic}",' for topic in topics)
    return sum(value for name, value in metrics.items() if name.startswith(starts))


def of_topic(metrics: Metrics, topic: str) -> Metrics:
    """The metrics without those of other topics; those of *topic* lose the label."""
    label = f'topic="{topic}"'
    return {
        name.replace(f"{{{label}}}", "").replace(f"{label},", "").replace(f",{label}", ""): value
        for name, value in metrics.items()
        if label in name or 'topic="' not in name
    }


def _log_hint(part: str) -> str:
    return f"see .nearline/logs/{part}.log, or docker compose logs {part}"


def quantile(metrics: Metrics, name: str, q: float) -> float | None:
    """The upper bound of histogram *name*'s bucket that holds quantile *q*, or ``None`` without samples."""
    total = metrics.get(f"{name}_count", 0)
    if not total:
        return None
    buckets = [
        (float(key.partition('le="')[2].rstrip('"}')), value)
        for key, value in metrics.items()
        if key.startswith(f"{name}_bucket")
    ]
    return next((bound for bound, count in sorted(buckets) if count >= q * total), None)


def _metrics(url: str, headers: Mapping[str, str] | None = None) -> Metrics | None:
    """The metrics of the part at *url*; ``None`` if it does not answer or refuses our key."""
    try:
        response = httpx.get(f"{url}/metrics", timeout=2.0, follow_redirects=True, headers=headers)
    except httpx.HTTPError:
        return None
    if response.status_code != 200:
        return None
    found: Metrics = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sample.labels.items())
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def _not_ready(url: str) -> list[str]:
    try:
        parts = httpx.get(f"{url}/readyz", timeout=2.0).json()["parts"]
    except (httpx.HTTPError, ValueError, KeyError):
        return ["an answer on /readyz"]
    return [name for name, ready in parts.items() if not ready]
