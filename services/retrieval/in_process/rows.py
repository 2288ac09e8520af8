"""The rows that a filtered search may return."""

import numpy as np
from numpy.typing import NDArray

from services.retrieval.in_process.graphs import Slots

SlotMask = NDArray[np.bool_]


class Rows:
    """Live rows by slot: whether each passes (*passing*), how many do (*count*), and which (*slots*)."""

    def __init__(self, passing: SlotMask) -> None:
        self.passing = passing
        self.count = int(np.count_nonzero(passing))
        self._slots: Slots | None = None

    @property
    def slots(self) -> Slots:
        """The slots that pass, in order; cached until one changes."""
        if self._slots is None:
            self._slots = np.flatnonzero(self.passing)
        return self._slots

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return self.passing.nbytes + (0 if self._slots is None else self._slots.nbytes)

    def change(self, slots: Slots, passing: SlotMask) -> None:
        """Set whether each of *slots*, without duplicates, passes."""
        before = self.passing[slots]
        if np.array_equal(before, passing):
            return
        self.count += int(np.count_nonzero(passing)) - int(np.count_nonzero(before))
        self.passing[slots] = passing
        self._slots = None

    def reserve(self, slots: int) -> None:
        """Have room for *slots*; new ones do not pass."""
        if slots > len(self.passing):
            self.passing = np.concatenate((self.passing, np.zeros(slots - len(self.passing), bool)))
