"""How a user's document moves on: seen only grows, the vector changes only together with what it used."""

from collections.abc import Sequence as Many
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearline.events import EventType
from nearline.hashing import hash64_all
from nearline.sequences import Sequence
from nearline.user_documents import Hashes, UserDocument

NONE: Hashes = np.zeros(0, dtype=np.uint64)
PURCHASE = EventType.PURCHASE.value


def advance(
    stored: UserDocument | None, sequences: Many[Sequence], vector: NDArray[np.float32] | None, *, now_ms: int
) -> UserDocument:
    """The document after *sequences* of one user (any order, at least one); *vector* is of the newest, if it has one.

    Without a vector the old one stays, with the clicks that it used; what was seen advances all the same. A
    sequence at or behind the stored version adds its seen items and moves nothing else.
    """
    newest = max(sequences, key=lambda sequence: sequence.version)
    base = _grown(stored, sequences, newest, now_ms)
    if vector is None or newest.version < base.vector_version:
        return base
    return _describing(base, newest, vector=vector, vector_version=newest.version)


def _grown(stored: UserDocument | None, sequences: Many[Sequence], newest: Sequence, now_ms: int) -> UserDocument:
    """The document with everything but the vector moved on."""
    seen, purchased = _known(sequences)
    if stored is None:
        stored = UserDocument(None, 0, newest.version, "", 0, now_ms, NONE, NONE, NONE)
    grown = replace(
        stored,
        history_version=max(stored.history_version, newest.version),
        stored_ms=now_ms,
        seen=_union(stored.seen, seen),
        purchased=_union(stored.purchased, purchased),
    )
    if stored.vector is not None or newest.version < stored.history_version:
        return grown
    return _describing(grown, newest)


def _describing(document: UserDocument, newest: Sequence, **more: Any) -> UserDocument:
    """The document with the clicks of *newest* as those that it used."""
    return replace(
        document,
        newest_event_id=newest.newest_event_id,
        as_of_ms=newest.as_of_ms,
        events=hash64_all(newest.event_ids),
        **more,
    )


def _known(sequences: Many[Sequence]) -> tuple[Hashes, Hashes]:
    """The hashes of all items in *sequences*, and of those that were bought."""
    bought_of: dict[str, bool] = {}
    for sequence in sequences:
        for item, kind in zip(sequence.items, sequence.types, strict=True):
            bought_of[item] = bought_of.get(item, False) or kind == PURCHASE
    hashes = hash64_all(list(bought_of))
    return hashes, hashes[np.fromiter(bought_of.values(), bool, len(bought_of))]


def _union(known: Hashes, more: Hashes) -> Hashes:
    """The sorted union of *known*, sorted, and *more*, without repeats; *known* itself when it holds all of *more*."""
    if len(known):
        more = more[known.take(known.searchsorted(more), mode="clip") != more]
    return np.sort(np.concatenate((known, more))) if len(more) else known
