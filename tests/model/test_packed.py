"""Packed sequences: one pass answers what serving would answer at each event, and nothing sees what comes later."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional as F

from nearline.errors import Misconfigured
from nearline.features import TYPE_CODES, Features
from nearline.items import Item
from training.data.examples import (
    PADDING,
    Baskets,
    in_batches,
    make_batch,
    make_packed,
    make_windows,
    seen_pairs,
    together,
)
from training.data.log import Log, make_log
from training.data.splits import LeaveOneOut, stage_of
from training.evaluation.evaluate import NEW, evaluate
from training.fit import Watcher, World, fit
from training.loss import basket_loss, next_loss
from training.recipe import CAUSAL, CORRECTED, IDF, LOGQ, PLAIN, Recipe, changed
from training.task import Task
from training.towers import CausalUserTower, TwoTowers
from training.vectors import tower_scorer

HOUR_MS = 3_600_000
COLOURS, EACH = 4, 6
CATALOGUE = {f"{c}-{n}": Item(f"colour{c} thing{n}") for c in range(COLOURS) for n in range(EACH)}
RECIPE = Recipe(
    user_tower=CAUSAL,
    packed=True,
    softmax="full",
    epochs=12,
    batch_size=64,
    dimension=32,
    history_length=6,
    dropout=0.1,
    half_life_days=0,
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def wheel(users: int = 90, *, steps: int = 9) -> Log:
    """Everybody goes through the colours in one order, each thing at most once: the newest event tells what follows."""
    random = np.random.default_rng(3)
    rows = []
    for user in range(users):
        things = [random.permutation(EACH) for _ in range(COLOURS)]
        for step in range(steps):
            colour, turn = (user + step) % COLOURS, step // COLOURS
            rows.append((f"u{user:03}", f"{colour}-{things[colour][turn]}", "click", step * HOUR_MS * 7, step))
    columns = ["user_id", "item_id", "type", "time_ms", "order"]
    return make_log(pl.DataFrame(rows, schema=columns, orient="row"), list(CATALOGUE), joint=False)


@pytest.fixture(scope="module")
def log() -> Log:
    return wheel()


def task_of(log: Log, recipe: Recipe = RECIPE) -> Task:
    stage = stage_of(log, LeaveOneOut(), "validation")
    features = recipe.features()
    tensors = tuple(torch.from_numpy(array) for array in features.item_inputs(list(CATALOGUE.items())).values())
    contexts = torch.from_numpy(features.user_context(list(log.contexts)))
    return Task(
        log, together(stage.fit, stage.fit_first), stage.fitted, tensors, contexts, features, watched=stage.judge
    )


def recall(log: Log, task: Task, towers: TwoTowers, *, k: int) -> float:
    stage = stage_of(log, LeaveOneOut(), "test")
    report = evaluate({"towers": tower_scorer(towers, task)}, log, stage.fitted, stage.judge, k=k, settings=(NEW,))
    return report["towers"].settings[NEW].figures["recall"].mean


@pytest.mark.parametrize("length", [1, 3, 6, 50])
def test_every_example_is_asked_once_at_its_newest_event(log: Log, length: int) -> None:
    examples = task_of(log).examples
    windows = make_windows(examples, length=length, random=np.random.default_rng(1))
    batches = [make_packed(log, examples, of) for of in in_batches(windows, 5, np.random.default_rng(2)) if len(of)]
    starts = np.concatenate([batch.chosen.start for batch in batches])
    np.testing.assert_array_equal(np.sort(starts), np.sort(examples.start))
    for batch in batches:
        newest = batch.items.ravel()[batch.asked]
        known = batch.chosen.start > batch.chosen.user_start
        np.testing.assert_array_equal(newest[known], log.item[batch.chosen.start[known] - 1])
        assert (newest[~known] == PADDING).all()
        np.testing.assert_array_equal(batch.shown, known)
        np.testing.assert_array_equal(batch.target_item, log.item[batch.chosen.start])
        assert ((batch.items >= 0).sum(1) <= length).all()


def test_a_first_example_is_asked_before_anything_was_done(log: Log) -> None:
    examples = task_of(log).examples
    batch = make_packed(log, examples, make_windows(examples, length=50))
    first = batch.chosen.start == batch.chosen.user_start
    row, place = np.divmod(batch.asked, batch.items.shape[1])
    for each in np.flatnonzero(first):
        assert (batch.items[row[each], place[each] :] == PADDING).all()


def test_no_events_leave_no_window() -> None:
    nothing = np.zeros(0, np.int64)
    assert len(make_windows(Baskets(nothing, nothing, nothing), length=5)) == 0


@pytest.mark.parametrize("layers", [1, 2])
def test_one_pass_answers_what_serving_answers_at_each_event(log: Log, layers: int) -> None:
    """Also for those who did nothing yet, and with every weight drawn at random."""
    torch.manual_seed(0)
    features = Features(dimension=16, history_length=8)
    tower = CausalUserTower(features, heads=2, layers=layers, dropout=0.5).eval()
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    vectors = F.normalize(torch.randn(len(CATALOGUE), 16), dim=1)
    examples = task_of(log).examples
    packed = make_packed(log, examples, make_windows(examples, length=8))
    context = torch.randint(0, 50, (len(packed.asked), 8), generator=torch.Generator().manual_seed(1)).int()
    served = make_batch(log, packed.chosen, length=8)

    def seen(items: np.ndarray) -> torch.Tensor:
        return vectors[torch.from_numpy(np.maximum(items, 0))] * torch.from_numpy(items >= 0)[:, :, None]

    with torch.no_grad():
        alone = tower(seen(served.items), torch.from_numpy(served.ages), torch.from_numpy(served.types), context)
        every = tower.every(
            seen(packed.items),
            torch.from_numpy(packed.ages),
            torch.from_numpy(packed.types),
            context,
            torch.from_numpy(packed.asked),
        )
    torch.testing.assert_close(every, alone, atol=1e-5, rtol=1e-5)


def test_the_causal_tower_ignores_later_events() -> None:
    torch.manual_seed(0)
    tower = CausalUserTower(Features(dimension=16, history_length=5), heads=2, layers=2, dropout=0).eval()
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    vectors, types = torch.randn(1, 5, 16), torch.full((1, 5), TYPE_CODES["click"])
    ages, context = torch.zeros(1, 5, 5), torch.zeros(5, 8, dtype=torch.int32)
    before = tower.every(vectors, ages, types, context, torch.arange(5))
    vectors[:, 0] = 9.0  # the newest
    after = tower.every(vectors, ages, types, context, torch.arange(5))
    torch.testing.assert_close(after[1:], before[1:])
    assert float((after[0] - before[0]).abs().max().detach()) > 1e-3


USERS = F.normalize(torch.randn(600, 5, generator=torch.Generator().manual_seed(1)).double(), dim=1)
ITEMS = F.normalize(torch.randn(9, 5, generator=torch.Generator().manual_seed(2)).double(), dim=1)
TARGETS = torch.arange(600) % 9
SEEN = (torch.arange(600), (torch.arange(600) + torch.arange(600) % 2) % 9)  # the target itself, or another one


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("seen", [None, SEEN], ids=["all rivals", "seen are none"])
@pytest.mark.parametrize("correction", [None, PLAIN, LOGQ, CORRECTED])
def test_the_loss_of_single_targets_is_that_of_baskets_of_one(
    correction: str | None, seen: tuple[torch.Tensor, torch.Tensor] | None, smoothing: float
) -> None:
    """In value and in every gradient."""
    log_q = None if correction is None else torch.linspace(-2, -0.1, 9).double()
    weight = torch.linspace(0.2, 1, 600).double()
    how: dict[str, Any] = {"log_inclusion": log_q, "seen": seen, "smoothing": smoothing}
    how["correction"] = correction or CORRECTED
    found: list[list[torch.Tensor | None]] = []
    losses: tuple[tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...]], ...]
    losses = ((basket_loss, (torch.arange(600),)), (next_loss, ()))
    for loss, rows in losses:
        leaves = [USERS.clone(), ITEMS.clone(), torch.tensor(0.2).double()]
        users, items, temperature = (leaf.requires_grad_() for leaf in leaves)
        value: torch.Tensor = loss(users, items, *rows, TARGETS, weight, temperature, **how)
        value.backward()
        found.append([value.detach(), *(leaf.grad for leaf in leaves)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_smoothing_is_the_cross_entropy_with_smoothed_labels() -> None:
    loss = next_loss(USERS, ITEMS, TARGETS, torch.ones(600).double(), torch.tensor(0.3).double(), smoothing=0.1)
    wanted = F.cross_entropy(USERS @ ITEMS.T / 0.3, TARGETS, label_smoothing=0.1)
    torch.testing.assert_close(loss, wanted)


def test_seen_pairs_lists_the_items_before_each_example(log: Log) -> None:
    examples = task_of(log).examples
    row, item = seen_pairs(log, examples.take(np.array([3, 0])))
    np.testing.assert_array_equal(row, [0, 0, 0])
    np.testing.assert_array_equal(item, log.item[:3])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layers": 2, "label_smoothing": 0.1, "epochs": 16},
        {"seen_rivals": False, "softmax": "sampled", "uniform_negatives": 10},
        {"token_weights": IDF, "item_layer": False, "id_start": 0.1, "patience": 12},
        {"token_count": 1, "id_start": 0.1, "id_dropout": 0.0},
    ],
    ids=["plain", "layers", "seen", "idf", "no text"],
)
def test_packed_training_learns_an_order(log: Log, settings: dict[str, object]) -> None:
    """Six things of the next colour, of which one or two were had: five answers hold it."""
    recipe = changed(RECIPE, settings)
    task = task_of(log, recipe)
    assert recall(log, task, fit(task, recipe, seed=1).towers, k=6) > 0.9


def test_the_towers_of_the_best_epoch_are_kept_and_patience_ends_a_run(log: Log) -> None:
    """A rate that grows without end: the towers get worse, and those before it are what comes out."""
    recipe = replace(RECIPE, epochs=30, patience=2, learning_rate=0.02)

    class Heard(Watcher):
        def __init__(self) -> None:
            self.figures: list[float] = []

        def judged(self, epoch: int, figures: Mapping[str, float]) -> None:
            self.figures.append(figures["ndcg@10"])

    heard = Heard()
    fitted = fit(task_of(log, recipe), recipe, seed=1, watcher=heard)
    assert [each["ndcg@10"] for each in fitted.watched] == heard.figures
    assert fitted.best_epoch == int(np.argmax(heard.figures)) + 1
    assert fitted.epochs == fitted.best_epoch + 2 < 30
    again = fit(task_of(log, recipe), replace(recipe, patience=30, epochs=30), seed=1)
    assert again.watched[: len(heard.figures)] == fitted.watched


def test_a_packed_run_needs_the_causal_tower_and_one_process(log: Log) -> None:
    with pytest.raises(Misconfigured, match="need user_tower=causal"):
        replace(RECIPE, user_tower="transformer")
    with pytest.raises(Misconfigured, match="for one process"):
        fit(task_of(log), RECIPE, seed=1, world=World(0, 2))
