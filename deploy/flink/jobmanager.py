"""Become Flink's job manager with the job in it (application mode), resuming from the newest checkpoint.

    TASK_MANAGERS=1 python deploy/flink/jobmanager.py

The job starts and ends with this process, so a container that is started again is all that a killed job manager needs:
no job is submitted. The entry point is the module that runs without containers, and so is the choice of the
checkpoint.
"""

import os
import sys
import time
from pathlib import Path

from flink_jobs.last_n.checkpoints import JobFolder

JOB_MODULE = "flink_jobs.last_n.job"
# Runs a Python program inside the job manager; it is part of flink-python.
DRIVER = "org.apache.flink.client.python.PythonDriver"


def command(flink_home: Path, task_managers: int, checkpoint: Path | None) -> list[str]:
    """The command of a job manager that runs the job with one slot on each of *task_managers*."""
    words = [str(flink_home / "bin" / "standalone-job.sh"), "start-foreground", "--job-classname", DRIVER]
    words.append(f"-Dparallelism.default={task_managers}")
    if checkpoint is not None:
        words += ["--fromSavepoint", str(checkpoint)]
    return [*words, "-pyclientexec", sys.executable, "-pym", JOB_MODULE]


def main() -> None:
    """Choose the checkpoint and become the job manager: same process, so the engine's signals reach it."""
    start = JobFolder(Path(os.environ["NEARLINE_DATA"]) / "flink").begin(now_s=time.time())
    print(f"start {start.number}, from {start.checkpoint or 'the beginning of the log'}", flush=True)
    words = command(Path(os.environ["FLINK_HOME"]), int(os.environ.get("TASK_MANAGERS", "1")), start.checkpoint)
    os.execv(words[0], words)


if __name__ == "__main__":
    main()
