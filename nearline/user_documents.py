"""User documents: the store's value for one user in one space (version 3, binary; versions 1 and 2 stay readable).

A document holds the vector, which clicks it used, and the items seen in the windows of sequences that are newer than
the job's newest snapshot of seen items (``recent``). That snapshot (``seen_version``, nearline/seen.py) is stored
beside the document and written rarely: a click reads and writes two kilobytes however many items its user has seen.
``with_snapshot`` puts both together for an answer.

The three versions may differ, and a write is accepted only if none of them is older than the stored document's, and it
knows of the same erasure or a later one (``knows_all_of``). An erased user's document is a marker: no vector, no
hashes, and the erasure's version in all three places, so that writes from before it are refused. Once the user returns,
``erased_version`` keeps it: what was handed out before, as a page token with a vector, is accepted no more.

Layout, little-endian: magic ``NU``, version, flags, space u32, dimension u32, vector_version i64, history_version i64,
seen_version i64, as_of_ms i64, stored_ms i64, counts u32 (seen, purchased, events, recent), size of the newest event
id u16, window_from_ms u48 (0 in documents of earlier builds), crc32 of all but itself u32; then seen u64[], purchased
u64[], events u64[], recent u64[], ages of recent u32[] (history_version less the item's own, at most 2^32 - 1: 49
days), vector FP32[], until_s of seen u32[] and of recent u32[] (both only where something expires), bought of recent
u8[] (only where something is), erased_version i64 (only where there was an erasure, and not in a marker, whose
history_version it is; earlier builds do not read it), newest event id. The head has 80 bytes, so the columns of hashes
are aligned and are read in place.

The columns seen and purchased hold items that are neither recent nor in a snapshot beside the document: those of
documents that were written as version 1 or 2, until their user's next snapshot. Those versions hold all seen items:
version 2 with the recent ones among them, their versions i64[] in place of the ages, and always until_s and bought of
recent; version 1 without ``seen_version``, ``until_s`` and ``recent``, and with the vector before the hashes.
"""

import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearline.errors import BadInput
from nearline.seen import FOREVER_S, SeenSnapshot, decode_seen
from nearline.space import Space
from nearline.store import StoredUser

_HEAD_1 = struct.Struct("<2sBBIIqqqqHIIII")
_HEAD = struct.Struct("<2sBBIIqqqqqIIIIH6sI")
_CRC_BYTES = 4
_MAGIC = b"NU"
_HAS_VECTOR, _ERASED, _EXPIRES, _BOUGHT, _BESIDE, _RETURNED = 1, 2, 4, 8, 16, 32
_VERSION = struct.Struct("<q")
_MOST_AGE_MS = 0xFFFF_FFFF

Hashes = NDArray[np.uint64]
NO_HASHES: Hashes = np.empty(0, np.uint64)
Seconds = NDArray[np.uint32]
DocumentVersions = tuple[int, int, int]


Bought = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Recent:
    """The items in windows of sequences newer than the snapshot; columns of one length, *hashes* sorted and unique.

    *versions* is each item's newest sequence: a snapshot of that version or a later one includes the item. *until_s* is
    ``None`` if nothing expires, *bought* if nothing was bought, as is most common.
    """

    hashes: Hashes = field(default_factory=lambda: np.zeros(0, np.uint64))
    versions: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    until_s: Seconds | None = None
    bought: Bought | None = None

    def picked(self, which: NDArray[Any]) -> "Recent":
        """The items at the places *which*."""
        return Recent(
            self.hashes[which],
            self.versions[which],
            None if self.until_s is None else self.until_s[which],
            None if self.bought is None else self.bought[which],
        )

    def newer_than(self, version: int) -> "Recent":
        """The items that a snapshot of *version* does not include."""
        return self.picked(self.versions > version) if len(self.hashes) else self

    @property
    def purchased(self) -> Hashes:
        """The bought items."""
        return NO_HASHES if self.bought is None else self.hashes[self.bought]


NOTHING_RECENT = Recent()


@dataclass(slots=True)  # not frozen, though nothing changes one: that would cost each click two microseconds
class UserDocument:
    """One user in one space; hashes are ``hash64`` of ids, *seen* and *purchased* sorted and unique.

    *newest_event_id*, *as_of_ms*, *events* and *window_from_ms* describe what the vector used, or without a vector the
    history. No event older than *window_from_ms* can be used any more: the window is full of newer ones; 0 if it is not
    full. *seen* includes *recent*; *until_s* is as long as *seen*, or ``None`` if nothing expires. If *seen_beside*,
    the items of the snapshot at *seen_version* are stored beside the document, and not in *seen* until
    ``with_snapshot`` adds them. *erased_version* is that of the user's newest erasure, 0 if none is known: after a loss
    of the store an erasure may be missing that the log's compaction removed.
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
    seen_beside: bool = False
    window_from_ms: int = 0
    erased_version: int = 0

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


def with_recent(document: UserDocument, recent: Recent) -> UserDocument:
    """The document with *recent*, whose items become part of *seen* and *purchased*."""
    seen, purchased, until_s = seen_with(document, recent)
    return replace(document, seen=seen, purchased=purchased, until_s=until_s, recent=recent)


def with_snapshot(document: UserDocument, snapshot: SeenSnapshot) -> UserDocument:
    """The document with all seen items: those of the *snapshot* stored beside it, and newer ones.

    With a snapshot from before ``seen_version`` it is the document as it was.
    """
    if snapshot.version < document.seen_version:
        return document
    expires = not (snapshot.until_s == FOREVER_S).all()
    of_snapshot = replace(
        document,
        seen=snapshot.hashes,
        purchased=snapshot.hashes[snapshot.bought],
        until_s=snapshot.until_s if expires else None,
        seen_version=snapshot.version,
        seen_beside=False,
    )
    return with_recent(of_snapshot, document.recent.newer_than(snapshot.version))


def seen_with(document: UserDocument, more: Recent) -> tuple[Hashes, Hashes, Seconds | None]:
    """The document's *seen*, *purchased* and *until_s* after adding the items of *more*."""
    if not len(document.seen):
        return more.hashes, more.purchased, more.until_s
    purchased = union(document.purchased, more.purchased)
    if document.until_s is None and more.until_s is None:
        return union(document.seen, more.hashes), purchased, None
    seen, place = np.unique(np.concatenate((document.seen, more.hashes)), return_inverse=True)
    longest = np.zeros(len(seen), np.uint32)
    ends_s = np.concatenate((or_forever(document.until_s, document.seen), or_forever(more.until_s, more.hashes)))
    np.maximum.at(longest, place, ends_s)
    return seen, purchased, None if (longest == FOREVER_S).all() else longest


def or_forever(until_s: Seconds | None, hashes: Hashes) -> Seconds:
    """*until_s*, or for ever for each of *hashes* without it."""
    return np.full(len(hashes), FOREVER_S, np.uint32) if until_s is None else until_s


def union(known: Hashes, more: Hashes) -> Hashes:
    """The sorted union of *known*, sorted, and *more*, without repeats; *known* itself if it has all of *more*."""
    if len(known) and len(more):
        more = more[known.take(known.searchsorted(more), mode="clip") != more]
    return np.sort(np.concatenate((known, more))) if len(more) else known


def encode_user_document(document: UserDocument, space: Space) -> bytes:
    """The stored bytes, without the snapshot's items; ``SpaceMismatch`` if the vector has not *space*'s dimension."""
    if document.vector is not None:
        space.check("a user vector", number=space.number, dimension=len(document.vector))
    seen, purchased, until_s = _neither_recent(document)
    recent = document.recent
    expires = until_s is not None or recent.until_s is not None
    columns = _columns(document, seen, purchased)
    if expires:
        columns += (or_forever(until_s, seen).tobytes(), or_forever(recent.until_s, recent.hashes).tobytes())
    if recent.bought is not None:
        columns.append(recent.bought.tobytes())
    returned = document.erased_version and not document.erased
    if returned:
        columns.append(_VERSION.pack(document.erased_version))
    newest = document.newest_event_id.encode()
    body = b"".join((*columns, newest))
    head = _HEAD.pack(
        _MAGIC,
        3,
        _flags(document)
        | (_EXPIRES if expires else 0)
        | (0 if recent.bought is None else _BOUGHT)
        | (_RETURNED if returned else 0),
        space.number,
        space.dimension,
        document.vector_version,
        document.history_version,
        document.seen_version,
        document.as_of_ms,
        document.stored_ms,
        len(seen),
        len(purchased),
        len(document.events),
        len(recent.hashes),
        len(newest),
        document.window_from_ms.to_bytes(6, "little"),
        0,
    )[:-_CRC_BYTES]
    return b"".join((head, zlib.crc32(body, zlib.crc32(head)).to_bytes(_CRC_BYTES, "little"), body))


def _neither_recent(document: UserDocument) -> tuple[Hashes, Hashes, Seconds | None]:
    """Of *seen*, *purchased* and *until_s* what the recent items do not say."""
    recent = document.recent
    if len(document.seen) == len(recent.hashes):
        return NO_HASHES, NO_HASHES, None
    others = ~np.isin(document.seen, recent.hashes, assume_unique=True)
    purchased = np.setdiff1d(document.purchased, recent.purchased, assume_unique=True)
    return document.seen[others], purchased, None if document.until_s is None else document.until_s[others]


def _columns(document: UserDocument, seen: Hashes, purchased: Hashes) -> list[bytes]:
    recent = document.recent
    columns = [seen.tobytes(), purchased.tobytes(), document.events.tobytes(), recent.hashes.tobytes()]
    if len(recent.hashes):
        ages_ms = np.minimum(document.history_version - recent.versions, _MOST_AGE_MS)
        columns.append(ages_ms.astype(np.uint32).tobytes())
    if document.vector is not None:
        columns.append(np.asarray(document.vector, "<f4").tobytes())
    return columns


def _flags(document: UserDocument) -> int:
    flags = _HAS_VECTOR if document.vector is not None else 0
    return flags | (_ERASED if document.erased else 0) | (_BESIDE if document.seen_beside else 0)


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

    That includes the version of the user's erasure.

    A document that is newer in one version and older in another was made from outdated data.
    """
    history, vector, seen = document_order(raw)
    stored_history, stored_vector, stored_seen = document_order(stored)
    are_as_new = history >= stored_history and vector >= stored_vector and seen >= stored_seen
    return are_as_new and _erased_version_of(raw) >= _erased_version_of(stored)


def decode_user_document(raw: bytes, space: Space) -> UserDocument:
    """The document in *raw*; ``SpaceMismatch`` if of another space, ``BadInput`` if damaged or of unknown version.

    Its arrays are read-only, most of them views of *raw*.
    """
    return _decode_1(raw, space) if _layout(raw) == 1 else _decode_later(raw, space)


def _layout(raw: bytes) -> int:
    if len(raw) < _HEAD_1.size or raw[:2] != _MAGIC:
        raise BadInput("bad_user_document", f"not a user document: {raw[:16]!r}")
    if raw[2] not in (1, 2, 3):
        raise BadInput("unknown_version", f"user document of version {raw[2]}; this build reads 1 to 3")
    if raw[2] > 1 and len(raw) < _HEAD.size:
        raise BadInput("bad_user_document", f"a user document has {_HEAD.size} bytes or more, came {len(raw)}")
    return raw[2]


def _decode_later(raw: bytes, space: Space) -> UserDocument:
    """A document of version 2 or 3."""
    head = _HEAD.unpack_from(raw)
    _, layout, flags, number, dimension, *versions, as_of_ms, stored_ms = head[:10]
    n_seen, n_bought, n_events, n_recent, n_id, window_from, crc = head[10:]
    space.check("a user document", number=number, dimension=dimension)
    whole = memoryview(raw)
    _check(crc, zlib.crc32(whole[_HEAD.size :], zlib.crc32(whole[: _HEAD.size - _CRC_BYTES])), raw)
    events_at = n_seen + n_bought
    recent_at = events_at + n_events
    words = np.frombuffer(raw, "<u8", recent_at + n_recent, _HEAD.size)
    column = _ColumnReader(raw, _HEAD.size + words.nbytes)
    vector_version, history_version, seen_version = versions
    item_versions = column.next("<i8" if layout == 2 else "<u4", n_recent)
    vector = column.next("<f4", dimension) if flags & _HAS_VECTOR else None
    expires = flags & _EXPIRES
    until_s = column.next("<u4", n_seen) if expires else None
    recent = NOTHING_RECENT
    if n_recent:
        recent = Recent(
            words[recent_at:],
            item_versions if layout == 2 else history_version - item_versions.astype(np.int64),
            column.next("<u4", n_recent) if expires or layout == 2 else None,
            column.next(np.bool_, n_recent) if flags & _BOUGHT or layout == 2 else None,
        )
    seen, purchased = words[:n_seen], words[n_seen:events_at]
    if layout == 3 and not n_seen:
        seen, purchased, until_s = recent.hashes, recent.purchased, recent.until_s
    document = UserDocument(
        vector,
        vector_version,
        history_version,
        raw[len(raw) - n_id :].decode(),
        as_of_ms,
        stored_ms,
        seen,
        purchased,
        words[events_at:recent_at],
        seen_version,
        until_s,
        recent,
        bool(flags & _ERASED),
        bool(flags & _BESIDE),
        int.from_bytes(window_from, "little"),
        _erased_version(raw, n_id, flags, history_version),
    )
    return document if layout == 2 or not n_seen else with_recent(document, recent)


def _erased_version_of(raw: bytes) -> int:
    if raw[2] == 1 or not raw[3] & (_RETURNED | _ERASED):
        return 0
    head = _HEAD.unpack_from(raw)
    return _erased_version(raw, head[14], raw[3], head[6])


def _erased_version(raw: bytes, id_size: int, flags: int, history_version: int) -> int:
    if flags & _RETURNED:
        at = len(raw) - id_size - _VERSION.size
        if at < _HEAD.size:
            raise BadInput("bad_user_document", f"a user document of {len(raw)} bytes is too short for its columns")
        return int(_VERSION.unpack_from(raw, at)[0])
    return history_version if flags & _ERASED else 0


def decode_stored_user(stored: StoredUser, space: Space) -> UserDocument | None:
    """The document with all seen items, or ``None`` without one; errors as of ``decode_user_document``.

    It is still ``seen_beside`` if the snapshot that belongs to it is missing.
    """
    if stored.document is None:
        return None
    document = decode_user_document(stored.document, space)
    return document if stored.seen is None else with_snapshot(document, decode_seen(stored.seen))


class _ColumnReader:
    """Reads one column of *raw* after the other."""

    def __init__(self, raw: bytes, at: int) -> None:
        self._raw = raw
        self._at = at

    def next(self, kind: Any, count: int) -> NDArray[Any]:
        """The next column, of *count* values of *kind*, in place."""
        column = np.frombuffer(self._raw, kind, count, self._at)
        self._at += column.nbytes
        return column


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
    bought = np.isin(seen, purchased, assume_unique=True) if len(purchased) else None
    return Recent(seen, np.full(len(seen), version, np.int64), None, bought)


def _check(said: int, found: int, raw: bytes) -> None:
    if said != found:
        raise BadInput("bad_checksum", f"the user document's checksum does not match its {len(raw)} bytes")
