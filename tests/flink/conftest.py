"""The job as a process, started, watched and killed as a supervisor would."""

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from local.broker import running_broker
from local.layout import ROOT, environment_python
from local.ports import HOST, free_ports
from nearline.adapters.kafka.admin import Topics
from nearline.log import Record
from nearline.space import Space
from nearline.topics import all_topics

READY_DEADLINE_S = 240.0


def wait_for(condition: Callable[[], bool], deadline_s: float, what: str) -> None:
    """Return once *condition* holds; fail naming *what* when it does not within *deadline_s*."""
    give_up = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < give_up, f"waited {deadline_s:g} s for {what}"
        time.sleep(0.1)


@pytest.fixture(scope="package")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real broker for these tests alone: the job reads all that was ever sent to its topics."""
    with running_broker(tmp_path_factory.mktemp("broker-of-the-job")) as running:
        yield running.bootstrap


@dataclass
class Job:
    """One job on one machine: its settings, its process and what it says about itself."""

    broker: str
    data: Path
    job_port: int
    metrics_port: int
    rest_port: int
    extra: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)  # in place of the module
    process: subprocess.Popen[bytes] | None = None

    @property
    def flink_log(self) -> str:
        """The end of Flink's own log."""
        file = self.data / "flink" / "log" / "flink.log"
        return file.read_text(errors="replace")[-4000:] if file.exists() else ""

    @property
    def output(self) -> str:
        """What the process printed, all starts together."""
        file = self.data / "job.out"
        return file.read_text(errors="replace") if file.exists() else ""

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the process without waiting for it."""
        self.data.mkdir(parents=True, exist_ok=True)
        settings = {
            "NEARLINE_KAFKA": self.broker,
            "NEARLINE_DATA": str(self.data),
            "NEARLINE_JOB_PORT": str(self.job_port),
            "NEARLINE_FLINK_METRICS_PORT": str(self.metrics_port),
            "NEARLINE_FLINK_REST_PORT": str(self.rest_port),
            **self.extra,
        }
        surroundings = {k: v for k, v in os.environ.items() if not k.startswith("NEARLINE_")}
        with (self.data / "job.out").open("ab") as output:
            self.process = subprocess.Popen(
                self.command or [str(environment_python("flink")), "-m", "flink_jobs.last_n.job"],
                cwd=ROOT,
                env=surroundings | settings,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        return self.process

    def start(self) -> None:
        """Start the process and return when every task of the job runs."""
        process = self.spawn()
        over = time.monotonic() + READY_DEADLINE_S
        while not self.is_ready() and process.poll() is None:
            assert time.monotonic() < over, f"not ready in {READY_DEADLINE_S:g} s:\n{self.output}\n{self.flink_log}"
            time.sleep(0.2)
        assert process.poll() is None, f"the job ended with {process.returncode}:\n{self.output[-3000:]}"

    def is_ready(self) -> bool:
        """Whether /readyz answers 200."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.job_port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.HTTPError):
            return False

    def java_pid(self) -> int:
        """The process id of the JVM, a child of the job's process."""
        assert self.process is not None
        return next(pid for pid in children(self.process.pid) if "java" in Path(f"/proc/{pid}/comm").read_text())

    def page(self) -> str:
        """The launcher's metrics as text."""
        with urllib.request.urlopen(f"http://{HOST}:{self.job_port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def metric(self, name: str) -> float:
        """The sum of one metric of the launcher over its labels."""
        return _metric(self.job_port, name)

    def flink_metric(self, name: str) -> float:
        """The sum of one of Flink's own metrics over its labels."""
        return _metric(self.metrics_port, name)

    def checkpoints(self) -> int:
        """How many checkpoints this run of the job has completed."""
        with urllib.request.urlopen(f"http://{HOST}:{self.rest_port}/jobs/overview", timeout=5) as answer:
            job = json.load(answer)["jobs"][0]["jid"]
        with urllib.request.urlopen(f"http://{HOST}:{self.rest_port}/jobs/{job}/checkpoints", timeout=5) as answer:
            return int(json.load(answer)["counts"]["completed"])

    def wait_for_checkpoint(self) -> None:
        """Return once a checkpoint completed that began after this call."""
        wanted = self.checkpoints() + 2
        wait_for(lambda: self.checkpoints() >= wanted, 60.0, "a checkpoint")

    def stop(self) -> int:
        """End the process in good order and return its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def kill_if_running(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self.process is not None and self.process.poll() is None:
            java = self.java_pid() if self.is_ready() else None
            self.process.kill()
            self.process.wait()
            if java is not None:
                wait_for(lambda: not Path(f"/proc/{java}").exists(), 20.0, "the JVM's end")


def children(pid: int) -> list[int]:
    """The living child processes of *pid*, whichever of its threads started them."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def _metric(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found = [float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + "{", name + " "))]
    assert found, f"no metric {name}"
    return sum(found)


class Log:
    """The topics, seen from outside: clicks and profiles in, everything else out."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", max_request_size=2 * 1024 * 1024)
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap, enable_auto_commit=False, max_partition_fetch_bytes=5 * 1024 * 1024
        )
        self._seen: dict[str, list[Record]] = {}

    def send(
        self,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        topic: str = "clicks",
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Append one record to *topic*."""
        self._producer.send(topic, value, key=key, partition=partition, headers=list(headers))

    def flush(self) -> None:
        """Wait until all that was sent is in the log."""
        self._producer.flush()

    def read(self, topic: str) -> list[Record]:
        """Every record of *topic* up to now, each partition in its order."""
        partitions = [TopicPartition(topic, p) for p in self._consumer.partitions_for_topic(topic) or ()]
        seen = self._seen.setdefault(topic, [])
        self._consumer.assign(partitions)
        for part in partitions:
            self._consumer.seek(part, max((r.offset + 1 for r in seen if r.partition == part.partition), default=0))
        ends = self._consumer.end_offsets(partitions)
        while any(self._consumer.position(part) < ends[part] for part in partitions):
            for batch in self._consumer.poll(timeout_ms=500).values():
                seen += [
                    Record(topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in batch
                ]
        return seen

    def close(self) -> None:
        """Close both clients."""
        self._producer.close()
        self._consumer.close()


def new_job(broker: str, data: Path, **extra: str) -> Job:
    """A job with ports of its own, not started."""
    job_port, metrics_port, rest_port = free_ports(3)
    return Job(broker, data, job_port, metrics_port, rest_port, extra=extra)


@pytest.fixture(scope="package")
def log(broker: str) -> Iterator[Log]:
    """The topics as ``nearline init`` makes them."""
    topics = Topics(broker)
    topics.ensure(all_topics(Space(1, 64)))
    topics.close()
    log = Log(broker)
    yield log
    log.close()


@pytest.fixture(scope="package")
def job(broker: str, log: Log, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """The job, running; a test that kills it starts it again."""
    job = new_job(broker, tmp_path_factory.mktemp("job") / "data")
    try:
        job.start()
        yield job
    finally:
        job.kill_if_running()
