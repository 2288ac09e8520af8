"""Makes the jar of our few Java classes (``flink_jobs/java``), with the compiler that Flink's table runtime carries.

A Java runtime has no compiler, and a jar in the tree could not be read. It takes half a second.
"""

import subprocess
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from nearline.errors import Misconfigured

SOURCES = Path(__file__).parents[1] / "java"
# Which classes Flink is to find, by the interface that it asks for.
_FOUND_AS = {
    "org.apache.flink.metrics.reporter.MetricReporterFactory": (
        "org.apache.flink.metrics.prometheus.BoundPrometheusReporterFactory"
    ),
    "org.apache.flink.runtime.io.network.netty.InboundChannelHandlerFactory": "nearline.flink.RequestGuardFactory",
}
_COMPILER = "org.codehaus.commons.compiler.samples.CompilerDemo"


def build_jar(jar: Path, *, java: Path, library: Iterable[Path]) -> None:
    """Write our classes to *jar*, compiled against the jars of *library* by the runtime *java*."""
    path = ":".join(str(each) for each in library)
    with tempfile.TemporaryDirectory() as folder:
        words = [str(java), "-XX:TieredStopAtLevel=1", "-cp", path, _COMPILER, "-d", folder, "-classpath", path]
        words += [str(source) for source in sorted(SOURCES.glob("*.java"))]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        classes = sorted(Path(folder).rglob("*.class"))
        if done.returncode != 0 or not classes:
            raise Misconfigured(f"the classes in {SOURCES} do not compile: {(done.stdout + done.stderr)[-1000:]}")
        with zipfile.ZipFile(jar, "w") as archive:
            for each in classes:
                archive.write(each, each.relative_to(folder))
            for interface, name in _FOUND_AS.items():
                archive.writestr(f"META-INF/services/{interface}", f"{name}\n")
