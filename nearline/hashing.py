"""The one stable hash: the same on every process, machine and version (never ``hash()``)."""

import xxhash


def hash64(text: str) -> int:
    """The 64-bit XXH3 of *text*; stands for an id in user documents and for a word in the features."""
    return xxhash.xxh3_64_intdigest(text.encode())
