"""Measures how many events a second ingest accepts, each acknowledged by the log before its answer.

    python -m benchmarks.ingest http://127.0.0.1:8088 --batch 100 --connections 4 --seconds 5

A closed loop on some connections, from a separate process on the same cores: the rate of callers that wait for answers.
The job is stopped meanwhile (as for the drain), so that the figure is ingest's and the log's; a second figure has
everything running.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from itertools import islice
from typing import Any

import orjson

from benchmarks.load import closed_loop, post
from benchmarks.stage import LoadedSystem
from benchmarks.sustained import held_still
from benchmarks.traffic import pairs
from local.layout import ROOT

BATCH = 100
_CONNECTIONS = {BATCH: 4, 1: 32}
_BODIES = 500  # different requests, sent in turn; their events have no ids, so each is a new event
_RUNS = 5


def measure(stage: LoadedSystem) -> dict[str, Any]:
    """``{"events": …}``: medians of five runs, in batches of a hundred and one by one."""
    stage.probe.settle(stage.item_of_probe(0))
    job = stage.system.supervisor.pid_of("last_n")
    with held_still(job):
        alone = {"batch": _runs(stage, BATCH), "single": _runs(stage, 1)}
    stage.probe.settle(stage.item_of_probe(1))
    beside = {"batch": _runs(stage, BATCH), "single": _runs(stage, 1)}
    stage.probe.settle(stage.item_of_probe(2))
    return {"events": {**_figures(alone), "beside_the_job": _figures(beside)}}


def _figures(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name, trials in runs.items():
        rates = [trial["events_per_s"] for trial in trials]
        figures[f"{name}_per_s"] = round(statistics.median(rates))
        figures[f"{name}_spread_per_s"] = [round(min(rates)), round(max(rates))]
        for also in ("p50_ms", "p99_ms", "generator_cpu"):
            figures[f"{name}_{also}"] = round(statistics.median(trial[also] for trial in trials), 2)
    return figures


def _runs(stage: LoadedSystem, batch: int) -> list[dict[str, float]]:
    seconds = max(1.0, stage.scale.read_s / 2)
    found = []
    for run in range(_RUNS):
        stage.say(f"POST /events, {batch} at a time, run {run + 1} of {_RUNS}")
        command = [sys.executable, "-m", "benchmarks.ingest", stage.system.ingest, "--batch", str(batch)]
        environment = {**os.environ, "NEARLINE_KEY": stage.system.key}
        command += ["--connections", str(_CONNECTIONS[batch]), "--seconds", str(seconds)]
        command += ["--users", str(stage.scale.users), "--items", str(stage.scale.items)]
        command += ["--seed", str(stage.seed + run)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
    return found


def requests(url: str, batch: int, users: int, items: int, seed: int, key: str = "") -> list[bytes]:
    """Whole HTTP requests of *batch* events each (one event is an object, several are an array)."""
    source = pairs(users, items, seed)
    found = []
    for _ in range(_BODIES):
        events = [{"user_id": user, "item_id": item, "type": "click"} for user, item in islice(source, batch)]
        body = orjson.dumps(events if batch > 1 else events[0])
        found.append(post(f"{url}/events", body, key))
    return found


def main() -> None:
    """Send for the given time and print one JSON object; an error of any kind ends it with 1."""
    parser = argparse.ArgumentParser(description="Events to ingest by HTTP, as fast as its answers come.")
    parser.add_argument("url")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    bodies = requests(given.url, given.batch, given.users, given.items, given.seed, os.environ.get("NEARLINE_KEY", ""))
    result = closed_loop(given.url, bodies, given.seconds, given.connections)
    failed = result.errors + result.refused
    if failed:
        sys.exit(f"{failed} of {result.answered + failed} requests failed, {result.refused} of them refused")
    figures = {"events_per_s": result.achieved_rps * given.batch, "p50_ms": result.p50_ms, "p99_ms": result.p99_ms}
    print(json.dumps({**figures, "generator_cpu": result.load_cpu}))


if __name__ == "__main__":
    main()
