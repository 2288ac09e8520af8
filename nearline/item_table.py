"""The item table: the newest version of each item in ``item-vectors.<space>``, in numpy rows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nearline.errors import BadInput, SpaceMismatch
from nearline.item_vectors import ItemVector, decode_item_vector
from nearline.log import Record
from nearline.space import Space

_FIRST_ROWS = 1_024


@dataclass(frozen=True, slots=True)
class ItemEntry:
    """An item's entry in the table, without its vectors."""

    row: int
    version: int
    input_digest: str
    retired_ms: int | None


class ItemTable:
    """Every item's newest vectors; an item keeps its row until its tombstone.

    A retired item stays, since a history may still use it. The user tower's input is gathered from ``history``;
    ``candidates`` is kept only with *keep_candidates*.
    """

    def __init__(self, space: Space, *, keep_candidates: bool = False) -> None:
        self._space = space
        self.history: NDArray[np.float16] = np.zeros((_FIRST_ROWS, space.dimension), np.float16)
        self.candidates: NDArray[np.float32] | None = None
        if keep_candidates:
            self.candidates = np.zeros((_FIRST_ROWS, space.dimension), np.float32)
        self.row_of: dict[str, int] = {}
        self._known: dict[str, ItemEntry] = {}
        self._free: list[int] = []
        self._rows = 0

    def __len__(self) -> int:
        """How many items there are, including retired ones."""
        return len(self._known)

    def __contains__(self, item_id: str) -> bool:
        """Whether the item has vectors."""
        return item_id in self._known

    def get(self, item_id: str) -> ItemEntry | None:
        """The item's entry, or ``None``."""
        return self._known.get(item_id)

    def live_ids(self) -> set[str]:
        """The ids of all items that are not retired."""
        return set(self.live_versions())

    def live_versions(self) -> dict[str, int]:
        """The versions of all items that are not retired."""
        return {item_id: known.version for item_id, known in self._known.items() if known.retired_ms is None}

    def retired_before(self, moment_ms: int) -> list[str]:
        """The ids of items retired before *moment_ms*."""
        return [i for i, known in self._known.items() if known.retired_ms is not None and known.retired_ms < moment_ms]

    def apply(self, record: Record) -> bool:
        """Apply one record; return whether it changed anything. An older version changes nothing.

        ``SpaceMismatch`` or ``BadInput`` if the record is not an item vector of this space: the caller counts it
        and continues.
        """
        if not record.value:
            return self._forget(record.id)
        return self.put(decode_item_vector(record.id, record.value, self._space))

    def put(self, vector: ItemVector) -> bool:
        """Store one item vector; return whether it was at least as new as the stored one.

        Of two with one version, from one millisecond, the later record in the log counts.
        """
        known = self._known.get(vector.item_id)
        if known is not None and known.version > vector.version:
            return False
        row = known.row if known is not None else self._new_row()
        self.history[row] = vector.history
        if self.candidates is not None and vector.candidate is not None:
            self.candidates[row] = vector.candidate
        self.row_of[vector.item_id] = row
        self._known[vector.item_id] = ItemEntry(row, vector.version, vector.input_digest, vector.retired_ms)
        return True

    def _forget(self, item_id: str) -> bool:
        known = self._known.pop(item_id, None)
        if known is None:
            return False
        del self.row_of[item_id]
        self._free.append(known.row)
        return True

    def _new_row(self) -> int:
        if self._free:
            return self._free.pop()
        if self._rows == len(self.history):
            self.history = _doubled(self.history)
            if self.candidates is not None:
                self.candidates = _doubled(self.candidates)
        self._rows += 1
        return self._rows - 1


def _doubled(rows: NDArray) -> NDArray:  # type: ignore[type-arg]
    return np.concatenate([rows, np.zeros_like(rows)])


def apply_all(table: ItemTable, records: list[Record]) -> tuple[int, list[str]]:
    """Apply *records*; return how many changed something, and the message of each refused one."""
    changed, refused = 0, []
    for record in records:
        try:
            changed += table.apply(record)
        except (SpaceMismatch, BadInput) as error:
            refused.append(str(error))
    return changed, refused
