"""What the Flink containers do before Flink starts, and how their health is judged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy.flink.healthy import problem_of
from deploy.flink.jobmanager import command, newest_checkpoint
from deploy.flink.library import link_library

ROOT = Path(__file__).resolve().parents[2]
PYFLINK = sorted((ROOT / ".venv/flink/lib").glob("python3.*/site-packages/pyflink"))


def checkpoint(folder: Path, job: str, number: int, *, written: int, complete: bool = True) -> Path:
    path = folder / job / f"chk-{number}"
    path.mkdir(parents=True)
    if complete:
        (path / "_metadata").touch()
        os.utime(path / "_metadata", (written, written))
    return path


def test_the_newest_complete_checkpoint_is_resumed(tmp_path: Path) -> None:
    """By the time it was written: each job manager counts from where it resumed, under a job id of its own."""
    checkpoint(tmp_path, "first-job", 41, written=100)
    newest = checkpoint(tmp_path, "second-job", 7, written=200)
    checkpoint(tmp_path, "second-job", 8, written=300, complete=False)
    assert newest_checkpoint(tmp_path) == newest


def test_without_a_checkpoint_the_job_starts_afresh(tmp_path: Path) -> None:
    """Neither an empty folder nor a missing one is an error."""
    assert newest_checkpoint(tmp_path / "nothing") is None
    assert "--fromSavepoint" not in command(Path("/flink"), 1, None)


def test_the_job_managers_command_runs_our_module_from_the_checkpoint() -> None:
    """Flink's options come before Python's, or they would be taken for the job's."""
    words = command(Path("/flink"), 3, Path("/checkpoints/job/chk-7"))
    assert words[:2] == ["/flink/bin/standalone-job.sh", "start-foreground"]
    assert words.index("--fromSavepoint") < words.index("-pym")
    assert words[words.index("--fromSavepoint") + 1] == "/checkpoints/job/chk-7"
    assert "-Dparallelism.default=3" in words
    assert words[-2:] == ["-pym", "flink_jobs.last_n.job"]


@pytest.mark.parametrize(
    ("jobs", "problem"),
    [
        ([], "no job"),
        ([("RUNNING", 9, 9)], None),
        ([("RUNNING", 0, 9)], "last_n is RUNNING, 0 of 9 tasks run"),
        ([("RESTARTING", 0, 9)], "last_n is RESTARTING"),
        ([("FAILED", 0, 9)], "last_n is FAILED"),
    ],
    ids=["none", "running", "waiting for slots", "restarting", "failed"],
)
def test_a_job_is_healthy_when_all_its_tasks_run(jobs: list[tuple[str, int, int]], problem: str | None) -> None:
    """RUNNING alone is also what a job without task managers says of itself."""
    told = [{"name": "last_n", "state": s, "tasks": {"running": run, "total": all_}} for s, run, all_ in jobs]
    found = problem_of({"jobs": told})
    assert found is None if problem is None else problem in str(found)


def test_the_library_holds_flink_its_python_and_the_connector(tmp_path: Path) -> None:
    """Links to the jars where they are; a second run changes nothing."""
    home, connector = tmp_path / "pyflink", tmp_path / "connector"
    files = [home / "lib/flink-dist-2.2.1.jar", home / "opt/flink-python-2.2.1.jar"]
    files += [connector / "flink-sql-connector-kafka-5.0.0-2.2.jar"]
    for file in [*files, home / "opt/flink-sql-client-2.2.1.jar"]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    links = link_library(tmp_path / "lib", home, connector)
    assert [link.resolve() for link in links] == sorted(files, key=lambda file: file.name)
    assert link_library(tmp_path / "lib", home, connector) == links


def test_a_library_without_the_connector_is_refused(tmp_path: Path) -> None:
    """The image fails to build instead of the job to start."""
    home = tmp_path / "pyflink"
    for name in ("lib/flink-dist-2.2.1.jar", "opt/flink-python-2.2.1.jar"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    with pytest.raises(FileNotFoundError, match="flink-sql-connector-kafka-"):
        link_library(tmp_path / "lib", home, tmp_path)


def test_a_health_check_fails_with_the_reason_when_nothing_answers() -> None:
    """The engine shows a check's output: it names the address."""
    script = ROOT / "deploy" / "services" / "healthy.py"
    done = subprocess.run(
        [sys.executable, script, "http://127.0.0.1:9/readyz"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "http://127.0.0.1:9/readyz" in done.stderr


@pytest.mark.skipif(not PYFLINK, reason="the flink environment is not built here")
def test_flinks_own_java_options_are_kept() -> None:
    """A configuration of one's own replaces the package's, which holds the options that Flink cannot run without."""
    ours, theirs = (
        yaml.safe_load((folder / "config.yaml").read_text())["env"]["java"]["opts"]["all"].split()
        for folder in (ROOT / "deploy" / "flink" / "conf", PYFLINK[-1] / "conf")
    )
    assert ours == theirs


def test_one_slot_a_task_manager_and_parent_first_class_loading() -> None:
    """One Python (one GIL) for each slot; pemja's library can be loaded by one class loader only."""
    configured = yaml.safe_load((ROOT / "deploy" / "flink" / "conf" / "config.yaml").read_text())
    assert configured["taskmanager"]["numberOfTaskSlots"] == 1
    assert configured["classloader"]["resolve-order"] == "parent-first"
    assert json.dumps(configured["metrics"]["reporters"]) == '"prom"'
