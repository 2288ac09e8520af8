"""The benchmark of training: rounds after the first count, and the towers that it leaves can be served."""

from pathlib import Path

import polars as pl
import pytest

from benchmarks.train_speed import measure, rates, spread
from nearline.items import Item
from training.data.dataset import Dataset
from training.data.log import make_log
from training.data.splits import TEST, TimeSplit
from training.recipe import Recipe
from training.runs import make_task

DAY_MS = 86_400_000


def test_the_first_round_warms_up_and_the_others_are_timed() -> None:
    assert rates([10.0, 12.0, 13.0], 100) == [50.0, 100.0]
    assert spread([1.0, 5.0, 3.0]) == {"median": 3.0, "low": 1.0, "high": 5.0}


@pytest.mark.parametrize("size", ["pooled", "transformer", "causal"])
def test_a_size_is_measured_and_its_towers_are_left_for_the_server(size: str, tmp_path: Path) -> None:
    rows = [
        {"user_id": f"u{user}", "item_id": f"i{(user + day) % 12}", "type": "click", "time_ms": day * DAY_MS}
        for user in range(40)
        for day in range(1, 7)
    ]
    log = make_log(pl.DataFrame(rows), [f"i{item}" for item in range(12)])
    items = {item_id: Item(item_id) for item_id in log.item_ids}
    data = Dataset("tiny", items, log, TimeSplit(5 * DAY_MS, 6 * DAY_MS), "", {}, len(log), {})
    recipe = Recipe(user_tower=size, packed=size == "causal", batch_size=32, dimension=16)
    task = make_task(data, data.stage(TEST), recipe.features())
    found = measure(task, recipe, seed=1, rounds=2, towers=tmp_path)
    assert found["examples_per_s"]["low"] > 0
    assert found["peak_mib"] >= found["before_mib"] * 0.9
    assert len(found["losses"]) == 3
    for tower in ("user_tower", "item_tower"):
        assert (tmp_path / tower / "config.pbtxt").is_file()
        assert (tmp_path / tower / "1" / "model.onnx").is_file()
