"""`make evaluate`: its file says how many answers count and which command prints it, beside that of `make quality`."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from tests.support.ring import ring
from training import study

DESCRIPTION = """
joint = false
[split]
kind = "leave-one-out"
[recipe]
dimension = 16
history_length = 5
epochs = 1
batch_size = 64
half_life_days = 0
"""


def test_items_that_nobody_had_met_are_judged_by_as_many_answers_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    data = ring(tmp_path, DESCRIPTION, users=100, items=40)
    monkeypatch.chdir(tmp_path)
    asked = {"only": ("cold_items",), "k": 3, "seeds": (1,), "set": ["dropout=.1"]}
    assert study.evaluate_all(Namespace(data=data, dataset=None, jobs=1, out=None, **asked)) == 0
    told = json.loads((tmp_path / "docs" / "results" / "ring-study.json").read_text())
    assert told["command"] == ('make evaluate DATA=ring ARGS="--k 3 --only cold_items --seeds 1 --set dropout=.1"')
    (found,) = told["cold_items"]["by_seed"]
    assert 0 <= found["in_the_full_catalogue"]["text alone"]["recall@3_new"] <= 1
    assert found["users"] > 0
