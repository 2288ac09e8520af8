"""Raises the scores of cold items, which have no fitted event, until answers hold the requested share of them.

Training ranks cold items well among themselves, but all of them too low compared to items that it has memorised. One
vector, the users' mean direction, added in place of an item's own part, raises them together.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nearline.errors import Misconfigured
from training.arrays import Floats
from training.data.examples import Baskets, seen_pairs
from training.task import Task
from training.towers import TwoTowers
from training.vectors import item_vectors, user_vectors

BEST = 10  # answers that count for each user
MOST_USERS = 1_000
_CHUNK = 64  # users whose scores of the whole catalogue are held at a time
_HALVINGS = 12
_MOST = 16  # times the length of an item's own part: beyond it all cold items have nearly the same vector
_NEVER = np.float32(-2)  # below every cosine


def raise_cold_items(towers: TwoTowers, task: Task, parity: float) -> float:
    """Change *towers* so that cold items fill *parity* times their share of the catalogue in users' best answers.

    Measured on the histories before the last example of up to a thousand users, without the items that the user ever
    had: no target is used. The towers are unchanged if cold items already fill their share, or if no level achieves it.
    Returns the length of the vector added to their own part. ``Misconfigured`` if the share would be all answers.
    """
    cold = task.counts() == 0
    wanted = parity * float(cold.mean())
    if wanted >= 1:
        raise Misconfigured(
            f"recipe: cold_parity {parity:g} asks for more than all answers: {cold.mean():.0%} of the catalogue "
            f"was never met; it must stay below {1 / cold.mean():.2f}"
        )
    if not wanted:
        return 0.0
    level = _Level(towers, task, cold)
    if level.share(0) >= wanted:
        return 0.0
    low, high = 0.0, level.size / 8
    while level.share(high) < wanted:
        low, high = high, 2 * high
        if high > _MOST * level.size:
            level.share(0)
            return 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if level.share(middle) < wanted else (low, middle)
    level.share(high)
    return high


@dataclass(frozen=True)
class _Best:
    """The best scores of the items that were met, (users, BEST), and the users' vectors, in chunks."""

    users: Floats
    scores: Floats


class _Level:
    """Computes users' best answers at any level of the cold items."""

    def __init__(self, towers: TwoTowers, task: Task, cold: NDArray[np.bool_]) -> None:
        self._towers = towers
        self._cold = tuple(part[torch.from_numpy(np.flatnonzero(cold))] for part in task.items)
        self._bias = towers.item.stand_in.bias.detach().clone()
        self._best = list(_best_met(towers, task, cold))
        mean = torch.from_numpy(np.concatenate([best.users for best in self._best]).mean(0))
        self._direction = mean / mean.norm().clamp(min=1e-6)
        with torch.no_grad():
            own = towers.item.own_part(*self._cold)
        self.size = max(1.0, float(own.norm(dim=1).mean()))

    def share(self, level: float) -> float:
        """The share of cold items in the best answers once *level* is added; the towers keep it."""
        with torch.no_grad():
            self._towers.item.stand_in.bias.copy_(self._bias + level * self._direction)
        vectors, _ = item_vectors(self._towers, self._cold)
        return float(np.mean(np.concatenate([_cold_share(best, vectors) for best in self._best])))


def _best_met(towers: TwoTowers, task: Task, cold: NDArray[np.bool_]) -> list[_Best]:
    candidates, histories = item_vectors(towers, task.items)
    half, found = histories.astype(np.float16), []
    asked = _last_of_each_user(task.examples)
    for at in range(0, len(asked), _CHUNK):
        some = asked.take(np.arange(at, min(at + _CHUNK, len(asked))))
        users = user_vectors(towers, task, half, some)
        scores = users @ candidates.T
        scores[seen_pairs(task.log, Baskets(some.end, some.end, some.user_start))] = _NEVER
        found.append(_Best(users, _top(scores[:, ~cold])))
    return found


def _last_of_each_user(examples: Baskets) -> Baskets:
    """At most ``MOST_USERS`` of them, spread over the log."""
    last = np.flatnonzero(np.append(examples.user_start[1:] != examples.user_start[:-1], True))
    chosen: NDArray[np.int64] = last[np.linspace(0, len(last) - 1, min(len(last), MOST_USERS)).astype(np.int64)]
    return examples.take(chosen)


def _cold_share(best: _Best, vectors: Floats) -> Floats:
    """The share of cold items in each user's best answers."""
    cold = _top(best.users @ vectors.T)
    both = np.concatenate([best.scores, cold], axis=1)
    first = np.argsort(-both, axis=1, kind="stable")[:, : best.scores.shape[1]]
    share: Floats = (first >= best.scores.shape[1]).mean(axis=1)
    return share


def _top(scores: Floats) -> Floats:
    most = min(BEST, scores.shape[1])
    top: Floats = np.sort(np.partition(scores, scores.shape[1] - most, axis=1)[:, -most:], axis=1)
    return top
