"""The items' history vectors, which the user tower reads: FP16 rows, 128 bytes for 64 dimensions.

They are kept for every known item until it is purged: an item that is sold out still counts in users' histories.
"""

import numpy as np
from numpy.typing import NDArray

NO_ROW = -1
_RESERVED = 1 << 20  # rows of address space; memory is allocated when a row is written, so growing copies nothing


class HistoryVectors:
    """History vectors by row; a row belongs to its item until it is dropped."""

    def __init__(self, dimension: int) -> None:
        self.matrix: NDArray[np.float16] = np.empty((_RESERVED, dimension), np.float16)
        self._dimension = dimension
        self._used = 0
        self._free: list[int] = []

    def put(self, vector: NDArray[np.float16], row: int = NO_ROW) -> int:
        """Store *vector* in *row*, or in a new row; return the row. A vector of another dimension is not stored."""
        if len(vector) != self._dimension:
            return row
        if row == NO_ROW:
            row = self._free.pop() if self._free else self._new()
        self.matrix[row] = vector
        return row

    def drop(self, row: int) -> None:
        """Free *row* for another item."""
        if row != NO_ROW:
            self._free.append(row)

    def used(self) -> NDArray[np.float16]:
        """All rows up to the highest that was ever used."""
        return self.matrix[: self._used]

    def restore(self, rows: NDArray[np.float16], taken: NDArray[np.int64]) -> None:
        """Fill this empty object with the *rows* of another one, of which only *taken* belong to items."""
        self.matrix = np.empty((max(_RESERVED, len(rows)), self._dimension), np.float16)
        self.matrix[: len(rows)] = rows
        self._used = len(rows)
        free = np.ones(len(rows), bool)
        free[taken[taken != NO_ROW]] = False
        self._free = np.flatnonzero(free).tolist()

    def _new(self) -> int:
        if self._used == len(self.matrix):
            larger = np.empty((self._used + self._used // 2, self._dimension), np.float16)
            larger[: self._used] = self.matrix
            self.matrix = larger
        self._used += 1
        return self._used - 1
