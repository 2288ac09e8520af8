"""docs/your-own-data.md, done literally: its commands, in their order, on a system that was empty."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("supervisor")

import httpx

from local.layout import ROOT
from local.processes import wait_until
from local.system import System, embedded_system
from tools.follow import commands

PAGE = (ROOT / "docs" / "your-own-data.md").read_text()
DEADLINE_S = 240.0
# The fixture is this page's `make up`, on free ports; what belongs to training is in tests/model.
ELSEWHERE = ("make ", "NEARLINE_SPACE=", "python3 -m local.environments", ".venv/train/")


def of_a_running_system() -> list[str]:
    """The lines of the page's shell blocks that a running system can be asked, without their comments."""
    asked = [line for line in commands(PAGE) if not line.startswith(ELSEWHERE)]
    assert all(line.startswith("bin/nearline ") for line in asked), asked
    return asked


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with embedded_system(tmp_path_factory.mktemp("shop") / "data", say=print) as running:
        yield running


def shell(system: System, line: str) -> str:
    """What *line* prints in the checkout's folder."""
    environment = {**os.environ, **system.environment(), "COLUMNS": "200"}
    done = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def used(system: System, user_id: str) -> bool:
    answer = httpx.get(
        f"{system.retrieval}/recommend/{user_id}", headers={"Authorization": f"Bearer {system.key}"}, timeout=5.0
    ).json()
    return bool(answer["newest_event_id"]) and all(item["source"] == "personal" for item in answer["items"])


def without_bars(printed: str) -> str:
    """What was *printed* but for the bars, which a page does not show."""
    return "".join(line for line in printed.splitlines(keepends=True) if "━" not in line)


def test_the_pages_commands_do_what_it_says(system: System) -> None:
    told = of_a_running_system()
    assert told[0] == "bin/nearline import folder data/tea-shop"
    imported = shell(system, told[0])
    (promised,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert promised == without_bars(imported)
    assert wait_until(lambda: used(system, "C0001"), DEADLINE_S), "what was imported never came to an answer"

    said = {line: shell(system, line) for line in told[1:]}
    assert "used by an answer after" in said["bin/nearline click C0001 00007"]
    green = next(printed for line, printed in said.items() if 'category = "green"' in line)
    rows = [line for line in green.splitlines() if "personal" in line or "trending" in line]
    assert len(rows) == 5
    assert all("green" in row for row in rows)

    again = shell(system, told[0])
    assert promised == without_bars(again)


def test_the_pages_description_is_the_shops() -> None:
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert (ROOT / "data" / "tea-shop" / "dataset.toml").read_text().endswith(toml)


def test_the_page_names_a_folder_that_is_there() -> None:
    assert set(re.findall(r"\bdata/[a-z-]+", PAGE)) == {"data/tea-shop"}
    assert (Path(ROOT) / "data" / "tea-shop" / "visits.csv").is_file()
