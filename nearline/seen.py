"""Seen items: those a user interacted with, also before the last N events (snapshot version 1, binary).

The job keeps the newest ``MOST_ITEMS`` items of each user, and the newest ``MOST_BOUGHT`` that the user bought: no
number of newer items brings back what a person has. It writes snapshots of them to ``user-seen``: rarely, to be cheap,
but often enough that the newest snapshot and the newest sequence together always hold them all. How long an item counts
as seen depends on the type of event (``NEARLINE_SEEN``); after events of several types the longest time counts.

Items are identified by 64-bit hashes: the chance that two of a user's n items collide is n² / 2^65, for 2,000 about 1
in 10^13, for 7,000 1 in 10^12.

Layout, little-endian: magic ``NS``, version u8, flags u8 (0), user's version i64, count u32, crc32 of the rest u32,
then hashes u64[] (sorted), until_s u32[], bought u8[].
"""

import difflib
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nearline.errors import BadInput, Misconfigured
from nearline.events import EVENT_TYPES

MOST_ITEMS = 2000
MOST_BOUGHT = 5000
FOREVER_S = 0xFFFF_FFFF  # as the second until which an item counts: for ever
_DAY_S = 24 * 3600
_HEAD = struct.Struct("<2sBBqII")
_MAGIC = b"NS"
_MOST_DAYS = 36_500


@dataclass(frozen=True, slots=True)
class SeenPolicy:
    """How many seconds an event of each type makes its item count as seen: ``FOREVER_S`` for ever, 0 never."""

    seconds: Mapping[str, int]

    @property
    def is_forever(self) -> bool:
        """Whether every event makes its item seen for ever."""
        return all(lasts_s == FOREVER_S for lasts_s in self.seconds.values())

    def counts(self, kind: str) -> bool:
        """Whether events of *kind* make their items seen."""
        return bool(self.seconds.get(kind, FOREVER_S))

    def until_s(self, kind: str, time_ms: int) -> int:
        """The second until which an event of *kind* at *time_ms* makes its item count as seen; 0 if it does not.

        An unknown type counts for ever.
        """
        lasts_s = self.seconds.get(kind, FOREVER_S)
        if lasts_s in (0, FOREVER_S):
            return lasts_s
        return min(time_ms // 1000 + lasts_s, FOREVER_S - 1)


def parse_seen_policy(text: str) -> SeenPolicy:
    """The policy in *text*, ``TYPE=forever|never|<days>d`` separated by commas; types left out are forever.

    ``Misconfigured`` names the malformed part.
    """
    seconds = dict.fromkeys(EVENT_TYPES, FOREVER_S)
    for part in filter(None, (part.strip() for part in text.split(","))):
        kind, _, lasts = (piece.strip() for piece in part.partition("="))
        if kind not in seconds:
            near = difflib.get_close_matches(kind, EVENT_TYPES, n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            raise Misconfigured(
                f"NEARLINE_SEEN: {part!r} is not a type of event{guess} Known: {', '.join(EVENT_TYPES)}"
            )
        seconds[kind] = _lasting(part, lasts)
    return SeenPolicy(seconds)


def _lasting(part: str, lasts: str) -> int:
    if lasts in ("forever", "never"):
        return FOREVER_S if lasts == "forever" else 0
    days = lasts.removesuffix("d")
    if not (lasts.endswith("d") and days.isascii() and days.isdigit() and 1 <= int(days) <= _MOST_DAYS):
        raise Misconfigured(f"NEARLINE_SEEN: {part!r} must end in forever, never or a number of days such as 30d")
    return int(days) * _DAY_S


@dataclass(frozen=True, slots=True)
class SeenSnapshot:
    """A user's seen items at *version*: sorted hashes, until when each counts, and whether it was bought.

    All three have one length, at most ``MOST_ITEMS``, ``MOST_BOUGHT`` and the window of the sequence. *version* is on
    the user's clock, as in sequences; a snapshot may be newer than the newest sequence, since an event too old for the
    window changes the snapshot only.
    """

    version: int
    hashes: NDArray[np.uint64]
    until_s: NDArray[np.uint32]
    bought: NDArray[np.bool_]

    def in_force(self, now_s: int) -> NDArray[np.uint64]:
        """The hashes of the items that still count at *now_s*."""
        kept = self.until_s > now_s
        return self.hashes if kept.all() else self.hashes[kept]


def no_seen(version: int) -> SeenSnapshot:
    """The snapshot of an erased user."""
    return SeenSnapshot(version, np.zeros(0, np.uint64), np.zeros(0, np.uint32), np.zeros(0, np.bool_))


def until_s_of(policy: SeenPolicy, types: Sequence[str], times_ms: Sequence[int]) -> NDArray[np.uint32]:
    """``policy.until_s`` of each event of a window."""
    return np.array([policy.until_s(kind, at) for kind, at in zip(types, times_ms, strict=True)], np.uint32)


def encode_seen(snapshot: SeenSnapshot) -> bytes:
    """The snapshot's record in ``user-seen``, under the user's id."""
    body = b"".join(
        (
            snapshot.hashes.astype("<u8", copy=False).tobytes(),
            snapshot.until_s.astype("<u4", copy=False).tobytes(),
            snapshot.bought.astype(np.uint8, copy=False).tobytes(),
        )
    )
    return _HEAD.pack(_MAGIC, 1, 0, snapshot.version, len(snapshot.hashes), zlib.crc32(body)) + body


def may_replace_seen(raw: bytes, stored: bytes) -> bool:
    """Whether the snapshot in *raw* is not older than the *stored* one, or that is none."""
    if len(stored) < _HEAD.size or stored[:2] != _MAGIC:
        return True
    version, stored_version = (_HEAD.unpack_from(each)[3] for each in (raw, stored))
    return bool(version >= stored_version)


def decode_seen(raw: bytes) -> SeenSnapshot:
    """The snapshot in *raw*; ``BadInput`` if it is not one, damaged, or of unknown version."""
    if len(raw) < _HEAD.size or raw[:2] != _MAGIC:
        raise BadInput("bad_seen", f"not a seen snapshot: {raw[:16]!r}")
    _, layout, _, version, count, crc = _HEAD.unpack_from(raw)
    if layout != 1:
        raise BadInput("unknown_version", f"seen snapshot of version {layout}; this build reads 1")
    body = raw[_HEAD.size :]
    if len(body) != 13 * count or zlib.crc32(body) != crc:
        raise BadInput("bad_checksum", f"the seen snapshot's checksum does not match its {len(raw)} bytes")
    hashes = np.frombuffer(body, "<u8", count)
    until_s = np.frombuffer(body, "<u4", count, 8 * count)
    return SeenSnapshot(version, hashes, until_s, np.frombuffer(body, np.bool_, count, 12 * count))
