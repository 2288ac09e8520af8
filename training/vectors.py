"""Computes vectors and scores with trained towers, for evaluations and exports."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.arrays import Floats
from training.data.examples import Baskets, Batch, make_batch
from training.task import Task
from training.towers import TwoTowers


def item_vectors(towers: TwoTowers, items: tuple[Tensor, ...], *, chunk: int = 8192) -> tuple[Floats, Floats]:
    """Every item's candidate and history vector, each (items, dim)."""
    with torch.no_grad():
        tower = towers.item.eval()
        parts = [tower(*(part[at : at + chunk] for part in items)) for at in range(0, len(items[0]), chunk)]
    candidates, histories = (torch.cat(vectors).numpy() for vectors in zip(*parts, strict=True))
    return candidates, histories


def tower_scorer(towers: TwoTowers, task: Task) -> Callable[[Baskets], Floats]:
    """A scorer: the dot products of each asked user with every item, with histories in FP16 as in serving."""
    candidates, histories = item_vectors(towers, task.items)
    half = histories.astype(np.float16)

    def score(asked: Baskets) -> Floats:
        scores: Floats = user_vectors(towers, task, half, asked) @ candidates.T
        return scores

    return score


def user_vectors(towers: TwoTowers, task: Task, histories: NDArray[np.float16], asked: Baskets) -> Floats:
    """The vectors of the users of *asked*, (users, dim), from their strictly earlier events."""
    return batch_vectors(towers, task, histories, make_batch(task.log, asked, length=task.features.history_length))


def batch_vectors(towers: TwoTowers, task: Task, histories: NDArray[np.float16], batch: Batch) -> Floats:
    """The vectors of the users of *batch*, (users, dim): the served function, with histories in FP16."""
    context = task.contexts[torch.from_numpy(np.asarray(batch.context, np.int64))].numpy()
    inputs = task.features.user_batch(histories, batch.items.astype(np.int32), batch.ages, batch.types, context)
    with torch.no_grad():
        vectors: Floats = towers.user.eval()(*map(torch.from_numpy, inputs.values())).numpy()
    return vectors
