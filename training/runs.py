"""One run of a stage: what the towers are trained on and judged on, for `make train` and `make evaluate` alike."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nearline.features import NUMERIC, TOKENS, Features
from training.dataset import Dataset
from training.evaluate import Report, Scorer, evaluate, fitted_counts
from training.examples import Baskets, together
from training.fit import Fitted, Task, Watcher, World, fit, tower_scorer
from training.log import Log, only
from training.metrics import Floats, Mask
from training.progress import Shown
from training.recipe import Recipe
from training.splits import Stage
from training.towers import TwoTowers

DAY_MS = 86_400_000
OF_LATE_DAYS = 30
TOWERS = "two towers"


def make_task(dataset: Dataset, stage: Stage, features: Features, sentences: Floats | None = None) -> Task:
    """What a fit on *stage* is given; *sentences* (items, size) are a text encoder's vectors of the catalogue."""
    arrays = features.item_inputs(list(dataset.items.items()), _untokenized if features.text_encoder else None)
    items: tuple[Tensor, ...] = (torch.from_numpy(arrays[TOKENS]), torch.from_numpy(arrays[NUMERIC]))
    if sentences is not None:
        items = (*items, torch.from_numpy(sentences))
    contexts = torch.from_numpy(features.user_context(list(dataset.log.contexts)))
    examples = together(stage.fit, stage.fit_first)
    return Task(dataset.log, examples, stage.fitted, items, contexts, features, dataset.digest)


def _untokenized(texts: object) -> tuple[Floats, Floats]:
    """In training the encoder has read every item already, so its input is not needed."""
    nothing = np.zeros((0, 0), np.float32)
    return nothing, nothing


def without_items(dataset: Dataset, held_out: Mask) -> Dataset:
    """The data set as if the *held_out* items (items,) had never been met: no target, no history, no id of theirs.

    They stay in the catalogue and may be drawn as negatives, as any new item may.
    """
    return replace(dataset, log=only(dataset.log, ~held_out[np.asarray(dataset.log.item)]))


def run_fit(
    task: Task,
    recipe: Recipe,
    *,
    seed: int,
    title: str,
    folder: Path | None = None,
    resume: bool = False,
    start: TwoTowers | None = None,
    world: World | None = None,
    quiet: bool = False,
) -> Fitted:
    """``fit`` with its progress shown and its curves in *folder*."""
    world = world or World()
    steps = len(task.examples) // min(recipe.batch_size, len(task.examples))
    if quiet or world.rank:
        return fit(task, recipe, seed=seed, folder=folder, resume=resume, start=start, world=world, watcher=Watcher())
    curves = None if folder is None else folder / "curves"
    with Shown(title, epochs=recipe.epochs, steps=steps, curves=curves) as shown:
        return fit(task, recipe, seed=seed, folder=folder, resume=resume, start=start, world=world, watcher=shown)


def simple_scorers(log: Log, stage: Stage) -> dict[str, Scorer]:
    """Rankings that are the same for everyone: most popular, and most popular in the last 30 fitted days."""
    newest_ms = int(np.asarray(log.time_ms)[stage.fitted].max())
    late = stage.fitted & (np.asarray(log.time_ms) > newest_ms - OF_LATE_DAYS * DAY_MS)
    return {
        "most popular": _everyones(fitted_counts(log, stage.fitted)),
        "popular of late": _everyones(fitted_counts(log, late)),
    }


def _everyones(counts: Mask) -> Scorer:
    def score(asked: Baskets) -> Floats:
        return np.tile(counts.astype(np.float32), (len(asked), 1))

    return score


def judged(
    dataset: Dataset, stage: Stage, scorers: Mapping[str, Scorer], *, k: int, group: str | None = None
) -> Mapping[str, Report]:
    """The reports of *scorers* on what *stage* asks."""
    return evaluate(scorers, dataset.log, stage.fitted, stage.judge, k=k, group=group)


def towers_scorer(fitted: Fitted, task: Task) -> Scorer:
    """The scorer of fitted towers over the whole log of *task*."""
    return tower_scorer(fitted.towers, task)
