"""Profiles answers: samples a second retrieval process beside a whole system under load.

    .venv/services/bin/python -m benchmarks.answer_profile [--query diversity=0.3] [--seen | --sessions]

Prints the functions by their share of the process's time, with and without their callees.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import get, open_loop
from benchmarks.probe import Probe
from benchmarks.rates import answered
from benchmarks.recall import K
from benchmarks.seen import seen_users
from benchmarks.session import sessions
from benchmarks.stage import DELTA_AT_REST, QUICK, LoadedSystem, gauges, prepare
from benchmarks.synthetic_items import bench_items
from benchmarks.traffic import user_id
from local.addresses import Ports
from local.layout import BUILD, ROOT
from local.ports import HOST, free_ports
from local.processes import wait_until
from local.system import System, embedded_system, http_ok, interrupt_on_sigterm, reset
from nearline.errors import Unavailable

_READY_S = 120.0
_WARM_UP_S = 3.0
_SHOWN = 40


def main() -> None:
    """Start, ask, print, and leave no process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answer_profile", description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, default=QUICK.items)
    parser.add_argument("--query", default="", help="parameters of the requests besides k")
    parser.add_argument("--seen", action="store_true", help="users who have seen 2,000 items")
    parser.add_argument("--sessions", action="store_true", help="POST /recommend with five events each")
    parser.add_argument("--rps", type=float, default=300)
    parser.add_argument("--seconds", type=float, default=10)
    given = parser.parse_args()
    interrupt_on_sigterm()
    data, scale = BUILD / "bench-profile", replace(QUICK, items=given.items)
    reset(System(data, Ports.free()), lambda line: None)
    with embedded_system(data) as system, Probe(system.bootstrap, system.retrieval, system.key) as probe:
        stage = LoadedSystem(system, probe, scale, 1, _say, bench_items(scale.items, 1))
        prepare(stage)
        with _sampled_retrieval(system, data / "samples.json") as (process, url):
            if given.sessions:
                requests = sessions(stage, url)
            else:
                users = seen_users(stage) if given.seen else [user_id(number) for number in range(scale.users)]
                urls = [f"{url}/recommend/{user}?k={K}&{given.query}".rstrip("&") for user in users]
                requests = [get(each, system.key) for each in urls]
            _ask(process, url, requests, given.rps, given.seconds)
    _print(json.loads((data / "samples.json").read_text()))


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _ask(process: "subprocess.Popen[bytes]", url: str, requests: Sequence[bytes], rps: float, seconds: float) -> None:
    answered(open_loop(url, requests, rps, _WARM_UP_S))
    process.send_signal(signal.SIGUSR2)
    before = sum(psutil.Process(process.pid).cpu_times()[:2])
    result = open_loop(url, requests, rps, seconds)
    used = sum(psutil.Process(process.pid).cpu_times()[:2]) - before
    print(f"{result}\n{used / max(1, result.answered) * 1e6:,.0f} us of processor time an answer, sampling included\n")


@contextmanager
def _sampled_retrieval(system: System, out: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    (port,) = free_ports(1)
    environment = {**os.environ, **system.environment(), "NEARLINE_RETRIEVAL_PORT": str(port)}
    environment["NEARLINE_SNAPSHOTS"] = ""  # the folder is the other one's
    command = [sys.executable, "-m", "benchmarks.sampled", str(out), "services.retrieval"]
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        try:
            if not wait_until(http_ok(port, "/readyz"), _READY_S, pause_s=0.5):
                raise Unavailable(f"the sampled retrieval was not ready within {_READY_S:g} s")
            if not wait_until(
                lambda: gauges(port)["nearline_index_delta_rows"] <= DELTA_AT_REST, _READY_S, pause_s=0.5
            ):
                raise Unavailable(f"the sampled retrieval had no graph of all items within {_READY_S:g} s")
            yield process, f"http://{HOST}:{port}"
        finally:
            process.terminate()


def _print(samples: Mapping[str, Any]) -> None:
    print(f"{samples['samples']} samples")
    for title in ("within", "own"):
        print(f"\n{title}")
        ranked = sorted(samples[title].items(), key=lambda each: -each[1])
        for name, count in ranked[:_SHOWN]:
            print(f"  {count / samples['samples']:6.1%}  {name}")


if __name__ == "__main__":
    main()
