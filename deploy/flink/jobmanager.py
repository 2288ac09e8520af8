"""Become Flink's job manager with the job in it (application mode), resuming from the newest checkpoint.

    TASK_MANAGERS=1 python deploy/flink/jobmanager.py

The job starts and ends with this process, so a container that is started again is all that a killed job manager needs:
no job is submitted. The entry point is the module that runs without containers, and so is the choice of the
checkpoint. Without a checkpoint users are first read back, by a job manager that ends with it.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

from flink_jobs.last_n.checkpoints import JobFolder, Start
from flink_jobs.last_n.restoration import begin_restoration, end_restoration, is_to_restore, wait_until_read
from nearline.adapters.kafka.admin import Topics, wait_for_topics
from nearline.settings import load_settings
from nearline.topics import CLICKS, USER_SEEN, USER_SEQUENCES, USERS

JOB_MODULE = "flink_jobs.last_n.job"
# Runs a Python program inside the job manager; it is part of flink-python.
DRIVER = "org.apache.flink.client.python.PythonDriver"


def command(flink_home: Path, task_managers: int, start: Start) -> list[str]:
    """The command of a job manager that runs the job with one slot on each of *task_managers*."""
    words = [str(flink_home / "bin" / "standalone-job.sh"), "start-foreground", "--job-classname", DRIVER]
    words.append(f"-Dparallelism.default={task_managers}")
    if start.checkpoint is not None:
        words += ["--fromSavepoint", str(start.checkpoint)]
        words += ["--allowNonRestoredState"] if start.is_restored else []
    return [*words, "-pyclientexec", sys.executable, "-pym", JOB_MODULE]


def read_back(words: list[str], folder: JobFolder, rest: str) -> Path | None:
    """Read users back in a job manager of its own, *words*; return the checkpoint, ``None`` if there are no users."""
    settings = load_settings()
    wait_for_topics(
        settings.brokers, [CLICKS, USERS, USER_SEQUENCES, USER_SEEN], deadline_s=settings.startup_deadline_s
    )
    log = Topics(settings.brokers)
    try:
        if not is_to_restore(log):
            return None
        restoration = begin_restoration(log, folder, now_s=time.time())
        with subprocess.Popen(words) as job_manager:
            signal.signal(signal.SIGTERM, lambda *_: job_manager.terminate())
            wait_until_read(log, restoration, lambda: None if job_manager.poll() is None else "gone")
            cancel(rest)
        return end_restoration(log, folder, restoration, now_s=time.time())
    finally:
        log.close()


def cancel(rest: str) -> None:
    """Cancel the jobs of the Flink at *rest*."""
    with urllib.request.urlopen(f"{rest}/jobs/overview", timeout=10) as answer:
        jobs = [job["jid"] for job in json.load(answer)["jobs"]]
    for job in jobs:
        urllib.request.urlopen(
            urllib.request.Request(f"{rest}/jobs/{job}?mode=cancel", method="PATCH"), timeout=10
        ).close()


def main() -> None:
    """Choose the checkpoint and become the job manager: same process, so the engine's signals reach it."""
    folder = JobFolder(Path(os.environ["NEARLINE_DATA"]) / "flink")
    start = folder.begin(now_s=time.time())
    home, task_managers = Path(os.environ["FLINK_HOME"]), int(os.environ.get("TASK_MANAGERS", "1"))
    if start.checkpoint is None:
        rest = os.environ.get("FLINK_REST", "http://127.0.0.1:8081")
        checkpoint = read_back(command(home, task_managers, start), folder, rest)
        start = replace(start, checkpoint=checkpoint, is_restored=checkpoint is not None)
    print(f"start {start.number}, from {start.checkpoint or 'the beginning of the log'}", flush=True)
    words = command(home, task_managers, start)
    os.execv(words[0], words)


if __name__ == "__main__":
    main()
