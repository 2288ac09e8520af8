"""`make quality`: each seed once, settings by validation, and the results file only with the test."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from tests.support.ring import ring
from training import quality
from training.quality import averaged

DESCRIPTION = """
joint = false
[split]
kind = "leave-one-out"
[recipe]
user_tower = "causal"
packed = true
dimension = 16
history_length = 5
epochs = 2
patience = 2
batch_size = 32
half_life_days = 0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    return ring(tmp_path, DESCRIPTION, users=30, items=10)


def given(data: Path, **changes: object) -> Namespace:
    kept: dict[str, object] = {"folder": data.parent / "runs", "results": data.parent / "results"}
    usual: dict[str, object] = {"data": data, "dataset": None, "set": [], "seeds": (1,), "test": False, "threads": 1}
    return Namespace(**(kept | usual | changes))


def lines(data: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (data.parent / "runs" / "ring" / "runs.jsonl").read_text().splitlines()]


def test_a_run_that_ended_is_read_and_another_recipe_is_another_run(folder: Path) -> None:
    assert quality.quality(given(folder)) == 0
    towers = next((folder.parent / "runs").glob("ring/*/validation/towers.pt"))
    written = towers.stat().st_mtime_ns
    assert quality.quality(given(folder)) == 0
    assert (len(lines(folder)), towers.stat().st_mtime_ns) == (1, written)
    assert quality.quality(given(folder, set=["dropout=.1"])) == 0
    assert [line["recipe"].get("dropout") for line in lines(folder)] == [None, 0.1]  # type: ignore[attr-defined]


def test_only_the_test_writes_results_with_the_command_that_prints_them(folder: Path, tmp_path: Path) -> None:
    quality.quality(given(folder, seeds=(1, 2)))
    assert not (tmp_path / "results").exists()
    quality.quality(given(folder, seeds=(1, 2), set=["epochs=1"], test=True))
    told = json.loads((tmp_path / "results" / "ring.json").read_text())["ring"]
    assert told["command"] == 'make quality DATA=ring ARGS="--seeds 1,2 --set epochs=1 --test"'
    assert told["seeds"] == [1, 2]
    of_seeds = [line["figures"]["test"] for line in lines(folder) if "test" in line["figures"]]  # type: ignore[operator,index]
    assert told["test"] == averaged(of_seeds)
    assert set(told["validation"]) == {"recall@10", "ndcg@10"}
    assert len(list((folder.parent / "runs").glob("ring/*/test"))) == 0  # one model for both, as the papers have it


def test_figures_are_averaged_over_seeds() -> None:
    assert averaged([{"recall@10": 0.1}, {"recall@10": 0.2}]) == {"recall@10": 0.15}
