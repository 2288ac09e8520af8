"""The order of records across partitions and clusters: by append time, then by partition, then by offset.

A record's version is its append time and its partition in one integer. Two records of one partition and one
millisecond have the same version: the later one in the log counts, so a reader replaces what is *as old or older*. It
stays below 2^53 until the year 2109, because a JSON number is a double to JavaScript, jq and others, and it is larger
than any offset, which was the version in earlier releases.
"""

import struct
from functools import lru_cache

_FIRST_APPEND_MS = 946_684_800_000  # 2000-01-01: no record of this system was appended before
_TIES = 2048  # versions in a millisecond: the partitions that a version tells apart
_PARTITIONS, _OFFSETS = 1 << 32, 1 << 63


def version_of(append_ms: int, partition: int) -> int:
    """The version of the records that were appended to *partition* in the millisecond *append_ms*."""
    return append_ms * _TIES + partition % _TIES


def is_offset(version: int) -> bool:
    """Whether *version* is from an earlier release: the offset of its record."""
    return version < version_of(_FIRST_APPEND_MS, 0)


def order_of(append_ms: int, partition: int, offset: int) -> int:
    """The place of one record in the order of all records of its topic."""
    return (append_ms * _PARTITIONS + partition) * _OFFSETS + offset


def place_of(order: int) -> tuple[int, int, int]:
    """The append time, the partition and the offset in *order*."""
    rest, offset = divmod(order, _OFFSETS)
    return *divmod(rest, _PARTITIONS), offset


@lru_cache(maxsize=16_384)  # some microseconds a key, and the same users come again and again
def partition_of(key: bytes, partitions: int) -> int:
    """The partition of *key*, as Kafka's own clients choose it (``partitioner=murmur2_random`` in librdkafka)."""
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


def is_misplaced(key: bytes | None, value: bytes | None, partition: int, partitions: int) -> bool:
    """Whether a client with another partitioner wrote this record. A delete may be in every partition, by intention."""
    return bool(key) and bool(value) and partition_of(key or b"", partitions) != partition


def _murmur2(key: bytes) -> int:
    m, mask, length = 0x5BD1E995, 0xFFFFFFFF, len(key)
    whole = length & ~3
    h = 0x9747B28C ^ length
    for (k,) in struct.iter_unpack("<I", key[:whole]):
        k = k * m & mask
        h = (h * m & mask) ^ ((k ^ (k >> 24)) * m & mask)
    if whole < length:
        h = (h ^ int.from_bytes(key[whole:], "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)
