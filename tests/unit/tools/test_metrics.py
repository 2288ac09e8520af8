"""The metrics' convention: names, label values from the start, and the page that lists them."""

import ast
import re
import subprocess
from collections import defaultdict
from functools import cache

import pytest
from prometheus_client import generate_latest

from flink_jobs.last_n.metrics import REASONS as JOB_REASONS
from local.debian import program
from local.layout import ROOT
from nearline.reasons import RAISED
from nearline.telemetry import Declared, begin, counter, declared
from tools.metrics_docs import PAGE, PARTS, of_part, written

# Base units, and the plurals of what is counted.
UNITS = (
    *("seconds", "bytes", "ratio", "up", "info"),
    *("candidates", "changes", "exposures", "items", "keys", "messages", "records"),
    *("requests", "rows", "rules", "samples", "starts", "users"),
)
# Their label values are known when a part is put together, and begun then.
AS_SET_UP = {
    "nearline_features_info",
    "nearline_ingest_acknowledged_seconds",
    "nearline_ingest_group_messages",
    "nearline_ingest_log_up",
    "nearline_ingest_waiting_messages",
    "nearline_job_restored_checkpoint_info",
    "nearline_lag_records",
    "nearline_records_applied_total",
    "nearline_records_refused_total",
    "nearline_request_seconds",
    "nearline_requests_total",
}


@cache
def all_declared() -> tuple[Declared, ...]:
    """What all parts together declare (importing one twice declares nothing twice)."""
    ours = {metric.name: metric for modules in PARTS.values() for metric in of_part(modules)}
    return tuple(ours[name] for name in sorted(ours) if not name.startswith("nearline_of_a_test"))


def problem_of(metric: Declared) -> str | None:
    """What is wrong with a name, or ``None``."""
    if not re.fullmatch(r"nearline(_[a-z0-9]+)+", metric.name):
        return "not snake_case that begins with nearline_"
    if (metric.kind == "counter") != metric.name.endswith("_total"):
        return "_total is for counters, and for all of them"
    if metric.kind != "counter" and metric.name.rpartition("_")[2] not in UNITS:
        return f"ends in no unit: {', '.join(UNITS)}"
    if metric.kind == "counter" and re.search(r"_(seconds|ms|millis)_", metric.name):
        return "durations are histograms"
    return None if metric.about.strip() else "no words about it"


def test_every_name_keeps_to_the_convention() -> None:
    assert len(all_declared()) > 80
    assert {metric.name: problem_of(metric) for metric in all_declared() if problem_of(metric)} == {}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("gauge", "nearline_index_recall"),
        ("counter", "nearline_events"),
        ("gauge", "nearline_events_total"),
        ("histogram", "nearline_answer_ms"),
        ("gauge", "Nearline_items"),
    ],
)
def test_a_metric_name_outside_the_convention_is_reported(kind: str, name: str) -> None:
    assert problem_of(Declared(name, kind, "something", ())) is not None


def test_prometheus_own_check_finds_nothing_to_say() -> None:
    all_declared()
    check = [str(program("promtool")), "check", "metrics"]
    done = subprocess.run(check, input=generate_latest(), capture_output=True, check=False, timeout=60)
    ours = [line for line in done.stderr.decode().splitlines() if not line.startswith("nearline_of_a_test")]
    assert ours == []


def test_every_label_has_its_values_from_the_start() -> None:
    without = {metric.name for metric in all_declared() if metric.labels and not metric.known}
    assert without - AS_SET_UP == set()


def test_known_label_values_are_exported_as_zero() -> None:
    refused = counter("of_a_test_total", "Of a test", "topic", "reason", known=[("clicks", "bad_id")])
    begin(refused, [("items", "bad_id")])
    lines = {line for line in generate_latest().decode().splitlines() if line.startswith("nearline_of_a_test_total{")}
    begun = ('{reason="bad_id",topic="clicks"} 0.0', '{reason="bad_id",topic="items"} 0.0')
    assert lines == {f"nearline_of_a_test_total{labels}" for labels in begun}
    (told,) = [metric for metric in declared() if metric.name == "nearline_of_a_test_total"]
    assert told.known == [("clicks", "bad_id"), ("items", "bad_id")]


def raised_in(folder: str) -> dict[str, set[str]]:
    """The codes that each module refuses inputs with, as its text has them."""
    raised: dict[str, set[str]] = defaultdict(set)
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(func=ast.Name(id="BadInput"), args=[ast.Constant(value=reason), *_]):
                    raised[str(file.relative_to(ROOT / folder).with_suffix(""))].add(str(reason))
    return raised


def test_the_table_of_reasons_is_what_the_modules_raise() -> None:
    raised = raised_in("nearline")
    assert {module: set(reasons) for module, reasons in RAISED.items()} == {module: raised[module] for module in RAISED}


@pytest.mark.parametrize("service", ["ingest", "item_tower", "user_tower"])
def test_every_reason_of_a_service_is_counted_from_the_start(service: str) -> None:
    known = {value for metric in all_declared() if "reason" in metric.labels for one in metric.known for value in one}
    assert set[str]().union(*raised_in(f"services/{service}").values()) - known == set()


def test_every_reason_of_the_job_is_counted_from_the_start() -> None:
    assert set[str]().union(*raised_in("flink_jobs").values()) - set(JOB_REASONS) == set()


def test_the_page_lists_what_the_code_declares() -> None:
    """Run ``make docs`` after a change."""
    assert PAGE.read_text() == written()
