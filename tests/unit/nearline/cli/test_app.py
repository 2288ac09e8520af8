"""The root of the command line: what it imports, and what it says of its commands."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from local.layout import ROOT
from nearline.cli.app import COMMANDS, app, load

HEAVY = ("kafka", "polars", "numpy", "httpx", "structlog", "nearline.settings")


@pytest.mark.parametrize("words", [["--help"], ["statsu"], ["version"]], ids=" ".join)
def test_what_needs_no_command_imports_none(words: list[str]) -> None:
    """All commands take two seconds to import."""
    told = f"""
import sys
from nearline.cli.app import main
try:
    sys.argv = ["nearline", *{words!r}]
    main()
except SystemExit:
    print(*({{*{HEAVY!r}}} & {{*sys.modules}}), file=sys.stderr)
"""
    run = [sys.executable, "-c", told]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.split("\n")[-2].split() == []


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_listed_in_its_own_words(name: str) -> None:
    command = load(name)
    assert command.help.split("\n\n")[0].replace("\n", " ").strip() == COMMANDS[name].line
    assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_the_help_lists_every_command_and_a_typo_is_met_with_the_nearest() -> None:
    listed = CliRunner().invoke(app, ["--help"]).output
    assert all(f" {name} " in listed for name in COMMANDS)
    typo = CliRunner().invoke(app, ["statsu"])
    assert typo.exit_code == 2
    assert "Did you mean 'status'?" in typo.output
