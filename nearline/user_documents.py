"""User documents: the store's value for one user in one space (version 2, binary; version 1 stays readable).

A document holds the vector, which clicks it used, and the seen items. Seen items have two sources: the job's newest
snapshot (``seen_version``, nearline/seen.py) and the windows of newer sequences (``recent``). So the three versions may
differ, and a write is accepted only if none of them is older than the stored document's (``knows_all_of``).

An erased user's document is a marker: no vector, no hashes, and the erasure's version in all three places, so that
writes from before it are refused.

Layout, little-endian: magic ``NU``, version, flags, space u32, dimension u32, vector_version i64, history_version i64,
seen_version i64, as_of_ms i64, stored_ms i64, counts u32 (seen, purchased, events, recent), size of the newest event
id u16, six zero bytes, crc32 of all but itself u32; then seen u64[], purchased u64[], events u64[], recent u64[],
versions of recent i64[], vector FP32[], until_s u32[] (only where something expires), until_s of recent u32[], bought
of recent u8[], newest event id. The head has 80 bytes, so the columns are aligned and are read in place.

Version 1 has no ``seen_version``, ``until_s`` and ``recent``, and has the vector before the hashes.
"""

import struct
import zlib
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nearline.errors import BadInput
from nearline.seen import FOREVER_S
from nearline.space import Space

_HEAD_1 = struct.Struct("<2sBBIIqqqqHIIII")
_HEAD = struct.Struct("<2sBBIIqqqqqIIIIH6xI")
_CRC_BYTES = 4
_MAGIC = b"NU"
_HAS_VECTOR, _ERASED, _EXPIRES = 1, 2, 4

Hashes = NDArray[np.uint64]
NO_HASHES: Hashes = np.empty(0, np.uint64)
Seconds = NDArray[np.uint32]
DocumentVersions = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Recent:
    """The items in windows of sequences newer than the snapshot; columns of one length, *hashes* sorted and unique.

    *versions* is each item's newest sequence: a snapshot of that version or a later one includes the item.
    """

    hashes: Hashes = field(default_factory=lambda: np.zeros(0, np.uint64))
    versions: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    until_s: Seconds = field(default_factory=lambda: np.zeros(0, np.uint32))
    bought: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))


NOTHING_RECENT = Recent()


@dataclass(slots=True)  # not frozen, though nothing changes one: that would cost each click two microseconds
class UserDocument:
    """One user in one space; hashes are ``hash64`` of ids, *seen* and *purchased* sorted and unique.

    *newest_event_id*, *as_of_ms* and *events* describe what the vector used, or without a vector the history. *seen*
    includes *recent*; *until_s* is as long as *seen*, or ``None`` if nothing expires.
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
    seen_version: int = 0
    until_s: Seconds | None = None
    recent: Recent = NOTHING_RECENT
    erased: bool = False

    @property
    def order(self) -> DocumentVersions:
        """``(history_version, vector_version, seen_version)``, as ``document_order`` reads it from stored bytes."""
        return self.history_version, self.vector_version, self.seen_version

    def at(self, now_s: int) -> "UserDocument | None":
        """The document for an answer at *now_s*: ``None`` if erased, else without seen items that have expired."""
        if self.erased:
            return None
        if self.until_s is None:
            return self
        return replace(self, seen=self.seen_at(now_s), purchased=self.purchased_at(now_s), until_s=None)

    def seen_at(self, now_s: int) -> Hashes:
        """The seen items that still count at *now_s*, sorted; *seen* itself if nothing expires."""
        return self.seen if self.until_s is None else self.seen[self.until_s > now_s]

    def purchased_at(self, now_s: int) -> Hashes:
        """As ``seen_at`` for *purchased*."""
        if self.until_s is None:
            return self.purchased
        return self.purchased[self.until_s[self.seen.searchsorted(self.purchased)] > now_s]


def encode_user_document(document: UserDocument, space: Space) -> bytes:
    """The stored bytes; ``SpaceMismatch`` if the vector does not have *space*'s dimension."""
    if document.vector is not None:
        space.check("a user vector", number=space.number, dimension=len(document.vector))
    newest = document.newest_event_id.encode()
    body = b"".join((*_columns(document), newest))
    head = _HEAD.pack(
        _MAGIC,
        2,
        _flags(document),
        space.number,
        space.dimension,
        document.vector_version,
        document.history_version,
        document.seen_version,
        document.as_of_ms,
        document.stored_ms,
        len(document.seen),
        len(document.purchased),
        len(document.events),
        len(document.recent.hashes),
        len(newest),
        0,
    )[:-_CRC_BYTES]
    return b"".join((head, zlib.crc32(body, zlib.crc32(head)).to_bytes(_CRC_BYTES, "little"), body))


def _columns(document: UserDocument) -> list[bytes]:
    recent = document.recent
    columns: list[bytes] = [
        document.seen.tobytes(),
        document.purchased.tobytes(),
        document.events.tobytes(),
        recent.hashes.tobytes(),
        recent.versions.tobytes(),
    ]
    if document.vector is not None:
        columns.append(np.asarray(document.vector, "<f4").tobytes())
    if document.until_s is not None:
        columns.append(document.until_s.tobytes())
    return [*columns, recent.until_s.tobytes(), recent.bought.tobytes()]


def _flags(document: UserDocument) -> int:
    vector = _HAS_VECTOR if document.vector is not None else 0
    return vector | (_ERASED if document.erased else 0) | (_EXPIRES if document.until_s is not None else 0)


def document_order(raw: bytes) -> DocumentVersions:
    """``(history_version, vector_version, seen_version)`` of stored bytes, without decoding the rest."""
    layout = _layout(raw)
    if layout == 1:
        head = _HEAD_1.unpack_from(raw)
        return head[6], head[5], 0
    head = _HEAD.unpack_from(raw)
    return head[6], head[5], head[7]


def knows_all_of(raw: bytes, stored: bytes) -> bool:
    """Whether the document in *raw* is at least as new as the *stored* one in each version, so that it may replace it.

    A document that is newer in one version and older in another was made from outdated data.
    """
    history, vector, seen = document_order(raw)
    stored_history, stored_vector, stored_seen = document_order(stored)
    return history >= stored_history and vector >= stored_vector and seen >= stored_seen


def decode_user_document(raw: bytes, space: Space) -> UserDocument:
    """The document in *raw*; ``SpaceMismatch`` if of another space, ``BadInput`` if damaged or of unknown version.

    Its arrays are read-only views of *raw*.
    """
    return _decode_1(raw, space) if _layout(raw) == 1 else _decode_2(raw, space)


def _layout(raw: bytes) -> int:
    if len(raw) < _HEAD_1.size or raw[:2] != _MAGIC:
        raise BadInput("bad_user_document", f"not a user document: {raw[:16]!r}")
    if raw[2] not in (1, 2):
        raise BadInput("unknown_version", f"user document of version {raw[2]}; this build reads 1 and 2")
    if raw[2] == 2 and len(raw) < _HEAD.size:
        raise BadInput("bad_user_document", f"a user document has {_HEAD.size} bytes or more, came {len(raw)}")
    return raw[2]


def _decode_2(raw: bytes, space: Space) -> UserDocument:
    _, _, flags, number, dimension, *versions, as_of_ms, stored_ms, n_seen, n_bought, n_events, n_recent, n_id, crc = (
        _HEAD.unpack_from(raw)
    )
    space.check("a user document", number=number, dimension=dimension)
    whole = memoryview(raw)
    _check(crc, zlib.crc32(whole[_HEAD.size :], zlib.crc32(whole[: _HEAD.size - _CRC_BYTES])), raw)
    events_at = n_seen + n_bought
    recent_at = events_at + n_events
    versions_at = recent_at + n_recent
    words = np.frombuffer(raw, "<u8", versions_at + n_recent, _HEAD.size)
    at = _HEAD.size + words.nbytes
    vector = until_s = None
    if flags & _HAS_VECTOR:
        vector = np.frombuffer(raw, "<f4", dimension, at)
        at += 4 * dimension
    if flags & _EXPIRES:
        until_s = np.frombuffer(raw, "<u4", n_seen, at)
        at += 4 * n_seen
    vector_version, history_version, seen_version = versions
    return UserDocument(
        vector=vector,
        vector_version=vector_version,
        history_version=history_version,
        newest_event_id=raw[len(raw) - n_id :].decode(),
        as_of_ms=as_of_ms,
        stored_ms=stored_ms,
        seen=words[:n_seen],
        purchased=words[n_seen:events_at],
        events=words[events_at:recent_at],
        seen_version=seen_version,
        until_s=until_s,
        recent=_recent(words[recent_at:versions_at], words[versions_at:], raw, at) if n_recent else NOTHING_RECENT,
        erased=bool(flags & _ERASED),
    )


def _recent(hashes: Hashes, versions: Hashes, raw: bytes, at: int) -> Recent:
    """The columns of the recent items; the last two begin at *at*."""
    count = len(hashes)
    until_s = np.frombuffer(raw, "<u4", count, at)
    return Recent(hashes, versions.view(np.int64), until_s, np.frombuffer(raw, np.bool_, count, at + 4 * count))


def _decode_1(raw: bytes, space: Space) -> UserDocument:
    (_, _, flags, number, dimension, vector_version, history_version, as_of_ms, stored_ms, *sizes, crc) = (
        _HEAD_1.unpack_from(raw)
    )
    space.check("a user document", number=number, dimension=dimension)
    _check(crc, zlib.crc32(memoryview(raw)[_HEAD_1.size :]), raw)
    newest_size, n_seen, n_purchased, n_events = sizes
    at = _HEAD_1.size + newest_size
    newest = raw[_HEAD_1.size : at].decode()
    vector = None
    if flags & _HAS_VECTOR:
        vector = np.frombuffer(raw, "<f4", dimension, at)
        at += 4 * dimension
    hashes = np.frombuffer(raw[at:], "<u8")
    seen, purchased = hashes[:n_seen], hashes[n_seen : n_seen + n_purchased]
    return UserDocument(
        vector=vector,
        vector_version=vector_version,
        history_version=history_version,
        newest_event_id=newest,
        as_of_ms=as_of_ms,
        stored_ms=stored_ms,
        seen=seen,
        purchased=purchased,
        events=hashes[n_seen + n_purchased : n_seen + n_purchased + n_events],
        recent=_all_recent(seen, purchased, history_version),
    )


def _all_recent(seen: Hashes, purchased: Hashes, version: int) -> Recent:
    """All seen items, as recent at *version*: layout 1 has no snapshot, and no item's last version."""
    return Recent(
        seen,
        np.full(len(seen), version, np.int64),
        np.full(len(seen), FOREVER_S, np.uint32),
        np.isin(seen, purchased, assume_unique=True),
    )


def _check(said: int, found: int, raw: bytes) -> None:
    if said != found:
        raise BadInput("bad_checksum", f"the user document's checksum does not match its {len(raw)} bytes")
