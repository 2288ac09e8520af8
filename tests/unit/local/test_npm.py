"""Files of npm's packages are taken only if they are those that we know."""

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from local.npm import fetch, unpack
from nearline.errors import Misconfigured


def package(folder: Path) -> Path:
    file = folder / "tiny.tgz"
    with tarfile.open(file, "w:gz") as opened:
        member = tarfile.TarInfo("package/dist/a.js")
        member.size = 3
        opened.addfile(member, io.BytesIO(b"a()"))
    return file


def test_a_file_is_taken_only_of_the_package_that_we_know(tmp_path: Path) -> None:
    packed, place = package(tmp_path), tmp_path / "kept" / "a.js"
    with pytest.raises(Misconfigured, match=r"tiny@1 has the digest sha512-.*, expected sha512-other"):
        unpack(packed, "tiny@1", "other", {"dist/a.js": place})
    assert not place.parent.exists()
    digest = base64.b64encode(hashlib.sha512(packed.read_bytes()).digest()).decode()
    unpack(packed, "tiny@1", digest, {"dist/a.js": place})
    assert [file.name for file in place.parent.iterdir()] == ["a.js"]
    assert place.read_text() == "a()"


def test_files_that_exist_need_no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert fetch("tiny@1", "", {"a": tmp_path}) is False
    with pytest.raises(Misconfigured, match="no npm found to fetch tiny@1"):
        fetch("tiny@1", "", {"a": tmp_path / "missing"})
