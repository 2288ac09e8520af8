"""Fetches the Java archives of the system once from Maven's central repository and records them under build/.

    .venv/services/bin/python -m local.downloads [--tests]

Kafka's broker goes into a class path file, Flink's Kafka connector and its zstd library into build/flink/lib. With
`--tests` it also fetches the mock Couchbase server of the contract tests, and Prometheus from Debian's archive. A
second call finds everything in place and needs no network.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from local.broker import AGENT_FOLDER, CLASSPATH_FILE
from local.debian import PROMETHEUS, prepare_prometheus
from local.layout import BUILD
from nearline.errors import Unavailable

# 4.4.0 needs an artefact that does not exist (kafka-tools-api); 4.3.1 is the newest that resolves.
KAFKA = "org.apache.kafka:kafka_2.13:4.3.1"
# Kafka's core uses slf4j 1.7: without a binding for it the broker logs nothing.
KAFKA_LOGGING = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4"
FLINK_CONNECTOR = "org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2"
# The connector's jar has Kafka's client without the library that reads zstd; this version is the client's own (4.2).
FLINK_ZSTD = "com.github.luben:zstd-jni:1.5.6-10"
# Serves the broker's MBeans to Prometheus. Newer versions are not in Maven's repository.
JMX_AGENT = "io.prometheus.jmx:jmx_prometheus_javaagent:1.0.1"
COUCHBASE_MOCK = "com.couchbase.mock:CouchbaseMock:1.5.27"

CONNECTOR_FOLDER = BUILD / "flink" / "lib"
COUCHBASE_MOCK_FILE = BUILD / "couchbase-mock" / "classpath"


def resolve(coordinate: str) -> list[Path]:
    """The files of *coordinate* and its dependencies, downloaded if they are not on this machine yet.

    One coordinate per call: resolved together, one's managed versions would override the other's (kafka-clients 3.9.1).
    """
    import jgo

    try:
        return [Path(artifact.resolve()) for artifact in jgo.resolve(coordinate)]
    except Exception as problem:
        raise Unavailable(
            f"{coordinate} could not be fetched ({problem}); check the network and run this again"
        ) from problem


def prepare_kafka() -> bool:
    """Record the broker's class path; False if it is already recorded and every file is there."""
    if _recorded(CLASSPATH_FILE, (KAFKA, KAFKA_LOGGING)):
        return False
    jars = resolve(KAFKA)
    binding = [jar for jar in resolve(KAFKA_LOGGING) if jar.name.startswith("log4j-slf4j-impl")]
    _record(CLASSPATH_FILE, (KAFKA, KAFKA_LOGGING), [*jars, *binding])
    return True


def prepare_connector() -> bool:
    """Put Flink's Kafka connector and its zstd library into their folder; False if they are already there."""
    return any([_put(jar, CONNECTOR_FOLDER) for jar in (FLINK_CONNECTOR, FLINK_ZSTD)])


def prepare_agent() -> bool:
    """Put the JMX exporter's agent into its folder; False if it is already there."""
    return _put(JMX_AGENT, AGENT_FOLDER)


def _put(coordinate: str, folder: Path) -> bool:
    """Copy the one jar of *coordinate* atomically into *folder*; False if it is already there."""
    _, name, version = coordinate.split(":")
    target = folder / f"{name}-{version}.jar"
    if target.exists():
        return False
    jar = next(path for path in resolve(coordinate) if path.name == target.name)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".part")
    shutil.copyfile(jar, unfinished)
    unfinished.rename(target)
    return True


def prepare_couchbase_mock() -> bool:
    """Record the class path of the mock Couchbase server (tests only); False if it is already recorded."""
    if _recorded(COUCHBASE_MOCK_FILE, (COUCHBASE_MOCK,)):
        return False
    _record(COUCHBASE_MOCK_FILE, (COUCHBASE_MOCK,), resolve(COUCHBASE_MOCK))
    return True


def _stamp(record: Path) -> Path:
    return record.with_name("coordinates")


def _recorded(record: Path, coordinates: Sequence[str]) -> bool:
    if not record.exists() or not _stamp(record).exists():
        return False
    same = _stamp(record).read_text().split() == list(coordinates)
    return same and all(Path(jar).exists() for jar in record.read_text().split("\n") if jar)


def _record(record: Path, coordinates: Sequence[str], jars: Sequence[Path]) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text("".join(f"{jar}\n" for jar in jars))
    _stamp(record).write_text("".join(f"{coordinate}\n" for coordinate in coordinates))


def main() -> None:
    """Fetch what is missing and print what was done."""
    parser = argparse.ArgumentParser(prog="python -m local.downloads", description=main.__doc__)
    parser.add_argument("--tests", action="store_true", help="also the downloads for tests")
    steps = [(KAFKA, prepare_kafka), (f"{FLINK_CONNECTOR}, zstd-jni", prepare_connector), (JMX_AGENT, prepare_agent)]
    if parser.parse_args().tests:
        steps.append((COUCHBASE_MOCK, prepare_couchbase_mock))
        steps.append((f"{PROMETHEUS.name} {PROMETHEUS.version} (Debian)", prepare_prometheus))
    for coordinate, prepare in steps:
        try:
            fetched = prepare()
        except Unavailable as problem:
            sys.exit(f"downloads: {problem}")
        print(f"  {coordinate:<58} {'fetched' if fetched else 'in place'}")


if __name__ == "__main__":
    main()
