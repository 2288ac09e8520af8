"""Files of the page: vendored ones are unchanged, and nothing is loaded from other hosts."""

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from services.web.assets import FOLDER, Assets
from services.web.templating import TEMPLATES

VENDOR = FOLDER / "vendor"
PACKAGES: list[dict[str, Any]] = tomllib.loads((VENDOR / "vendor.toml").read_text())["package"]
FILES = [(package["name"], told) for package in PACKAGES for told in package["files"]]


@pytest.mark.parametrize(("package", "told"), FILES, ids=[told["name"] for _, told in FILES])
def test_a_vendored_file_is_the_one_of_its_package(package: str, told: dict[str, str]) -> None:
    assert hashlib.sha256((VENDOR / told["name"]).read_bytes()).hexdigest() == told["sha256"], package


def test_every_vendored_file_is_told_and_every_package_has_its_licence() -> None:
    assert {path.name for path in VENDOR.iterdir()} == {told["name"] for _, told in FILES} | {"vendor.toml"}
    for package in PACKAGES:
        assert any(told["from"] == "LICENSE" for told in package["files"]), package["name"]


OURS = [*TEMPLATES.rglob("*.html"), *(path for path in FOLDER.glob("*") if path.is_file())]


@pytest.mark.parametrize("path", OURS, ids=[path.name for path in OURS])
def test_no_file_of_ours_asks_for_anything_elsewhere(path: Path) -> None:
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", text)


@pytest.mark.parametrize("path", OURS, ids=[path.name for path in OURS])
def test_no_inline_script_or_style_violates_the_content_policy(path: Path) -> None:
    text = path.read_text()
    if path.suffix == ".html":
        assert not re.search(r"""\s(style|on\w+|hx-on[:\w-]*)\s*=|<style|<script(?![^>]*\ssrc=)|javascript:""", text)


def test_an_asset_has_another_address_for_another_content(tmp_path: Path) -> None:
    (tmp_path / "page.css").write_text("a { color: red }")
    before = Assets(tmp_path).url("page.css")
    (tmp_path / "page.css").write_text("a { color: blue }")
    assert before != Assets(tmp_path).url("page.css")
    assert before.startswith("/static/page.css?v=")
