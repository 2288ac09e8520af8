"""``nearline freshness-value`` hands over to the training environment, or says what is to be done first."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from local.layout import ROOT
from nearline.cli import freshness_value
from nearline.cli.app import app
from nearline.errors import Misconfigured

PYTHON = """#!/bin/sh
pwd
for word in "$@"; do echo "$word"; done
exit 7
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with an interpreter for training that says what it was asked and ends with 7."""
    python = tmp_path / ".venv" / "train" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def test_the_training_environment_gets_the_words_and_its_exit_code_is_the_commands(checkout: Path) -> None:
    (checkout / "towers.pt").touch()
    code = (
        "import sys, pathlib\n"
        "from nearline.cli.freshness_value import hand_over\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "hand_over(root, ['/my log', '--delays=0,1h'], trained=root)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(checkout)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        str(checkout),
        "-m",
        "training.freshness_value",
        "/my log",
        "--delays=0,1h",
    ]
    assert done.returncode == 7


def test_without_the_training_environment_the_first_step_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"not built: `make train DATA=/my/log` first"):
        freshness_value.hand_over(tmp_path, ["/my/log"], trained=tmp_path)


def test_without_towers_the_first_step_is_named(checkout: Path) -> None:
    with pytest.raises(Misconfigured, match=r"no trained towers in .*: `make train DATA=/my/log` first"):
        freshness_value.hand_over(checkout, ["/my/log"], trained=checkout / "build")


def test_paths_are_meant_from_where_the_command_is_given(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    (checkout / "log").mkdir()
    asked = CliRunner().invoke(app, ["freshness-value", "log", "--towers", "mine"])
    assert isinstance(asked.exception, Misconfigured)
    assert f"DATA={checkout}/log" in str(asked.exception)


def test_a_folder_that_is_not_there_is_named() -> None:
    done = CliRunner().invoke(app, ["freshness-value", "/no/such/log"])
    assert "no folder at /no/such/log" in f"{done.exception}{done.output}"
