"""What the user tower reads of each item: FP16 rows, 128 bytes an item of 64 dimensions.

Kept for every known item, on show or not: what is sold out is still taste, until it is purged.
"""

import numpy as np
from numpy.typing import NDArray

NO_ROW = -1
_RESERVED = 1 << 20  # rows of address space; memory is taken when one is written, and nothing is copied to grow


class HistoryVectors:
    """History vectors by row; a row stays its item's until it is dropped."""

    def __init__(self, dimension: int) -> None:
        self.matrix: NDArray[np.float16] = np.empty((_RESERVED, dimension), np.float16)
        self._dimension = dimension
        self._used = 0
        self._free: list[int] = []

    def put(self, vector: NDArray[np.float16], row: int = NO_ROW) -> int:
        """Keep *vector* in *row*, or in a new one, which is returned; one of another dimension gets none."""
        if len(vector) != self._dimension:
            return row
        if row == NO_ROW:
            row = self._free.pop() if self._free else self._new()
        self.matrix[row] = vector
        return row

    def drop(self, row: int) -> None:
        """Let another item have *row*."""
        if row != NO_ROW:
            self._free.append(row)

    def used(self) -> NDArray[np.float16]:
        """The rows that were ever handed out."""
        return self.matrix[: self._used]

    def restore(self, rows: NDArray[np.float16], taken: NDArray[np.int64]) -> None:
        """Hold what another one held, of which only the rows *taken* are an item's; for one that is empty."""
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
