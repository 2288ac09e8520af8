"""Converts an item of the log to a row of the engine."""

import numpy as np
from numpy.typing import NDArray

from nearline.errors import BadInput, SpaceMismatch
from nearline.hashing import hash64
from nearline.ids import check_id
from nearline.item_engine import MAX_PRINTED, EngineRow
from nearline.item_vectors import ItemVector
from services.retrieval.in_engine.expressions import facts_of, numbers_of
from services.retrieval.items.printed import render


def row_of(item: ItemVector, vector: NDArray[np.float32], dimension: int) -> EngineRow:
    """The row of *item*, which is available, with *vector*.

    ``SpaceMismatch`` with both numbers if the vector is not of *dimension*, ``BadInput`` if the vector is not finite,
    the id is invalid, or the item's JSON is larger than an engine accepts.
    """
    check_id("item_id", item.item_id)
    if len(vector) != dimension:
        raise SpaceMismatch(
            f"item {item.item_id!r} has a vector of {len(vector)} dimensions; the index has {dimension}"
        )
    if not np.isfinite(vector @ vector):
        raise BadInput("bad_vector", f"item {item.item_id!r} has a vector that is not finite")
    printed = render(item.item_id, item.shown)
    if len(printed) > MAX_PRINTED:
        raise BadInput(
            "too_large", f"item {item.item_id!r} prints as {len(printed):,} bytes, at most {MAX_PRINTED:,} fit"
        )
    shown = item.shown
    listed_ms = None if shown.listed_ms is None else float(shown.listed_ms)
    return EngineRow(
        item.item_id,
        item.version,
        hash64(item.item_id),
        vector,
        shown.price,
        listed_ms,
        facts_of(shown),
        numbers_of(shown),
        printed,
    )
