"""Runs Prometheus for the system on this machine, with the same rules as in the containers (`make observe`).

    .venv/services/bin/python -m local.prometheus [--port 9090]     become Prometheus; --print: its configuration

The configuration is made from the system's ports. The process becomes Prometheus (same pid); its data is in the
system's data folder. `running_prometheus` is the same for tests.
"""

import argparse
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from local.addresses import Ports, data_folder
from local.debian import program
from local.layout import ROOT
from local.ports import HOST, free_ports
from local.processes import wait_until
from nearline.errors import Misconfigured, Unavailable

RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
# A part's `job` label and its metrics port. Flink is one process here.
JOBS: Mapping[str, str] = {
    "retrieval": "retrieval",
    "ingest": "ingest",
    "user_tower": "user_tower",
    "item_tower": "item_tower",
    "canary": "canary",
    "web": "web",
    "last_n": "job",
    "flink": "flink_metrics",
    "kafka": "kafka_metrics",
    "triton": "triton_metrics",
}


def configuration(ports: Ports, own_port: int, *, every_s: int = 5, rules: Path = RULES) -> str:
    """Prometheus' configuration for the system on *ports*, scraped and evaluated *every_s*; JSON, also valid YAML."""
    known = ports.by_name() | {"prometheus": own_port}
    jobs = {**JOBS, "prometheus": "prometheus"}
    scraped = [
        {"job_name": job, "static_configs": [{"targets": [f"{HOST}:{known[port]}"]}]} for job, port in jobs.items()
    ]
    every = {"scrape_interval": f"{every_s}s", "evaluation_interval": f"{every_s}s"}
    return json.dumps({"global": every, "rule_files": [str(rules)], "scrape_configs": scraped}, indent=2) + "\n"


def command(config: Path, data: Path, port: int) -> list[str]:
    """The command of Prometheus on the loopback address, with the retention for an objective of 30 days."""
    return [
        str(program("prometheus")),
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        "--storage.tsdb.retention.time=35d",
        f"--web.listen-address={HOST}:{port}",
        "--log.level=warn",
    ]


@contextmanager
def running_prometheus(ports: Ports, folder: Path, *, every_s: int = 1) -> Iterator[str]:
    """The base URL of a ready Prometheus that scrapes the system on *ports*; stopped at exit."""
    (port,) = free_ports(1)
    config = folder / "prometheus.json"
    config.write_text(configuration(ports, port, every_s=every_s))
    with (folder / "prometheus.out").open("wb") as output:
        process = subprocess.Popen(command(config, folder / "data", port), stdout=output, stderr=output)
        try:
            url = f"http://{HOST}:{port}"
            if not wait_until(lambda: _is_ready(url) or process.poll() is not None, 30) or process.poll() is not None:
                raise Unavailable(f"Prometheus did not start: {(folder / 'prometheus.out').read_text()[-2000:]}")
            yield url
        finally:
            process.terminate()
            process.wait(20)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=1.0) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False


def main() -> None:
    """Become Prometheus."""
    parser = argparse.ArgumentParser(prog="python -m local.prometheus", description=main.__doc__)
    parser.add_argument("--port", type=int, default=9090, help="port of its page (default 9090)")
    parser.add_argument("--print", action="store_true", help="print the configuration and exit")
    given = parser.parse_args()
    config = configuration(Ports.from_environment(), given.port)
    if given.print:
        print(config, end="")
        return
    folder = data_folder() / "prometheus"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.json").write_text(config)
    try:
        words = command(folder / "prometheus.json", folder / "data", given.port)
    except Misconfigured as problem:
        sys.exit(f"prometheus: {problem}")
    print(f"  http://{HOST}:{given.port}/alerts and /graph; Ctrl-C ends it", flush=True)
    os.execv(words[0], words)


if __name__ == "__main__":
    main()
