"""The one stable hash: the same on every process, machine and version (never ``hash()``)."""

import hashlib
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


def pseudonym(text: str, key: str = "") -> str:
    """What stands for an id where people read, such as a log: 16 hexadecimal digits, the same for the same *key*.

    It is BLAKE2b. Without a key whoever has a list of ids can tell which of them it is; with one, who has the key.
    """
    return hashlib.blake2b(text.encode(), digest_size=8, key=key.encode()[:64]).hexdigest()
