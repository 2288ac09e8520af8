"""The stable hash: the same in every process, machine and version (never ``hash()``)."""

import hashlib
from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

_xxh3_64 = xxhash.xxh3_64_intdigest


def hash64(text: str) -> int:
    """The 64-bit XXH3 of *text*; user documents use it for ids, features for words."""
    return _xxh3_64(text.encode())


def hash64_all(texts: Sequence[str]) -> NDArray[np.uint64]:
    """``hash64`` of each of *texts*, in order."""
    return np.array([_xxh3_64(text.encode()) for text in texts], np.uint64)


def pseudonym(text: str, key: str = "") -> str:
    """Replaces an id in texts for people, such as logs: 16 hexadecimal digits, the same for the same *key*.

    It is BLAKE2b. Anyone with a list of ids can reverse it without a key; with one, only those who have the key too.
    """
    return hashlib.blake2b(text.encode(), digest_size=8, key=key.encode()[:64]).hexdigest()
