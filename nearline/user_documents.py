"""User documents: what the store keeps of one user in one space (version 1, binary).

The document holds the vector and which clicks it used. Seen items advance even when the vector cannot, so
``history_version`` (what was seen) may be ahead of ``vector_version`` (what the vector used).

Layout, little-endian: magic ``NU``, version, flags, space u32, dimension u32, vector_version i64, history_version i64,
as_of_ms i64, stored_ms i64, sizes (newest event id u16, seen u32, purchased u32, events u32), crc32 of the rest u32,
then newest event id, vector FP32, seen u64[], purchased u64[], events u64[].
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nearline.errors import BadInput
from nearline.space import Space

_HEAD = struct.Struct("<2sBBIIqqqqHIIII")
_MAGIC = b"NU"
_HAS_VECTOR = 1

Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class UserDocument:
    """One user in one space; hashes are ``hash64`` of ids, *seen* and *purchased* sorted and unique.

    *newest_event_id*, *as_of_ms* and *events* describe what the vector used; with no vector yet they describe
    the history alone.
    """

    vector: NDArray[np.float32] | None
    vector_version: int
    history_version: int
    newest_event_id: str
    as_of_ms: int
    stored_ms: int
    seen: Hashes
    purchased: Hashes
    events: Hashes


def encode_user_document(document: UserDocument, space: Space) -> bytes:
    """The stored bytes; raises ``SpaceMismatch`` if the vector is not of *space*'s dimension."""
    vector = b""
    if document.vector is not None:
        space.check("a user vector", number=space.number, dimension=len(document.vector))
        vector = np.asarray(document.vector, "<f4").tobytes()
    newest = document.newest_event_id.encode()
    body = b"".join((newest, vector, document.seen.tobytes(), document.purchased.tobytes(), document.events.tobytes()))
    head = _HEAD.pack(
        _MAGIC,
        1,
        _HAS_VECTOR if vector else 0,
        space.number,
        space.dimension,
        document.vector_version,
        document.history_version,
        document.as_of_ms,
        document.stored_ms,
        len(newest),
        len(document.seen),
        len(document.purchased),
        len(document.events),
        zlib.crc32(body),
    )
    return head + body


def document_order(raw: bytes) -> tuple[int, int]:
    """``(history_version, vector_version)`` of stored bytes without decoding the rest: what "newest wins" compares."""
    if len(raw) < _HEAD.size or raw[:2] != _MAGIC:
        raise BadInput("bad_user_document", f"not a user document: {raw[:16]!r}")
    head = _HEAD.unpack_from(raw)
    return head[6], head[5]


def decode_user_document(raw: bytes, space: Space) -> UserDocument:
    """The document in *raw*; ``SpaceMismatch`` if of another space, ``BadInput`` if damaged or unknown."""
    if len(raw) < _HEAD.size or raw[:2] != _MAGIC:
        raise BadInput("bad_user_document", f"not a user document: {raw[:16]!r}")
    (_, layout, flags, number, dimension, vector_version, seen_version, as_of_ms, stored_ms, *sizes, crc) = (
        _HEAD.unpack_from(raw)
    )
    if layout != 1:
        raise BadInput("unknown_version", f"user document of version {layout}; this build reads 1")
    space.check("a user document", number=number, dimension=dimension)
    if zlib.crc32(memoryview(raw)[_HEAD.size :]) != crc:
        raise BadInput("bad_checksum", f"the user document's checksum does not match its {len(raw)} bytes")
    newest_size, n_seen, n_purchased, n_events = sizes
    at = _HEAD.size + newest_size
    newest = raw[_HEAD.size : at].decode()
    vector = None
    if flags & _HAS_VECTOR:
        vector = np.frombuffer(raw, "<f4", dimension, at)
        at += 4 * dimension
    hashes = np.frombuffer(raw[at:], "<u8")
    return UserDocument(
        vector=vector,
        vector_version=vector_version,
        history_version=seen_version,
        newest_event_id=newest,
        as_of_ms=as_of_ms,
        stored_ms=stored_ms,
        seen=hashes[:n_seen],
        purchased=hashes[n_seen : n_seen + n_purchased],
        events=hashes[n_seen + n_purchased : n_seen + n_purchased + n_events],
    )
