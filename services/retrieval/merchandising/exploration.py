"""Exploration: some places of an answer go to new items, by lot, so that they get a chance to be clicked.

Each place is a chance of its own. With probability *share* it goes to an item drawn evenly, without repetition, from a
pool of new ones that is filled up with blanks to at least as many as there are places; a blank leaves the place as it
was. So a new item comes to a given place with probability *share* / size of the pool, whatever else was drawn, and what
stood there stays with the rest: exact propensities, which an unbiased estimate needs (Horvitz and Thompson 1952). The
lot is drawn from the request's id, so a repeated request gets the same answer.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

POOL = 200  # new items that take part at most


@dataclass(frozen=True, slots=True)
class ExploredItems:
    """An answer's ids and, of each, the probability with which it came to its place; *drawn* are those by lot."""

    item_ids: list[str]
    propensities: list[float]
    drawn: frozenset[str]


def opened_places(request_id: str, k: int, share: float) -> list[int]:
    """Which of *k* places, from 0, the lot of this request opens to new items."""
    lot = random.Random(f"places {request_id}")
    return [at for at in range(k) if lot.random() < share]


def explore(
    item_ids: Sequence[str], opened: Sequence[int], pool: Sequence[str], *, share: float, request_id: str
) -> ExploredItems:
    """*item_ids* with the *opened* places given to items of *pool*, which holds none of them.

    An item that loses its place is not in the answer; pages after it may bring it.
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
