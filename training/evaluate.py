"""Metrics over the full catalogue: recall@k and NDCG@k, for new items only and for all, beside most popular."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nearline.features import user_batch
from training.data import Baskets, Ints, Log, item_counts, make_batch
from training.towers import PooledUserTower

K = 20
Floats = NDArray[np.float32]
Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Question:
    """What is asked of a ranking: one row of targets and of seen items for each user, over the whole catalogue."""

    baskets: Baskets
    targets: NDArray[np.bool_]  # (users, items)
    seen: NDArray[np.bool_]  # (users, items)


def make_question(log: Log, asked: Baskets) -> Question:
    """The targets of each basket in *asked*, and what its user had bought before it."""
    shape = (len(asked), len(log.item_ids))
    targets, seen = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for row, (start, end, first) in enumerate(zip(asked.start, asked.end, asked.user_start, strict=True)):
        targets[row, log.item[start:end]] = True
        seen[row, log.item[first:start]] = True
    return Question(asked, targets, seen)


def recall(ranked: Ints, targets: NDArray[np.bool_]) -> Shares:
    """Hits among the ranked items / min(k, targets), per user; every user must have a target."""
    hits = np.take_along_axis(targets, ranked, axis=1).sum(1)
    share: Shares = hits / np.minimum(ranked.shape[1], targets.sum(1))
    return share


def ndcg(ranked: Ints, targets: NDArray[np.bool_]) -> Shares:
    """Discounted gain of the hits / that of the best possible ranking, per user; every user must have a target."""
    gains = 1 / np.log2(np.arange(ranked.shape[1]) + 2)
    got = np.take_along_axis(targets, ranked, axis=1) @ gains
    best = np.cumsum(gains)[np.minimum(ranked.shape[1], targets.sum(1)) - 1]
    share: Shares = got / best
    return share


def top(scores: Floats, k: int) -> Ints:
    """The k best columns of each row, best first; equal scores by column, so that a ranking is one ranking."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def judge(scores: Floats, question: Question, *, k: int = K) -> dict[str, float]:
    """Recall and NDCG for new items only (repeats leave targets and answers) and for all."""
    fresh = question.targets & ~question.seen
    asked = fresh.any(1)
    new = top(np.where(question.seen, -np.inf, scores)[asked], k)
    every = top(scores, k)
    return {
        f"recall@{k}_new": float(recall(new, fresh[asked]).mean()),
        f"ndcg@{k}_new": float(ndcg(new, fresh[asked]).mean()),
        "users_new": int(asked.sum()),
        f"recall@{k}_all": float(recall(every, question.targets).mean()),
        f"ndcg@{k}_all": float(ndcg(every, question.targets).mean()),
        "users_all": len(question.baskets),
    }


def popularity_scores(log: Log, question: Question, *, before_ms: int, from_ms: int = 0) -> Floats:
    """The same ranking for everyone: how often an item was bought in ``[from_ms, before_ms)``."""
    counts = item_counts(log, before_ms=before_ms, from_ms=from_ms).astype(np.float32)
    return np.broadcast_to(counts, question.seen.shape)


def tower_scores(log: Log, question: Question, items: Floats, tower: PooledUserTower) -> Floats:
    """Cosines of every asked user's vector with every item vector, the histories in FP16 as they are served."""
    scores: Floats = user_vectors(log, question.baskets, items, tower) @ items.T
    return scores


def user_vectors(log: Log, asked: Baskets, items: Floats, tower: PooledUserTower) -> Floats:
    """The vectors of the asked users, (users, dim)."""
    batch = make_batch(log, asked)
    inputs = user_batch(items.astype(np.float16), batch.items.astype(np.int32), batch.ages, batch.types)
    with torch.no_grad():
        vectors: Floats = tower.eval()(*map(torch.from_numpy, inputs.values())).numpy()
    return vectors


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """A small table for people: one row per ranking."""
    names = [name for name in next(iter(rows.values())) if "@" in name]
    lines = [f"{'':<16}" + "".join(f"{name:>16}" for name in names)]
    lines += [f"{label:<16}" + "".join(f"{row[name]:>16.4f}" for name in names) for label, row in rows.items()]
    return "\n".join(lines)
