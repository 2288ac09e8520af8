"""Item vectors: an item's record in ``item-vectors.<space>`` (version 1, binary).

A record holds the vector that is searched (``candidate``, FP32), the one that the user tower reads (``history``, FP16)
and the fields that retrieval filters by and shows. A deleted item keeps its record, marked retired and without a
candidate, so that all replicas agree on what a history may still use; only a purge writes a tombstone.

Layout, little-endian: magic ``NV``, version, flags, space u32, dimension u32, item version i64, crc32 of the rest u32,
then u32 + JSON of the shown fields, candidate, history.
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import orjson
from numpy.typing import NDArray

from nearline.errors import BadInput
from nearline.items import Attribute
from nearline.space import Space

_HEAD = struct.Struct("<2sBBIIqI")
_SIZE = struct.Struct("<I")
_MAGIC = b"NV"
_RETIRED = 1

Vector = NDArray[np.float32]
Vectors = NDArray[np.float32]  # (rows, dimension)
HalfVector = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class ItemFields:
    """The fields of an item that answers show and requests filter by."""

    title: str
    category: str = ""
    locale: str = ""
    price: float | None = None
    brand: str = ""
    listed_ms: int | None = None
    available: bool = True
    attributes: Mapping[str, Attribute] = field(default_factory=dict)  # left out of the record when empty


@dataclass(frozen=True, slots=True)
class ItemVector:
    """The vectors of one item at one version; *candidate* is ``None`` once the item is retired.

    *input_digest* is the digest of the model's input, so that a change of other fields needs no model call.
    """

    item_id: str
    version: int
    shown: ItemFields
    candidate: Vector | None  # (dimension,) FP32, unit norm
    history: HalfVector  # (dimension,) FP16
    input_digest: str
    retired_ms: int | None = None


def encode_item_vector(vector: ItemVector, space: Space) -> bytes:
    """The record's value; ``SpaceMismatch`` if a vector does not have *space*'s dimension."""
    space.check(f"item {vector.item_id!r}", number=space.number, dimension=len(vector.history))
    shown = orjson.dumps(
        {
            "title": vector.shown.title,
            "category": vector.shown.category,
            "locale": vector.shown.locale,
            "price": vector.shown.price,
            "brand": vector.shown.brand,
            "listed_ms": vector.shown.listed_ms,
            "available": vector.shown.available,
            **({"attributes": dict(vector.shown.attributes)} if vector.shown.attributes else {}),
            "input_digest": vector.input_digest,
            "retired_ms": vector.retired_ms,
        }
    )
    candidate = b"" if vector.candidate is None else np.asarray(vector.candidate, "<f4").tobytes()
    body = _SIZE.pack(len(shown)) + shown + candidate + np.asarray(vector.history, "<f2").tobytes()
    flags = _RETIRED if vector.candidate is None else 0
    head = _HEAD.pack(_MAGIC, 1, flags, space.number, space.dimension, vector.version, zlib.crc32(body))
    return head + body


def decode_item_vector(item_id: str, raw: bytes, space: Space) -> ItemVector:
    """The item vector in *raw*; ``SpaceMismatch`` if of another space, ``BadInput`` if damaged or of other version."""
    if len(raw) < _HEAD.size or raw[:2] != _MAGIC:
        raise BadInput("bad_item_vector", f"item {item_id!r}: not an item vector: {raw[:16]!r}")
    _, layout, flags, number, dimension, version, crc = _HEAD.unpack_from(raw)
    if layout != 1:
        raise BadInput("unknown_version", f"item {item_id!r}: item vector of version {layout}; this build reads 1")
    space.check(f"item {item_id!r}", number=number, dimension=dimension)
    if zlib.crc32(memoryview(raw)[_HEAD.size :]) != crc:
        raise BadInput("bad_checksum", f"item {item_id!r}: the record's checksum does not match its {len(raw)} bytes")
    start = _HEAD.size + _SIZE.size
    end = start + _SIZE.unpack_from(raw, _HEAD.size)[0]
    shown = orjson.loads(raw[start:end])
    retired = bool(flags & _RETIRED)
    candidate = None if retired else np.frombuffer(raw, "<f4", dimension, end)
    history = np.frombuffer(raw, "<f2", dimension, end if retired else end + 4 * dimension)
    digest, retired_ms = shown.pop("input_digest"), shown.pop("retired_ms")
    return ItemVector(item_id, version, ItemFields(**shown), candidate, history, digest, retired_ms)
