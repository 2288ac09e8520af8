"""Metrics of top-k rankings against sets of targets: pure functions, one number for each user or for a whole run.

A ranking is an integer array (users, k) of item columns, best first, with ``NOTHING`` where fewer than k items could be
answered. Targets are ragged: see ``Targets``. Every user of a metric must have a target.

Only NumPy is imported: the environment of the baselines runs this file too.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.arrays import Bools, Floats, Ints, Shares

NOTHING = -1


@dataclass(frozen=True)
class Targets:
    """A set of items for each of *users* users, as pairs without repeats, sorted by user, then item."""

    user: Ints  # (pairs,) rows of the ranking
    item: Ints  # (pairs,)
    users: int

    @property
    def sizes(self) -> Ints:
        """How many targets each user has, (users,)."""
        return np.bincount(self.user, minlength=self.users)

    def where(self, kept: Bools) -> "Targets":
        """The pairs that *kept* marks, for the same users."""
        return Targets(self.user[kept], self.item[kept], self.users)


def make_targets(user: NDArray[Any], item: NDArray[Any], users: int) -> Targets:
    """The targets of the pairs (user, item), in any order and with repeats."""
    stride = int(item.max(initial=0)) + 1
    pairs = np.unique(user.astype(np.int64) * stride + item)
    return Targets(pairs // stride, pairs % stride, users)


def top(scores: Floats, k: int) -> Ints:
    """The k best columns of each row, best first, (rows, k); equal scores by column, -inf is never answered."""
    rows, columns = scores.shape
    least = np.partition(scores, columns - k, axis=1)[:, columns - k, None] if k < columns else -np.inf
    row, column = np.nonzero((scores >= least) & (scores > -np.inf))
    order = np.lexsort((column, -scores[row, column], row))  # ties of the k-th score make a row longer than k
    row, column = row[order], column[order]
    place = np.arange(len(row)) - np.searchsorted(row, np.arange(rows))[row]
    ranked = np.full((rows, k), NOTHING, dtype=np.int64)
    ranked[row[place < k], place[place < k]] = column[place < k]
    return ranked


def hits(ranked: Ints, targets: Targets) -> Bools:
    """Whether each answer is one of its user's targets, (users, k)."""
    found = np.zeros(ranked.shape, dtype=bool)
    place = places(ranked, targets)
    inside = place < ranked.shape[1]
    found[targets.user[inside], place[inside]] = True
    return found


def places(ranked: Ints, targets: Targets) -> Ints:
    """The place of each target in its user's ranking, 0 the best, k where it is missing, (pairs,)."""
    k = ranked.shape[1]
    stride = max(int(ranked.max(initial=0)), int(targets.item.max(initial=0))) + 2
    answers = (np.arange(len(ranked))[:, None] * stride + ranked + 1).ravel()  # NOTHING becomes 0, an item more
    order = np.argsort(answers, kind="stable")
    wanted = targets.user * stride + targets.item + 1
    at = order[np.searchsorted(answers, wanted, sorter=order).clip(max=max(len(answers) - 1, 0))]
    place: Ints = np.where(answers[at] == wanted, at % k, k)
    return place


def recall(ranked: Ints, targets: Targets) -> Shares:
    """Hits / min(k, targets) for each user: 1 is the best that k answers can do."""
    share: Shares = hits(ranked, targets).sum(1) / np.minimum(ranked.shape[1], targets.sizes)
    return share


def ndcg(ranked: Ints, targets: Targets) -> Shares:
    """Gain of the hits, discounted by 1 / log2(place + 1), / that of the best possible ranking of k, for each user."""
    gains = 1 / np.log2(np.arange(ranked.shape[1]) + 2)
    best = np.cumsum(gains)[np.minimum(ranked.shape[1], targets.sizes) - 1]
    share: Shares = hits(ranked, targets) @ gains / best
    return share


def average_precision(ranked: Ints, targets: Targets) -> Shares:
    """The precision at each hit, summed and divided by min(k, targets), for each user; its mean is MAP@k."""
    hit = hits(ranked, targets)
    precision = np.cumsum(hit, axis=1) / np.arange(1, ranked.shape[1] + 1)
    share: Shares = (precision * hit).sum(1) / np.minimum(ranked.shape[1], targets.sizes)
    return share


def reciprocal_rank(ranked: Ints, targets: Targets) -> Shares:
    """1 / place of the first hit, 0 without a hit, for each user; its mean is MRR@k."""
    hit = hits(ranked, targets)
    share: Shares = np.where(hit.any(1), 1 / (hit.argmax(1) + 1), 0.0)
    return share


def exposure(ranked: Ints, items: int) -> Ints:
    """How often each item of the catalogue is answered, (items,)."""
    return np.bincount(ranked[ranked != NOTHING], minlength=items)


def coverage(shown: Ints) -> float:
    """The share of the catalogue that is answered to anyone; *shown* is an ``exposure``."""
    return float((shown > 0).mean())


def novelty(shown: Ints, counts: NDArray[Any]) -> float:
    """Mean self-information in bits of what is answered: -log2 of the item's share of the fitted events.

    Each item is counted once more than it was seen, so that one never seen has a large and finite value.
    """
    share = (counts + 1) / (counts.sum() + len(counts))
    return float(-(shown @ np.log2(share)) / max(shown.sum(), 1))


def gini(shown: Ints) -> float:
    """How unequally the answers fall on the catalogue: 0 all items alike, (items - 1) / items one item only."""
    if shown.sum() == 0:
        return 0.0
    size = len(shown)
    rank = np.arange(1, size + 1)
    return float(((2 * rank - size - 1) * np.sort(shown)).sum() / (size * shown.sum()))
