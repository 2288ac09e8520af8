"""docs/your-own-data.md, its part of training: the page's commands, with as few epochs as can be."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "your-own-data.md").read_text()


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_report_reads_all_of_the_tables() -> None:
    (line,) = re.findall(r"^\.venv/train/bin/python (-m training\.data\.dataset .+)$", PAGE, re.MULTILINE)
    said = run(*shlex.split(line))
    assert "6,984 events of 400 users on 144 items" in said
    assert "dropped" not in said


def test_towers_learn_from_the_tables_and_are_exported_as_the_space_that_the_page_serves(tmp_path: Path) -> None:
    (line,) = re.findall(r'^make train DATA=(\S+ ARGS=".*")$', PAGE, re.MULTILINE)
    data, given = re.fullmatch(r'(\S+) ARGS="(.*)"', line).groups()  # type: ignore[union-attr]
    words = [word for word in shlex.split(given) if word != "--write"]  # that would replace what the demo serves
    run("-m", "training.train", "--data", data, *words, "--set", "epochs=1", "--out", str(tmp_path))
    (space,) = set(re.findall(r"NEARLINE_SPACE=([2-9]) make up", PAGE))
    for tower in ("item_tower", "user_tower"):
        assert (tmp_path / "model_repository" / tower / space / "model.onnx").is_file()
    assert (tmp_path / "model_repository" / f"model_card.{space}.md").is_file()
