"""Dashboards, rules and alerts: they name metrics that exist, and what is committed is what its source makes."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.addresses import Ports
from local.debian import program
from local.layout import ROOT
from local.prometheus import JOBS, configuration
from tests.unit.tools.test_metrics import all_declared
from tools.dashboards import FOLDER, built
from tools.panels import BOARDS, queries

RULES = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())["groups"]
RECORDED = {rule["record"]: rule["expr"] for group in RULES for rule in group["rules"] if "record" in rule}
ALERTS: dict[str, Any] = {rule["alert"]: rule for group in RULES for rule in group["rules"] if "alert" in rule}
TESTS = ("alerts.yml", "alerts_of_days.yml")
# Other programs' metrics, as seen on the servers that run here (Flink, Kafka by deploy/kafka/jmx.yml, Triton).
FLINK = "flink_taskmanager_job_task_operator"
THEIRS = {
    "ALERTS": {"alertname", "alertstate"},
    "up": set(),
    "process_cpu_seconds_total": set(),
    "process_open_fds": set(),
    "process_resident_memory_bytes": set(),
    "process_start_time_seconds": set(),
    "flink_jobmanager_job_lastCheckpointCompletedTimestamp": set(),
    "flink_jobmanager_job_lastCheckpointDuration": set(),
    "flink_jobmanager_job_numRestarts": set(),
    "flink_jobmanager_job_numberOfFailedCheckpoints": set(),
    "flink_taskmanager_Status_JVM_Memory_Heap_Used": set(),
    "flink_taskmanager_job_task_busyTimeMsPerSecond": set(),
    f"{FLINK}_nearline_ahead": set(),
    f"{FLINK}_nearline_commands": set(),
    f"{FLINK}_nearline_too_old": set(),
    f"{FLINK}_nearline_unchanged": set(),
    f"{FLINK}_numRecordsIn": set(),
    f"{FLINK}_pendingRecords": set(),
    f"{FLINK}_reason_nearline_refused": {"reason"},
    "kafka_log_Log_Size": {"topic", "partition"},
    "kafka_network_RequestMetrics_TotalTime_seconds": {"request", "quantile"},
    "kafka_server_BrokerTopicMetrics_MessagesIn_total": {"topic"},
    "kafka_server_ReplicaManager_OfflineReplicaCount": set(),
    "kafka_server_ReplicaManager_UnderReplicatedPartitions": set(),
    "nv_inference_compute_infer_duration_us": {"model"},
    "nv_inference_count": {"model"},
    "nv_inference_exec_count": {"model"},
    "nv_inference_queue_duration_us": {"model"},
    "nv_inference_request_duration_us": {"model"},
    "nv_inference_request_failure": {"model"},
    "nv_inference_request_success": {"model"},
}
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def known() -> dict[str, set[str]]:
    """Every time series that there is, with its labels."""
    series = {name: set(labels) for name, labels in THEIRS.items()}
    for metric in all_declared():
        for suffix in SUFFIXES[metric.kind]:
            series[metric.name + suffix] = set(metric.labels)
    for name in RECORDED:
        series[name] = {"job", "topic", "source", "reason"}
    return series


def expressions() -> list[str]:
    """Every query of the dashboards and rules, each once."""
    rules = [rule["expr"] for group in RULES for rule in group["rules"]]
    return list(dict.fromkeys([expr for _, expr in queries()] + rules))


def named(expr: str) -> set[str]:
    """The time series that a query reads."""
    names = r"\bnearline:[\w:]+|\b(?:nearline|flink|nv|kafka|process)_\w+|\bup\b|\bALERTS\b"
    return set(re.findall(names, re.sub(r'"[^"]*"', '""', expr)))


@pytest.mark.parametrize("expr", expressions())
def test_every_query_names_series_that_exist(expr: str) -> None:
    """A renamed metric would leave a graph empty without a word."""
    assert named(expr), "a query has to read something"
    assert named(expr) - known().keys() == set()


@pytest.mark.parametrize("expr", [expr for expr in expressions() if re.search(r"by \(", expr)])
def test_every_label_that_is_grouped_by_exists(expr: str) -> None:
    """Grouped by a label that nobody sets, all lines fall into one."""
    labels = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expr) for label in group.split(",")}
    labels -= {"le", "job", ""}
    assert labels - set[str]().union(*(known()[name] for name in named(expr))) == set()


def promtool(*words: object) -> None:
    done = subprocess.run(
        [str(program("promtool")), *map(str, words)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_reads_the_rules_every_query_and_both_configurations(tmp_path: Path) -> None:
    recorded = [{"record": f"query_{i}", "expr": expr} for i, expr in enumerate(expressions())]
    dashboards = tmp_path / "dashboards.yml"
    dashboards.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": recorded}]}))
    here = tmp_path / "prometheus.json"
    here.write_text(configuration(Ports(), 9090))
    promtool("check", "config", ROOT / "deploy/prometheus/prometheus.yml")
    promtool("check", "config", here)
    promtool("check", "rules", dashboards)


@pytest.mark.parametrize("file", TESTS)
def test_every_alert_fires_when_it_should_and_not_when_it_should_not(file: str) -> None:
    promtool("test", "rules", ROOT / "tests/unit/deploy" / file)


def test_every_alert_is_tried_both_ways() -> None:
    """An alert that was never seen to fire may be unable to, and one that was never quiet is no alert."""
    tried = {
        test["name"]
        for file in TESTS
        for test in yaml.safe_load((ROOT / "tests/unit/deploy" / file).read_text())["tests"]
    }
    assert tried == {f"{alert} {word}" for alert in ALERTS for word in ("fires", "does not fire")}


def test_every_alert_has_a_section_that_says_what_to_do_and_names_it() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    alerts = page.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    assert re.findall(r"^### (\w+)$", alerts, re.MULTILINE) == list(ALERTS)
    runbooks = {name: rule["annotations"]["runbook"] for name, rule in ALERTS.items()}
    assert runbooks == {name: f"docs/operations.md#{name.lower()}" for name in ALERTS}
    assert {rule["labels"]["severity"] for rule in ALERTS.values()} == {"page", "ticket"}


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_the_committed_dashboard_is_the_one_that_its_source_makes(board: Any) -> None:
    """Run ``make docs`` after a change."""
    assert (FOLDER / f"{board.uid}.json").read_text() == built(board)


def test_there_is_no_other_dashboard() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {board.uid for board in BOARDS}


def test_grafana_finds_the_datasource_and_the_dashboards() -> None:
    """The panels' datasource is the provisioned one, and the folder is the one that the compose file mounts."""
    source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yaml").read_text())
    panels = [
        panel
        for board in BOARDS
        for panel in json.loads((FOLDER / f"{board.uid}.json").read_text())["panels"]
        if panel["type"] != "row"
    ]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["datasources"][0]["uid"]}
    provider = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/nearline.yaml").read_text())
    grafana = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]
    assert f"./deploy/grafana/dashboards:{provider['providers'][0]['options']['path']}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(provider["providers"][0]["options"]["path"])
    assert (FOLDER / Path(home).name).exists()


def test_containers_and_one_machine_are_watched_alike() -> None:
    """The same jobs, but that Flink's processes are two there and the job has a launcher of its own here."""
    there = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert {job["job_name"] for job in there} - {"jobmanager", "taskmanager", "prometheus"} == JOBS.keys() - {
        "flink",
        "last_n",
    }
