"""A real Prometheus watches the whole system: every part is scraped, every panel's query finds something.

Comes after test_whole_system.py, whose system it shares: its nonsense stays in the log.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("supervisor")

import httpx

from local.debian import program
from local.layout import ROOT
from local.processes import wait_until
from local.prometheus import JOBS, running_prometheus
from local.system import System, http_ok
from nearline.events import encode_event
from nearline.topics import CLICKS, ITEM_POPULARITY, ITEMS, USER_SEQUENCES
from tests.e2e.test_whole_system import DEADLINE_S, append, bearer, event
from tools.metrics_docs import PARTS, asked
from tools.panels import queries

OURS = ("retrieval", "ingest", "user_tower", "item_tower", "canary", "last_n")


class Watched:
    """A system and the Prometheus that watches it."""

    def __init__(self, system: System, prometheus: str) -> None:
        self.system = system
        self._prometheus = prometheus
        self._rounds = 0

    def ask(self, expr: str) -> list[float]:
        """The values that *expr* has now; those that are no number are left out."""
        response = httpx.get(f"{self._prometheus}/api/v1/query", params={"query": expr}, timeout=10.0)
        assert response.status_code == 200, f"{expr}: {response.text}"
        values = [float(series["value"][1]) for series in response.json()["data"]["result"]]
        return [value for value in values if not isnan(value)]

    def page(self, job: str) -> str:
        """What the part shows of itself."""
        port = self.system.ports.by_name()[JOBS[job]]
        return httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10.0, follow_redirects=True).text

    def visit(self) -> None:
        """What a shop does in a second: something of each kind, so that nothing's rate is 0 / 0."""
        self._rounds += 1
        retrieval, ingest = self.system.retrieval, self.system.ingest
        body: Any = {"user_id": f"w-{self._rounds % 7}", "item_id": "teapot-1", "type": "click"}
        self._send("POST", f"{ingest}/events", body)
        self._send("PUT", f"{ingest}/items/watched", {"title": f"lantern number {self._rounds}"})
        self._send("GET", f"{retrieval}/recommend/w-1")
        self._send("GET", f"{retrieval}/search?q=lantern")
        looked = {"item_id": "teapot-1", "type": "view", "time_ms": time.time_ns() // 1_000_000}
        self._send("POST", f"{retrieval}/recommend", {"events": [looked]})

    def _send(self, method: str, url: str, body: Any = None) -> httpx.Response | None:
        try:
            return httpx.request(method, url, json=body, headers=bearer(self.system), timeout=10.0)
        except httpx.HTTPError:
            return None

    def provoke(self) -> None:
        """One fault of each kind: nonsense in every topic that is checked, bad requests, Triton that stands still."""
        nonsense = b"nonsense"
        for topic in (CLICKS, USER_SEQUENCES, ITEMS, ITEM_POPULARITY):
            append(self.system, topic, [("watched-nonsense", nonsense)])
        self._send("POST", f"{self.system.ingest}/events", {"user_id": "w-1", "type": "no such type"})
        self._send("POST", f"{self.system.ingest}/events", [])
        httpx.get(f"{self.system.retrieval}/recommend/w-1", timeout=10.0)  # without a key
        with self._stopped("triton"):
            append(self.system, CLICKS, [(one.user_id, encode_event(one)) for one in [event("w-2", "lantern-3")]])
            self._send("PUT", f"{self.system.ingest}/items/watched", {"title": "while Triton stands still"})
            assert wait_until(self._all_wait, DEADLINE_S, pause_s=0.5)

    def _all_wait(self) -> bool:
        self.visit()
        user, item = (f"increase(nearline_{tower}_waits_total[10m]) > 0" for tower in ("user_tower", "item_tower"))
        waits = f"{user} and on () {item}"
        steps = 'increase(nearline_recommend_steps_total{step="tower_unavailable"}[10m]) > 0'
        return bool(self.ask(waits) and self.ask(steps))

    @contextmanager
    def _stopped(self, part: str) -> Iterator[None]:
        pid = self.system.supervisor.pid_of(part)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def canary(system: System, folder: Path) -> Iterator[None]:
    """A canary of the system, which comes without one."""
    environment = {**os.environ, **system.environment(), "NEARLINE_CANARY_EVERY_S": "1"}
    with (folder / "canary.out").open("wb") as output:
        command = [sys.executable, "-m", "services.canary"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            assert wait_until(http_ok(system.ports.canary, "/healthz"), 60.0)
            yield
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def watched(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("prometheus")
    with canary(system, folder), running_prometheus(system.ports, folder) as url:
        yield Watched(system, url)


def test_every_part_and_every_server_is_scraped(watched: Watched) -> None:
    everybody = len(JOBS) + 1  # and Prometheus itself
    assert wait_until(lambda: watched.ask("up") == [1.0] * everybody, DEADLINE_S, pause_s=0.5), watched.ask("up")


@pytest.mark.parametrize("job", OURS)
def test_promtool_accepts_every_metrics_page(watched: Watched, job: str) -> None:
    check = [str(program("promtool")), "check", "metrics"]
    done = subprocess.run(check, input=watched.page(job), capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


@pytest.mark.parametrize("job", OURS)
def test_every_metric_that_a_part_declares_is_on_its_page(watched: Watched, job: str) -> None:
    """A metric with labels too: their series are there before anything is counted."""
    later = {"nearline_job_restored_checkpoint_info"}  # of a job that never resumed, none
    page = watched.page(job)
    missing = [one.name for one in asked(PARTS[job]) if f"\n{one.name}" not in page.replace(f"# HELP {one.name}", "")]
    kafka_only = {"nearline_lag_records"} if job in ("last_n", "canary") else set()
    assert set(missing) - later - kafka_only == set()


def test_no_panel_is_empty_when_each_fault_has_happened_once(watched: Watched) -> None:
    assert wait_until(lambda: len(watched.ask("up")) == len(JOBS) + 1, DEADLINE_S, pause_s=0.5)
    time_of_two_scrapes = "count_over_time(up[1m]) >= 5"
    assert wait_until(lambda: len(watched.ask(time_of_two_scrapes)) == len(JOBS) + 1, DEADLINE_S, pause_s=0.5)
    watched.provoke()
    empty: list[str] = []

    def none_is_empty() -> bool:
        watched.visit()
        empty[:] = [place for place, expr in queries() if not watched.ask(expr)]
        return not empty

    wait_until(none_is_empty, DEADLINE_S, pause_s=1.0)
    assert empty == []
