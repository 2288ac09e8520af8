"""How a user's document moves on: seen only grows, the vector changes only together with what it used."""

from collections.abc import Sequence as Many
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nearline.hashing import hash64
from nearline.sequences import Sequence
from nearline.user_documents import Hashes, UserDocument

NONE: Hashes = np.zeros(0, dtype=np.uint64)


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
    return replace(
        base,
        vector=vector,
        vector_version=newest.version,
        newest_event_id=newest.newest_event_id,
        as_of_ms=newest.as_of_ms,
        events=hashes(newest.event_ids),
    )


def _grown(stored: UserDocument | None, sequences: Many[Sequence], newest: Sequence, now_ms: int) -> UserDocument:
    seen = {item for sequence in sequences for item in sequence.items}
    bought = {
        item
        for sequence in sequences
        for item, kind in zip(sequence.items, sequence.types, strict=True)
        if kind == "purchase"
    }
    if stored is None:
        return UserDocument(
            vector=None,
            vector_version=0,
            history_version=newest.version,
            newest_event_id=newest.newest_event_id,
            as_of_ms=newest.as_of_ms,
            stored_ms=now_ms,
            seen=_union(NONE, seen),
            purchased=_union(NONE, bought),
            events=hashes(newest.event_ids),
        )
    grown = replace(
        stored,
        history_version=max(stored.history_version, newest.version),
        stored_ms=now_ms,
        seen=_union(stored.seen, seen),
        purchased=_union(stored.purchased, bought),
    )
    if stored.vector is None and newest.version >= stored.history_version:
        grown = replace(
            grown,
            newest_event_id=newest.newest_event_id,
            as_of_ms=newest.as_of_ms,
            events=hashes(newest.event_ids),
        )
    return grown


def hashes(ids: Many[str]) -> Hashes:
    """The 8-byte hashes of *ids*, in their order."""
    return np.fromiter(map(hash64, ids), np.uint64, len(ids))


def _union(known: Hashes, ids: set[str]) -> Hashes:
    if not ids:
        return known
    return np.union1d(known, np.fromiter(map(hash64, ids), np.uint64, len(ids)))
