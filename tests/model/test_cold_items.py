"""Items that no fitted event had: raised to the share that was asked for, and nothing else is changed."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nearline.errors import Misconfigured
from tests.model.test_training import EACH, RECIPE, shopping, task_of
from training.cold_items import BEST, raise_cold_items
from training.data.log import only
from training.fit import Fitted, fit
from training.recipe import changed
from training.task import Task
from training.towers import TwoTowers
from training.vectors import item_vectors, tower_scorer

COLD = np.arange(6 * EACH) % EACH < 2  # two items of each group


@pytest.fixture(scope="module")
def learnt() -> tuple[Task, Fitted]:
    torch.set_num_threads(1)
    log = shopping(learnable=True)
    task, _ = task_of(only(log, ~COLD[log.item]))
    return task, fit(task, RECIPE, seed=1)


def share_of_cold(towers: TwoTowers, task: Task) -> float:
    """By hand: every user's ten best of what he never had, before his last basket."""
    ends = np.append(np.flatnonzero(np.diff(task.examples.user_start)), len(task.examples) - 1)
    asked = task.examples.take(ends)
    best = []
    for scores, start, end in zip(tower_scorer(towers, task)(asked), asked.user_start, asked.end, strict=True):
        scores[task.log.item[start:end]] = -np.inf
        best.append(COLD[np.argsort(-scores)[:BEST]].mean())
    return float(np.mean(best))


def candidates(towers: TwoTowers, task: Task) -> NDArray[np.float32]:
    return item_vectors(towers, task.items)[0]


@pytest.mark.parametrize("times", [1.1, 1.3])
def test_cold_items_fill_the_share_that_was_asked_for(learnt: tuple[Task, Fitted], times: float) -> None:
    task, fitted = learnt
    towers = deepcopy(fitted.towers)
    before, parity = candidates(towers, task), times * share_of_cold(towers, task) / COLD.mean()
    assert raise_cold_items(towers, task, parity) > 0
    after = candidates(towers, task)
    assert share_of_cold(towers, task) == pytest.approx(parity * COLD.mean(), rel=0.03)
    assert (before[~COLD] == after[~COLD]).all()
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, rtol=1e-5)
    assert (after[COLD] @ after[~COLD].T).argmax(1) // (EACH - 2) == pytest.approx(np.arange(6).repeat(2))


@pytest.mark.parametrize("parity", [0.0, 0.01])
def test_cold_items_that_appear_often_enough_are_not_raised(learnt: tuple[Task, Fitted], parity: float) -> None:
    task, fitted = learnt
    towers = deepcopy(fitted.towers)
    assert share_of_cold(towers, task) > 0.01 * COLD.mean()
    assert raise_cold_items(towers, task, parity) == 0
    assert (candidates(towers, task) == candidates(fitted.towers, task)).all()


def test_a_share_that_no_level_reaches_changes_nothing(learnt: tuple[Task, Fitted]) -> None:
    task, fitted = learnt
    towers = deepcopy(fitted.towers)
    assert raise_cold_items(towers, task, 0.999 / COLD.mean()) == 0
    assert (candidates(towers, task) == candidates(fitted.towers, task)).all()


def test_more_than_all_answers_is_refused_in_words(learnt: tuple[Task, Fitted]) -> None:
    task, fitted = learnt
    with pytest.raises(Misconfigured, match=r"cold_parity 6 asks for more than all answers: 17% .* below 6.00"):
        raise_cold_items(fitted.towers, task, 6)


def test_a_recipe_raises_them_after_the_fit(learnt: tuple[Task, Fitted]) -> None:
    task, plain = learnt
    fitted = fit(task, changed(RECIPE, {"cold_parity": 3}), seed=1)
    assert fitted.cold_level > 0 == plain.cold_level
    assert share_of_cold(fitted.towers, task) > share_of_cold(plain.towers, task)
