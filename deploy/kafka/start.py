"""Become the Kafka broker that the container's variables describe, formatting its log folder when there is none.

    CLUSTER_ID=… KAFKA_PROCESS_ROLES=… KAFKA_LOG_DIRS=… python deploy/kafka/start.py

A variable KAFKA_A_B is the broker's setting a.b, as in Apache's image; KAFKA_HEAP_OPTS and KAFKA_OPTS are options of
the JVM. The process becomes Java, so the engine's signals reach the broker.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from local.broker import LOG4J2

PREFIX = "KAFKA_"
OF_THE_JVM = ("KAFKA_HEAP_OPTS", "KAFKA_OPTS")
LIBRARIES = Path(os.environ.get("KAFKA_LIBRARIES", "/opt/kafka/libs"))
RUN = Path("/tmp")


def settings_of(environ: Mapping[str, str]) -> dict[str, str]:
    """The broker's settings, by name, that *environ* gives."""
    names = [name for name in environ if name.startswith(PREFIX) and name not in OF_THE_JVM]
    return {name.removeprefix(PREFIX).lower().replace("_", "."): environ[name] for name in names}


def java_command(environ: Mapping[str, str], log4j2: Path) -> list[str]:
    """The JVM with Kafka's class path, without the options that only the running broker takes."""
    heap = shlex.split(environ.get("KAFKA_HEAP_OPTS", "-Xms256m -Xmx512m"))
    fixed = ["-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true", f"-Dlog4j2.configurationFile={log4j2}"]
    return [str(Path(environ["JAVA_HOME"]) / "bin" / "java"), *heap, *fixed, "-cp", f"{LIBRARIES}/*"]


def is_formatted(log_dir: Path) -> bool:
    """Whether *log_dir* has been a broker's; Kafka's tool writes this file last."""
    return (log_dir / "meta.properties").exists()


def main() -> None:
    """Write the settings, format the log folder if needed, and become the broker."""
    settings = settings_of(os.environ)
    file, log4j2 = RUN / "server.properties", RUN / "log4j2.properties"
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    log4j2.write_text(LOG4J2)
    java, *rest = java_command(os.environ, log4j2)
    if not is_formatted(Path(settings["log.dirs"])):
        tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", os.environ["CLUSTER_ID"]]
        subprocess.run([java, *rest, *tool, "-c", str(file)], check=True)
    os.execv(java, [java, *shlex.split(os.environ.get("KAFKA_OPTS", "")), *rest, "kafka.Kafka", str(file)])


if __name__ == "__main__":
    try:
        main()
    except (KeyError, subprocess.CalledProcessError) as problem:
        sys.exit(f"kafka: {problem!r}")
