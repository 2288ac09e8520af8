"""The job manager's health check: exit 0 when there is a job and every one of its tasks runs.

    python -IS deploy/flink/healthy.py http://127.0.0.1:8081

A job in a restart loop is RUNNING most of the time, so its tasks are asked too. Standard library only.
"""

import json
import sys
import urllib.request
from typing import Any

TIMEOUT_S = 8.0


def problem_of(overview: dict[str, Any]) -> str | None:
    """What is wrong in Flink's answer to ``/jobs/overview``, or ``None`` when every task of every job runs."""
    jobs = overview["jobs"]
    if not jobs:
        return "no job was submitted yet"
    for job in jobs:
        tasks = job["tasks"]
        if job["state"] != "RUNNING" or tasks["running"] != tasks["total"]:
            return f"{job['name']} is {job['state']}, {tasks['running']} of {tasks['total']} tasks run"
    return None


def ask(base: str) -> str | None:
    """``problem_of`` the job manager whose REST interface is at *base*."""
    try:
        with urllib.request.urlopen(f"{base}/jobs/overview", timeout=TIMEOUT_S) as answer:
            return problem_of(json.load(answer))
    except OSError as away:
        return f"{base}: {away}"


if __name__ == "__main__":
    sys.exit(ask(sys.argv[1]))
