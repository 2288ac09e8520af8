"""Exploration: some places of an answer go to random new items, so that users can click them.

Each place is independent. With probability *share* it goes to an item drawn uniformly, without repetition, from a pool
of new items that is padded with empty entries to at least the number of places; an empty entry leaves the place as it
was. So a new item gets a given place with probability *share* / size of the pool, whatever else was drawn, and the item
that stood there stays otherwise: these are exact propensities, which an unbiased estimate needs (Horvitz and Thompson
1952). The random numbers are seeded by the request id, so a repeated request gets the same answer.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

POOL = 200  # at most so many new items take part


@dataclass(frozen=True, slots=True)
class ExploredItems:
    """An answer's ids, the probability of each at its place, and the ids that were *drawn*."""

    item_ids: list[str]
    propensities: list[float]
    drawn: frozenset[str]


def opened_places(request_id: str, k: int, share: float) -> list[int]:
    """The places, from 0, that this request opens to new items: each of *k* with probability *share*."""
    draws = random.Random(f"places {request_id}")
    return [at for at in range(k) if draws.random() < share]


def explore(
    item_ids: Sequence[str], opened: Sequence[int], pool: Sequence[str], *, share: float, request_id: str
) -> ExploredItems:
    """*item_ids* with the *opened* places given to items of *pool*, which contains none of *item_ids*.

    An item that loses its place is not in this answer; a later page may have it.
    """
    size = max(len(pool), len(item_ids), 1)
    drawn = random.Random(f"items {request_id}").sample(range(size), min(len(opened), size))
    new = {at: pool[nth] for at, nth in zip(opened, drawn, strict=False) if nth < len(pool) and at < len(item_ids)}
    stays = 1.0 - share * len(pool) / size
    return ExploredItems(
        [new.get(at, item_id) for at, item_id in enumerate(item_ids)],
        [share / size if at in new else stays for at in range(len(item_ids))],
        frozenset(new.values()),
    )
