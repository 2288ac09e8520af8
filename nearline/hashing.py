"""The one stable hash: the same on every process, machine and version (never ``hash()``)."""

from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

_xxh3_64 = xxhash.xxh3_64_intdigest


def hash64(text: str) -> int:
    """The 64-bit XXH3 of *text*; stands for an id in user documents and for a word in the features."""
    return _xxh3_64(text.encode())


def hash64_all(texts: Sequence[str]) -> NDArray[np.uint64]:
    """``hash64`` of each of *texts*, in order, in one call."""
    return np.array([_xxh3_64(text.encode()) for text in texts], np.uint64)
