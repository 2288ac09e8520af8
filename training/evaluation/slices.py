"""Where a model is good: by how popular the target is, how long the history is, which group the user belongs to.

Plain arrays come in, so that every function can be checked by hand. Ranks and per-user values come from
``training.evaluation.evaluate``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearline.hashing import hash64_all
from training.arrays import Bools, Ints, Shares
from training.data.examples import Baskets
from training.data.log import Log
from training.evaluation import bootstrap
from training.evaluation.metrics import Targets

LEAST_USERS = 50  # a smaller group says more about its few users than about the model
UNKNOWN = "unknown"
OTHERS = "all others"
NEVER_FITTED = "never fitted"
_LENGTHS: tuple[tuple[str, int], ...] = (("0", 0), ("1", 1), ("2-5", 5), ("6-20", 20), ("21-50", 50))
_LONGEST = ">50"


@dataclass(frozen=True)
class Slice:
    """One part of the users or of the targets, and its figures by name."""

    label: str
    users: int
    figures: Mapping[str, float]


def by_popularity(place: Ints, targets: Targets, counts: NDArray[Any], k: int) -> tuple[Slice, ...]:
    """Share of the targets found, by the tenth of the fitted items that the target is in (1 = most fitted).

    Pooled over users: targets and hits of all slices add up to the whole. *place* is ``metrics.places``.
    """
    decile = deciles(counts)
    labels = [*map(str, range(1, 11)), NEVER_FITTED]
    sliced = ((decile[targets.item] == number) for number in range(11))
    return tuple(
        Slice(label, len(np.unique(targets.user[of])), _found(int((place[of] < k).sum()), int(of.sum())))
        for label, of in zip(labels, sliced, strict=True)
        if of.any()
    )


def _found(hits: int, targets: int) -> dict[str, float]:
    return {"targets": targets, "hits": hits, "found": hits / targets}


def deciles(counts: NDArray[Any]) -> Ints:
    """0 for the tenth of the fitted items with the most events … 9, 10 for items never fitted; ties by column."""
    order = np.argsort(-counts, kind="stable")
    fitted = int((counts > 0).sum())
    decile = np.full(len(counts), 10)
    decile[order[:fitted]] = np.arange(fitted) * 10 // max(fitted, 1)
    return decile


def by_history(per_user: Mapping[str, Shares], lengths: NDArray[Any]) -> tuple[Slice, ...]:
    """Means by the number of events that a user had before the target, (users,)."""
    bounds = np.array([most for _, most in _LENGTHS])
    part = np.searchsorted(bounds, lengths)
    labels = [*(label for label, _ in _LENGTHS), _LONGEST]
    return tuple(
        _means(label, per_user, part == number) for number, label in enumerate(labels) if (part == number).any()
    )


def pooled(groups: NDArray[np.str_], least: int = LEAST_USERS) -> NDArray[np.str_]:
    """*groups* with those of fewer than *least* users put together as one."""
    names, number, counts = np.unique(groups, return_inverse=True, return_counts=True)
    merged: NDArray[np.str_] = np.where(counts < least, OTHERS, names)[number]
    return merged


def by_group(per_user: Mapping[str, Shares], groups: NDArray[Any], least: int = LEAST_USERS) -> tuple[Slice, ...]:
    """Means by the group of each user, (users,), of the groups with *least* users or more, the largest first."""
    names, counts = np.unique(groups, return_counts=True)
    order = np.lexsort((names, -counts))
    return tuple(_means(str(names[at]), per_user, groups == names[at]) for at in order if counts[at] >= least)


def _means(label: str, per_user: Mapping[str, Shares], of: Bools) -> Slice:
    return Slice(label, int(of.sum()), {name: float(values[of].mean()) for name, values in per_user.items()})


def largest_gap(slices: Sequence[Slice], values: Shares, groups: NDArray[Any], *, metric: str, seed: int) -> str:
    """The largest difference between two groups of *slices* in words, with the interval of that difference."""
    if len(slices) < 2:
        return f"no two groups with at least {LEAST_USERS} users"
    best = max(slices, key=lambda s: s.figures[metric])
    worst = min(slices, key=lambda s: s.figures[metric])
    spread = [
        bootstrap.resampled_means(values[None, groups == part.label], seed=seed + number)[0]
        for number, part in enumerate((best, worst))
    ]
    gap = bootstrap.figure(best.figures[metric] - worst.figures[metric], spread[0] - spread[1])
    return (
        f"{metric}: {best.label} {best.figures[metric]:.4f} ({best.users} users) against {worst.label}"
        f" {worst.figures[metric]:.4f} ({worst.users} users), the largest gap of {len(slices)} groups:"
        f" {gap.mean:.4f} [{gap.low:.4f}, {gap.high:.4f}]"
    )


def user_groups(log: Log, asked: Baskets, signal: str) -> NDArray[np.str_]:
    """The *signal* of each asked user: as declared up to the newest earlier event, else as told with the basket."""
    names = [UNKNOWN, *(str(context[signal]) for context in log.contexts if _has(context, signal))]
    code = np.zeros(len(log.contexts), dtype=np.int64)  # 0: this context does not say
    code[[_has(context, signal) for context in log.contexts]] = np.arange(1, len(names))
    before = np.where(asked.start > asked.user_start, log.context[np.maximum(asked.start - 1, 0)], 0)
    told = np.where(code[before] > 0, code[before], code[log.context[asked.start]])
    return np.array(names)[told]


def _has(context: Mapping[str, Any], signal: str) -> bool:
    return context.get(signal) is not None


def held_out_items(item_ids: Sequence[str], share: float = 0.1) -> Bools:
    """The items that a cold-start run must not see: *share* of all by a stable hash of the id, (items,)."""
    hashes = hash64_all([f"held out:{item_id}" for item_id in item_ids])
    return hashes % np.uint64(10_000) < round(share * 10_000)
