"""Programs unpacked from Debian's packages: only the file that was tried, or none."""

import shutil
import subprocess
from pathlib import Path

import pytest

from local.debian import Package, _check, program
from nearline.errors import Misconfigured, Unavailable

SHA256 = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"  # of "foo"


@pytest.mark.parametrize(("name", "content", "is_taken"), [("amd64", "foo", True), ("amd64", "bar", False)])
def test_a_file_with_another_digest_is_not_unpacked(name: str, content: str, is_taken: bool, tmp_path: Path) -> None:
    package = Package("thing", "1.0+ds-1", (("amd64", SHA256),))
    file = tmp_path / f"thing_1.0+ds-1_{name}.deb"
    file.write_text(content)
    if is_taken:
        _check(package, file)
    else:
        with pytest.raises(Unavailable, match=f"expected {SHA256}"):
            _check(package, file)


def test_prometheus_is_the_version_that_was_tried_or_this_machines_own() -> None:
    found = program("prometheus")
    said = subprocess.run([str(found), "--version"], capture_output=True, text=True, check=True, timeout=30)
    assert "2.42" in said.stdout + said.stderr or str(found) == shutil.which("prometheus")


def test_a_program_that_is_nowhere_says_what_to_run() -> None:
    with pytest.raises(Misconfigured, match=r"local.downloads --tests"):
        program("no-such-program")
