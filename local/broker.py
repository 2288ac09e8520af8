"""Runs a real Kafka broker (KRaft, one node) in one process, from its Maven artefacts and the flink environment's Java.

    python -m local.broker --data DIR --port P      format DIR if needed, then become the broker

The process becomes Java (same pid), so the starting process can watch and end the broker itself. `running_broker` does
that for tests and benchmarks. Standard library only, so that tests of every environment can start one.
"""

import argparse
import base64
import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local.broker_ready import is_ready
from local.layout import BUILD, ROOT, java
from local.ports import HOST, free_ports
from nearline.errors import Misconfigured, Unavailable

CLASSPATH_FILE = BUILD / "kafka" / "classpath"
AGENT_FOLDER = BUILD / "kafka" / "agent"
_SHOWN = ROOT / "deploy" / "kafka" / "jmx.yml"
# Serial GC and a small heap: 330 MB resident on a laptop instead of the 1 GB of Kafka's own start script.
_JVM = ("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true")
# A dead letter holds a whole message of `clicks` (1 MiB) in base64 and must fit; topics set their own lower limits.
_MESSAGE_MAX_BYTES = 5 * 1024 * 1024

LOG4J2 = """\
status = warn
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSS} %-5p %c{1} %m%n
logger.lifecycle.name = kafka.server.KafkaRaftServer
logger.lifecycle.level = info
logger.shutdown.name = kafka.server.BrokerServer
logger.shutdown.level = info
"""


@dataclass(frozen=True)
class BrokerFiles:
    """The files of one broker under its data folder."""

    data: Path

    @property
    def properties(self) -> Path:
        return self.data / "server.properties"

    @property
    def log4j2(self) -> Path:
        return self.data / "log4j2.properties"

    @property
    def log_dir(self) -> Path:
        return self.data / "log"

    @property
    def output(self) -> Path:
        return self.data / "broker.out"


def server_properties(log_dir: Path, port: int, controller_port: int) -> str:
    """The broker's settings for one node that is both broker and controller, reachable from this machine only."""
    settings: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": log_dir,
        # After kill -9 the old registration must expire first: with the default (9 s) a restart takes 12 s and more.
        "broker.session.timeout.ms": 2000,
        "broker.heartbeat.interval.ms": 500,
        "auto.create.topics.enable": "false",
        # The append time is the log's clock: replays check events against it.
        "log.message.timestamp.type": "LogAppendTime",
        "message.max.bytes": _MESSAGE_MAX_BYTES,
        "replica.fetch.max.bytes": _MESSAGE_MAX_BYTES,
        "default.replication.factor": 1,
        "min.insync.replicas": 1,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 8,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 8,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        "num.network.threads": 2,
        "num.io.threads": 4,
        # The default (128 MiB) is a third of this heap; 16 MiB hold 700,000 keys per pass.
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def classpath() -> str:
    """The broker's Java class path, as recorded by the downloads; refuses if a jar is missing."""
    if not CLASSPATH_FILE.exists():
        raise Misconfigured("the Kafka broker was not downloaded: run `.venv/services/bin/python -m local.downloads`")
    jars = CLASSPATH_FILE.read_text().splitlines()
    missing = [jar for jar in jars if not Path(jar).exists()]
    if missing:
        raise Misconfigured(f"{missing[0]} is missing: run `.venv/services/bin/python -m local.downloads` again")
    return ":".join(jars)


def agent(metrics_port: int) -> list[str]:
    """The Java options that serve MBeans to Prometheus at *metrics_port*; refuses if the agent is not downloaded."""
    jars = sorted(AGENT_FOLDER.glob("*.jar"))
    if not jars:
        raise Misconfigured(f"no agent in {AGENT_FOLDER}: run `.venv/services/bin/python -m local.downloads`")
    return [f"-javaagent:{jars[-1]}={HOST}:{metrics_port}:{_SHOWN}"]


def prepare(data: Path, port: int, controller_port: int, metrics_port: int | None = None) -> list[str]:
    """Write the settings into *data*, format its log folder if there is none, and return the broker's command.

    With a *metrics_port* the broker serves its own metrics there.
    The log folder appears in one step (format beside it, rename), so an interrupted first start leaves no partial one.
    """
    files = BrokerFiles(data.resolve())
    files.data.mkdir(parents=True, exist_ok=True)
    files.log4j2.write_text(LOG4J2)
    command = [str(java()), *_JVM, f"-Dlog4j2.configurationFile={files.log4j2}", "-cp", classpath()]
    if not files.log_dir.exists():
        _format(files, command, port, controller_port)
    files.properties.write_text(server_properties(files.log_dir, port, controller_port))
    java_command, *rest = command
    watched = [] if metrics_port is None else agent(metrics_port)
    return [java_command, *watched, *rest, "kafka.Kafka", str(files.properties)]


def _format(files: BrokerFiles, command: list[str], port: int, controller_port: int) -> None:
    new = files.data / "log.new"
    shutil.rmtree(new, ignore_errors=True)
    files.properties.write_text(server_properties(new, port, controller_port))
    # Kafka's tool reads an id that starts with "-" as an option, so it starts with "n".
    cluster_id = "n" + base64.urlsafe_b64encode(secrets.token_bytes(16)).decode()[1:].rstrip("=")
    tool = ["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(files.properties)]
    done = subprocess.run([*command, *tool], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Misconfigured(f"formatting {new} failed: {(done.stderr or done.stdout).strip()[-600:]}")
    new.rename(files.log_dir)


@dataclass
class RunningBroker:
    """One broker process, its address and its data folder; it can be killed and restarted in place."""

    data: Path
    port: int
    controller_port: int
    process: subprocess.Popen[bytes]

    @property
    def bootstrap(self) -> str:
        """The address for clients."""
        return f"{HOST}:{self.port}"

    def kill(self) -> None:
        """Kill the broker without warning; its data stays."""
        self.process.kill()
        self.process.wait()

    def start(self, deadline_s: float = 60.0) -> None:
        """Start the broker again on the same data and ports and wait until it is ready."""
        if self.process.poll() is None:
            return
        self.process = _spawn(self.data, self.port, self.controller_port)
        _wait_until_ready(self, deadline_s)

    def stop(self, deadline_s: float = 20.0) -> None:
        """Stop the broker, by force if it does not end within *deadline_s*."""
        self.process.terminate()
        try:
            self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def running_broker(data: Path | None = None, *, deadline_s: float = 60.0) -> Iterator[RunningBroker]:
    """A ready broker on free ports with its own data folder (temporary unless *data* is given); stopped at exit."""
    with tempfile.TemporaryDirectory(prefix="nearline-broker-") as temporary:
        port, controller_port = free_ports(2)
        folder = data or Path(temporary)
        broker = RunningBroker(folder, port, controller_port, _spawn(folder, port, controller_port))
        try:
            _wait_until_ready(broker, deadline_s)
            yield broker
        finally:
            broker.stop()


def _spawn(data: Path, port: int, controller_port: int) -> subprocess.Popen[bytes]:
    data.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "local.broker", "--data", str(data), "--port", str(port)]
    command += ["--controller-port", str(controller_port), "--end-with-parent"]
    with BrokerFiles(data).output.open("ab") as output:
        return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, stdin=subprocess.DEVNULL)


def _wait_until_ready(broker: RunningBroker, deadline_s: float) -> None:
    give_up = time.monotonic() + deadline_s
    while not is_ready(broker.port):
        ended = broker.process.poll()
        if ended is not None or time.monotonic() > give_up:
            why = f"ended with {ended}" if ended is not None else f"was not ready within {deadline_s:.0f} s"
            tail = BrokerFiles(broker.data).output.read_text(errors="replace")[-2000:]
            raise Unavailable(f"the broker on port {broker.port} {why}; the end of its output:\n{tail}")
        time.sleep(0.05)


def _end_with_parent() -> None:
    """Have Linux end this process (and the Java that it becomes) when its parent dies for any reason."""
    parent_death_signal = 1
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


def main() -> None:
    """Become the broker."""
    parser = argparse.ArgumentParser(prog="python -m local.broker", description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data folder, formatted if new")
    parser.add_argument("--port", type=int, default=9092, help="port of the clients (default 9092)")
    parser.add_argument("--controller-port", type=int, help="port of the controller (default: the port after)")
    parser.add_argument("--metrics-port", type=int, help="port of /metrics for Prometheus (default: none)")
    parser.add_argument("--end-with-parent", action="store_true", help="end when the starting process dies")
    given = parser.parse_args()
    if given.end_with_parent:
        _end_with_parent()
    try:
        command = prepare(given.data, given.port, given.controller_port or given.port + 1, given.metrics_port)
    except Misconfigured as problem:
        sys.exit(f"broker: {problem}")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
