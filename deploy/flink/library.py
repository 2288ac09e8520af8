"""Flink's library folder: links to the package's own jars, flink-python, the Kafka connector and its zstd library;
and a jar of our own Java classes.

    python deploy/flink/library.py TARGET CONNECTOR_FOLDER

FLINK_LIB_DIR is pointed at it. The jars stay where they are, so the installed package is not changed. flink-python lies
here, and not in the job's own class loader, because a second copy in another loader breaks the Python inside the JVM
when a job restarts.
"""

import os
import sys
from pathlib import Path

from flink_jobs.last_n.own_jar import build_jar


def link_library(target: Path, flink_home: Path, connector: Path) -> list[Path]:
    """Fill *target* with links to every jar that Flink's processes load; returns the links, sorted."""
    jars = [*flink_home.glob("lib/*.jar"), *flink_home.glob("opt/flink-python-*.jar"), *connector.glob("*.jar")]
    names = {jar.name for jar in jars}
    for needed in ("flink-dist-", "flink-python-", "flink-sql-connector-kafka-", "zstd-jni-"):
        if not any(name.startswith(needed) for name in names):
            raise FileNotFoundError(f"no {needed}*.jar below {flink_home} or {connector}; found {sorted(names)}")
    target.mkdir(parents=True, exist_ok=True)
    for jar in jars:
        (target / jar.name).unlink(missing_ok=True)
        (target / jar.name).symlink_to(jar.resolve())
    return sorted(target.glob("*.jar"))


if __name__ == "__main__":
    flink_home, target = Path(os.environ["FLINK_HOME"]), Path(sys.argv[1])
    links = link_library(target, flink_home, Path(sys.argv[2]))
    library = [*links, *flink_home.glob("plugins/metrics-prometheus/*.jar")]
    build_jar(target / "nearline.jar", java=Path(os.environ["JAVA_HOME"]) / "bin" / "java", library=library)
    for jar in sorted(target.glob("*.jar")):
        print(jar.name)
