"""Become Flink's job manager with the job in it (application mode), resuming from the newest checkpoint.

    TASK_MANAGERS=1 python deploy/flink/jobmanager.py

The job starts and ends with this process, so a container that is started again is all that a killed job manager needs:
nobody submits anything. The entry point is the module that runs without containers. Standard library only.
"""

import os
import sys
from pathlib import Path

JOB_MODULE = "flink_jobs.last_n.job"
# Submits a Python program from inside the job manager; it is part of flink-python.
DRIVER = "org.apache.flink.client.python.PythonDriver"


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """The completed checkpoint (it has ``_metadata``) that was written last, of whichever job, or ``None``."""
    complete = [metadata for metadata in checkpoints.glob("*/chk-*/_metadata") if metadata.is_file()]
    newest = max(complete, key=lambda metadata: metadata.stat().st_mtime_ns, default=None)
    return newest.parent if newest else None


def command(flink_home: Path, task_managers: int, checkpoint: Path | None) -> list[str]:
    """The command of a job manager that runs the job with one slot on each of *task_managers*."""
    words = [str(flink_home / "bin" / "standalone-job.sh"), "start-foreground", "--job-classname", DRIVER]
    words.append(f"-Dparallelism.default={task_managers}")
    if checkpoint is not None:
        words += ["--fromSavepoint", str(checkpoint)]
    return [*words, "-pyclientexec", sys.executable, "-pyexec", sys.executable, "-pym", JOB_MODULE]


def main() -> None:
    """Find the checkpoint and become the job manager (same process, so its signals are the engine's)."""
    checkpoint = newest_checkpoint(Path(os.environ["NEARLINE_DATA"]) / "checkpoints")
    print(
        f"resuming from {checkpoint}" if checkpoint else "no checkpoint: starting from the log's beginning", flush=True
    )
    words = command(Path(os.environ["FLINK_HOME"]), int(os.environ.get("TASK_MANAGERS", "1")), checkpoint)
    os.execv(words[0], words)


if __name__ == "__main__":
    main()
