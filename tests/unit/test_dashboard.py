"""Dashboard and alerts: they name metrics that exist, and the committed JSON is the one that its source makes."""

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.grafana.dashboard import PANELS, dashboard

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("nearline", "services", "flink_jobs")
# Other programs' metrics, as seen on the servers that run here (Flink 2.2.1, Prometheus).
THEIRS = {
    "up",
    "flink_jobmanager_job_lastCheckpointCompletedTimestamp",
    "flink_jobmanager_job_numRestarts",
    "flink_jobmanager_job_numberOfFailedCheckpoints",
    "flink_jobmanager_numRegisteredTaskManagers",
    "flink_taskmanager_job_task_operator_pendingRecords",
}
SUFFIXES = {"counter": ("",), "gauge": ("",), "seconds": ("_bucket", "_count", "_sum")}


def declared() -> dict[str, set[str]]:
    """Every time series of ours, with its labels: what ``nearline.telemetry``'s functions are called with."""
    series: dict[str, set[str]] = {}
    for file in (file for folder in SOURCES for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SUFFIXES:
                words = [word.value for word in node.args if isinstance(word, ast.Constant)]
                for suffix in SUFFIXES[node.func.id] if words else ():
                    series[f"nearline_{words[0]}{suffix}"] = {str(label) for label in words[2:]}
    return series


def queries() -> list[str]:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())["groups"][0]["rules"]
    return [expr for panel in PANELS for expr, _ in panel.queries] + [rule["expr"] for rule in rules]


def named(expr: str) -> set[str]:
    """The time series that a query reads."""
    return set(re.findall(r"\b(?:nearline|flink|nv)_\w+|\bup\b", expr))


@pytest.mark.parametrize("expr", queries())
def test_every_query_names_series_that_exist(expr: str) -> None:
    """A renamed metric would leave a graph empty without a word."""
    assert named(expr), "a query has to read something"
    assert named(expr) - THEIRS - declared().keys() == set()


@pytest.mark.parametrize("expr", [expr for expr in queries() if re.search(r"by \(", expr)])
def test_every_label_that_is_grouped_by_exists(expr: str) -> None:
    """Grouped by a label that nobody sets, all lines fall into one."""
    labels = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expr) for label in group.split(",")}
    known = {"le", "job"}.union(*(declared().get(name, set()) for name in named(expr)))
    assert labels - known == set()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_every_alert_fires_when_it_should(tmp_path: Path) -> None:
    """By Prometheus' own tool, which also reads the configuration and every query of the dashboard."""
    recorded = [{"record": f"query_{i}", "expr": expr} for i, expr in enumerate(queries())]
    dashboard_rules = tmp_path / "dashboard.yml"
    dashboard_rules.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    for words in (
        ["check", "config", ROOT / "deploy/prometheus/prometheus.yml"],
        ["check", "rules", dashboard_rules],
        ["test", "rules", ROOT / "tests/unit/alerts.yml"],
    ):
        done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test() -> None:
    """An alert that was never seen to fire may be unable to."""
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())["groups"][0]["rules"]
    tried = yaml.safe_load((ROOT / "tests/unit/alerts.yml").read_text())["tests"][0]["alert_rule_test"]
    assert {rule["alert"] for rule in rules} == {test["alertname"] for test in tried if test["exp_alerts"]}


def test_the_committed_dashboard_is_the_one_that_its_source_makes() -> None:
    """Run ``python deploy/grafana/dashboard.py`` after a change."""
    committed = (ROOT / "deploy/grafana/dashboards/nearline.json").read_text()
    assert committed == json.dumps(dashboard(), indent=2) + "\n"


def test_grafana_finds_the_datasource_and_the_dashboard() -> None:
    """The panels' datasource is the provisioned one, and the folder is the one that the compose file mounts."""
    source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yaml").read_text())
    panels = json.loads((ROOT / "deploy/grafana/dashboards/nearline.json").read_text())["panels"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["datasources"][0]["uid"]}
    provider = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/nearline.yaml").read_text())
    grafana = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]
    assert f"./deploy/grafana/dashboards:{provider['providers'][0]['options']['path']}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(provider["providers"][0]["options"]["path"])
