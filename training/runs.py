"""One run of a stage: the task to fit and the reports, for both `make train` and `make evaluate`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nearline.features import NUMERIC, TOKENS, TYPE_CODES, Features
from nearline.signals import CONTEXT_KEYS
from training.arrays import Bools, Floats, Ints
from training.data.dataset import Dataset
from training.data.examples import Baskets, item_counts, together
from training.data.log import Log, only
from training.data.splits import TEST, VALIDATION, Split, Stage, TimeSplit, stage_of
from training.evaluation.evaluate import Report, Scorer, evaluate
from training.fit import Fitted, Watcher, World, fit
from training.progress import RunDisplay
from training.recipe import Recipe
from training.task import Task
from training.towers import TwoTowers

DAY_MS = 86_400_000
GROUP = "country"  # the signal whose groups are compared, if the data has it
OF_LATE_DAYS = 30
TOWERS = "two towers"
TYPE_NAMES = {code: name for name, code in TYPE_CODES.items()}


def make_task(dataset: Dataset, stage: Stage, features: Features, sentences: Floats | None = None) -> Task:
    """The task of a fit on *stage*; *sentences* (items, size) are a text encoder's vectors of the catalogue."""
    arrays = features.item_inputs(list(dataset.items.items()), _untokenized if features.text_encoder else None)
    items: tuple[Tensor, ...] = (torch.from_numpy(arrays[TOKENS]), torch.from_numpy(arrays[NUMERIC]))
    if sentences is not None:
        items = (*items, torch.from_numpy(sentences))
    contexts = torch.from_numpy(features.user_context(list(dataset.log.contexts)))
    examples = together(stage.fit, stage.fit_first)
    watched = watched_by(dataset, stage)
    return Task(dataset.log, examples, stage.fitted, items, contexts, features, dataset.digest, watched)


def watched_by(dataset: Dataset, stage: Stage) -> Baskets | None:
    """The baskets that validation judges; ``None`` without any, or if *stage* is fitted on them."""
    if stage.name == TEST and dataset.split.refit:
        return None
    asked = stage_of(dataset.log, dataset.split, VALIDATION).judge
    return asked if len(asked) else None


def group_of(dataset: Dataset) -> str | None:
    """The signal whose groups of users are compared, or ``None`` if no user declared it."""
    return GROUP if any(GROUP in context for context in dataset.log.contexts) else None


def described(split: Split) -> str:
    """The split in words."""
    if isinstance(split, TimeSplit):
        refit = "refitted" if split.refit else "not refitted"
        return (
            f"by time: validated on what follows {_day(split.validate_from_ms)}, {refit}, "
            f"tested on each known user's first basket from {_day(split.test_from_ms)} on"
        )
    return "leave one out: each user's last event is the test, the one before it the validation"


def limits_of(dataset: Dataset) -> list[str]:
    """The limits of these towers, in sentences."""
    met = {TYPE_NAMES[code] for code in np.unique(np.asarray(dataset.log.kind)).tolist()}
    unmet = [name for name in TYPE_CODES if name not in met]
    limits = [f"event types that are not in the data keep weights set by hand: {', '.join(unmet)}"] if unmet else []
    silent = [key for key in CONTEXT_KEYS if not any(key in context for context in dataset.log.contexts)]
    if silent:
        limits.append(f"no user in the data declares {', '.join(silent)}: these signals change nothing")
    limits.append("items are described as the file describes them today, also for the past")
    return limits


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M").removesuffix(" 00:00")


def _untokenized(texts: Sequence[str]) -> tuple[Ints, Ints]:
    """No encoder input: in training the encoder has already read every item."""
    nothing = np.zeros((len(texts), 0), np.int64)
    return nothing, nothing


def without_items(dataset: Dataset, held_out: Bools) -> Dataset:
    """The data set without events of the *held_out* items (items,): not in targets, histories or trained ids.

    They stay in the catalogue, where items without events are no negatives either.
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
    with RunDisplay(title, epochs=recipe.epochs, steps=steps, curves=curves) as shown:
        return fit(task, recipe, seed=seed, folder=folder, resume=resume, start=start, world=world, watcher=shown)


def simple_scorers(log: Log, stage: Stage) -> dict[str, Scorer]:
    """Rankings that are the same for everyone: most popular, and most popular in the last 30 fitted days."""
    newest_ms = int(np.asarray(log.time_ms)[stage.fitted].max())
    late = stage.fitted & (np.asarray(log.time_ms) > newest_ms - OF_LATE_DAYS * DAY_MS)
    return {
        "most popular": _everyones(item_counts(log, stage.fitted)),
        "popular of late": _everyones(item_counts(log, late)),
    }


def _everyones(counts: Ints) -> Scorer:
    def score(asked: Baskets) -> Floats:
        return np.tile(counts.astype(np.float32), (len(asked), 1))

    return score


def judged(
    dataset: Dataset, stage: Stage, scorers: Mapping[str, Scorer], *, k: int, group: str | None = None
) -> Mapping[str, Report]:
    """The reports of *scorers* on *stage*'s baskets."""
    return evaluate(scorers, dataset.log, stage.fitted, stage.judge, k=k, group=group)
