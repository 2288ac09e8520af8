"""A task: the input of one fit, and the untrained or warm towers that it begins with."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearline.errors import Misconfigured
from nearline.features import Features
from training.arrays import Ints
from training.data.examples import Baskets
from training.data.log import Log
from training.recipe import IDF, Recipe
from training.towers import TwoTowers


@dataclass(frozen=True)
class Task:
    """The input of one fit: the log, its examples, and every item and context in the towers' form."""

    log: Log
    examples: Baskets
    fitted: NDArray[np.bool_]  # which events of the log may be counted
    items: tuple[Tensor, ...]  # tokens, numeric and, with a text encoder, sentence; one row for each item
    contexts: Tensor  # (contexts, 8)
    features: Features
    data_digest: str = ""
    watched: Baskets | None = None  # baskets to choose the best epoch by (``Recipe.patience``); never fitted

    def counts(self) -> Ints:
        """How often each item is among the fitted events, (items,)."""
        return np.bincount(np.asarray(self.log.item)[self.fitted], minlength=len(self.log.item_ids))

    def __post_init__(self) -> None:
        """Refuse a task without examples."""
        if not len(self.examples):
            raise Misconfigured(
                "there is no example to train on: no user has a second event, or the split leaves none before its cut; "
                "look at what `python -m training.data.dataset FOLDER` prints"
            )


def new_towers(task: Task, recipe: Recipe, *, seed: int) -> TwoTowers:
    """Untrained towers, with an own part for every item among the fitted events."""
    torch.manual_seed(seed)
    sentence_size = task.items[2].shape[1] if len(task.items) > 2 else 0
    towers = TwoTowers(task.features, recipe, sentence_size=sentence_size)
    met = task.items[0][np.flatnonzero(task.counts())]
    towers.item.own_ids(met[:, 0], scale=recipe.id_start)
    if recipe.token_weights == IDF:
        towers.item.weigh(met[:, 1:])
    return towers


def warm(towers: TwoTowers, start: TwoTowers, items: tuple[Tensor, ...]) -> None:
    """Give *towers* the weights of *start*; an item that is new since then begins with its text's projection."""
    mine, theirs = dict(towers.named_parameters()), dict(start.named_parameters())
    with torch.no_grad():
        for name, parameter in mine.items():
            if name == "item.ids":
                continue
            if name not in theirs or theirs[name].shape != parameter.shape:
                came = list(theirs[name].shape) if name in theirs else "nothing"
                raise Misconfigured(
                    f"these towers can not start from those: {name} is {came} there and {list(parameter.shape)} here; "
                    "a warm start needs the same recipe of towers"
                )
            parameter.copy_(theirs[name])
        towers.item.ids.copy_(_begun_ids(towers, start, items))


def _begun_ids(towers: TwoTowers, start: TwoTowers, items: tuple[Tensor, ...]) -> Tensor:
    rows = torch.searchsorted(torch.sort(items[0][:, 0]).values, towers.item.sorted_ids)
    order = torch.argsort(items[0][:, 0])[rows]
    return start.item.own_part(*(part[order] for part in items))
