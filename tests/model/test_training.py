"""Training end to end on small data whose answer is known."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch

from nearline.features import DIMENSION, ITEM_TOWER, USER_TOWER, features_digest, item_inputs, user_batch
from nearline.items import Item
from training.evaluate import judge, make_question, popularity_scores, tower_scores
from training.examples import Baskets
from training.export import compare_with, export_towers
from training.log import Log, make_log
from training.splits import baskets, first_baskets_after
from training.train import Recipe, Towers, fit, item_vectors

DAY_MS = 86_400_000
GROUPS, EACH = 6, 12
RECIPE = Recipe(epochs=15, batch_size=64, uniform_negatives=40, half_life_days=1000)
CATALOGUE = {f"{g}-{n}": Item(f"group{g} thing{n}") for g in range(GROUPS) for n in range(EACH)}


def shopping(*, learnable: bool) -> Log:
    """120 users who buy two things on each of six days: of their own group, or, as noise, of any."""
    random = np.random.default_rng(5)
    rows = []
    for user in range(120):
        for day in range(6):
            groups = [user % GROUPS] * 2 if learnable else random.integers(0, GROUPS, 2)
            things = random.choice(EACH, 2, replace=False)
            rows += [
                {
                    "user_id": f"u{user}",
                    "item_id": f"{group}-{thing}",
                    "type": "purchase",
                    "time_ms": (1 + day) * DAY_MS,
                    "event_id": f"{user}.{day}.{n}",
                }
                for n, (group, thing) in enumerate(zip(groups, things, strict=True))
            ]
    return make_log(pl.DataFrame(rows), list(CATALOGUE))


def trained(log: Log) -> tuple[Towers, dict[str, torch.Tensor]]:
    torch.set_num_threads(1)
    inputs = {name: torch.from_numpy(array) for name, array in item_inputs(list(CATALOGUE.items())).items()}
    counts = torch.from_numpy(np.bincount(log.item, minlength=len(CATALOGUE)))
    return fit(log, inputs, baskets(log, before_ms=6 * DAY_MS), counts, RECIPE, seed=1), inputs


def last_day(log: Log) -> Baskets:
    return first_baskets_after(log, from_ms=6 * DAY_MS, before_ms=9 * DAY_MS)


@pytest.fixture(scope="module")
def learnt() -> tuple[Log, Towers, dict[str, torch.Tensor]]:
    log = shopping(learnable=True)
    return log, *trained(log)


def figures(log: Log, towers: Towers, inputs: dict[str, torch.Tensor]) -> tuple[float, float]:
    question = make_question(log, last_day(log))
    scores = tower_scores(log, question, item_vectors(towers.item, inputs), towers.user)
    popular = popularity_scores(log, question, before_ms=6 * DAY_MS)
    name = "recall@10_all"
    return judge(scores, question, k=10)[name], judge(popular, question, k=10)[name]


def test_learnable_data_scores(learnt: tuple[Log, Towers, dict[str, torch.Tensor]]) -> None:
    """Ten answers from a group of twelve hold 10/12 of what is bought; popularity finds one group in six."""
    model, popular = figures(*learnt)
    assert model > 0.7
    assert popular < 0.3


def test_noise_does_not_score() -> None:
    """There is nothing to learn: 10 of 72 items are right by chance 10/72 of the time."""
    log = shopping(learnable=False)
    model, _ = figures(log, *trained(log))
    assert model < 0.25


def test_one_click_moves_the_vector_towards_what_was_clicked(
    learnt: tuple[Log, Towers, dict[str, torch.Tensor]],
) -> None:
    """A user of group 0 with a full day's history clicks one thing of group 3."""
    _, towers, inputs = learnt
    items = item_vectors(towers.item, inputs)
    rows = np.full((2, 50), -1, dtype=np.int32)
    rows[0, :8] = range(8)
    rows[1, :9] = [3 * EACH + 4, *range(8)]
    ages = np.zeros((2, 50), dtype=np.float32)
    ages[1, 1:9] = np.log1p(24)
    batch = user_batch(items.astype(np.float16), rows, ages, np.full((2, 50), 2, dtype=np.int32))
    with torch.no_grad():
        before, after = towers.user(*map(torch.from_numpy, batch.values())).numpy()
    clicked = items[3 * EACH : 4 * EACH].mean(0)
    assert before @ after < 0.99
    assert after @ clicked > before @ clicked


def test_an_item_that_was_never_bought_lies_near_its_group(
    learnt: tuple[Log, Towers, dict[str, torch.Tensor]],
) -> None:
    _, towers, inputs = learnt
    items = item_vectors(towers.item, inputs)
    fresh = {name: torch.from_numpy(a) for name, a in item_inputs([("new", Item("group2 novelty"))]).items()}
    cosines = (item_vectors(towers.item, fresh) @ items.T)[0].reshape(GROUPS, EACH).mean(1)
    assert cosines.argmax() == 2


def test_the_same_seed_gives_the_same_towers(learnt: tuple[Log, Towers, dict[str, torch.Tensor]]) -> None:
    log, towers, inputs = learnt
    again, _ = trained(log)
    np.testing.assert_allclose(item_vectors(again.item, inputs), item_vectors(towers.item, inputs), atol=1e-3)


def test_exported_towers_stand_beside_what_they_are(
    learnt: tuple[Log, Towers, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    _, towers, inputs = learnt
    test = {"two towers": {"recall@20_new": 0.5}}
    export_towers(towers.item, towers.user, inputs, tmp_path, space=4, facts={"seed": 1, "metrics": {"test": test}})
    for tower in (ITEM_TOWER, USER_TOWER):
        folder = tmp_path / tower / "4"
        config = json.loads((folder / "config.json").read_text())
        assert config["space"] == 4
        assert config["dimension"] == DIMENSION
        assert config["features_digest"] == features_digest()
        assert config["parity"]["least_cosine"] >= 0.9999
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.onnx"]
        onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    assert "the same" in compare_with(tmp_path, {"two towers": {"recall@20_new": 0.505}}, space=4)
    assert "better" in compare_with(tmp_path, {"two towers": {"recall@20_new": 0.6}}, space=4)
    assert "worse" in compare_with(tmp_path, {"two towers": {"recall@20_new": 0.4}}, space=4)
    assert "nothing to compare" in compare_with(tmp_path / "no", test, space=4)
