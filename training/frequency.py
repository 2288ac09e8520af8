"""Estimates how often an item is in a batch, from the stream of batches alone.

For logs that are never counted as a whole (Yi et al., RecSys 2019, algorithm 2): for each item it keeps the step of the
last occurrence and the mean number of steps between occurrences; one over that is the item's inclusion. Ids are hashed
into several tables, and the lowest estimate counts, since a collision can only make an item look more frequent.
"""

import numpy as np
from numpy.typing import NDArray

_MIXERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5], np.uint64)


class StreamingFrequency:
    """Estimates each item's inclusion in a batch; a moving average with *rate*, so it follows a changing stream."""

    def __init__(
        self, *, buckets: int = 1 << 20, rate: float = 0.05, first_gap: float = 100.0, tables: int = 2
    ) -> None:
        if not (0 < rate <= 1 and first_gap >= 1 and 1 <= tables <= len(_MIXERS)):
            raise ValueError(f"rate {rate} must be in (0, 1], first_gap {first_gap} >= 1, tables {tables} in 1-4")
        self._rate = rate
        self._shift = np.uint64(64 - max(1, (buckets - 1).bit_length()))
        size = 1 << (64 - int(self._shift))
        self._mixers = _MIXERS[:tables, None]
        self._last = np.zeros((tables, size), np.int64)
        self._gap = np.full((tables, size), first_gap, np.float64)
        self._step = 0

    def seen(self, items: NDArray[np.int64]) -> None:
        """Count one batch with *items*; the same item twice counts once."""
        self._step += 1
        for table, places in enumerate(self._places(np.unique(items))):
            places = np.unique(places)
            gap = self._step - self._last[table, places]
            self._gap[table, places] += self._rate * (gap - self._gap[table, places])
            self._last[table, places] = self._step

    def inclusion(self, items: NDArray[np.int64]) -> NDArray[np.float64]:
        """The probability that a batch holds each of *items*, in (0, 1]."""
        places = self._places(items)
        gaps = np.stack([self._gap[table, own] for table, own in enumerate(places)])
        chance: NDArray[np.float64] = 1 / np.maximum(gaps.max(0), 1.0)
        return chance

    def state(self) -> dict[str, NDArray[np.float64] | NDArray[np.int64] | int]:
        """Everything that a resumed run needs."""
        return {"last": self._last, "gap": self._gap, "step": self._step}

    def restore(self, state: dict[str, NDArray[np.float64] | NDArray[np.int64] | int]) -> None:
        """Continue from *state*."""
        self._last, self._gap = np.asarray(state["last"]), np.asarray(state["gap"], np.float64)
        self._step = int(state["step"])

    def _places(self, items: NDArray[np.int64]) -> NDArray[np.uint64]:
        with np.errstate(over="ignore"):
            mixed = (
                items.astype(np.uint64) + np.uint64(1)
            ) * self._mixers  # multiplicative hashing keeps the high bits
        return mixed >> self._shift
