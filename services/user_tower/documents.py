"""Updates a user's document: each of its versions only grows, and older news never replaces newer.

Seen items are those of the job's newest snapshot and of the windows of later sequences. A snapshot replaces the one
before and every window up to its version, so an item whose event was removed disappears with it; until then the set
only grows. The vector changes only together with the record of what it used. An erasure removes everything up to its
version.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearline.events import EventType
from nearline.hashing import hash64_all
from nearline.seen import FOREVER_S, MOST_ITEMS, SeenPolicy, SeenSnapshot
from nearline.sequences import TriggerEvent, UserSequence
from nearline.user_documents import NOTHING_RECENT, Hashes, Recent, Seconds, UserDocument

NONE: Hashes = np.zeros(0, dtype=np.uint64)
PURCHASE = EventType.PURCHASE.value


class Arrived(NamedTuple):
    """A click with its time of production, and the append time of the sequence with it."""

    cause: TriggerEvent
    appended_ms: int


@dataclass(slots=True)
class News:
    """A user's records that are not stored yet, in any order: sequences, and the newest snapshot if there is one.

    *arrived* are the clicks among them whose delay is measured once their vector is stored.
    """

    sequences: list[UserSequence] = field(default_factory=list)
    snapshot: SeenSnapshot | None = None
    arrived: list[Arrived] = field(default_factory=list)

    @property
    def newest(self) -> UserSequence | None:
        """The sequence to make the user's vector from; ``None`` without one, or if it is an erasure."""
        newest = max(self.sequences, key=_version, default=None)
        return None if newest is None or newest.erased else newest

    def add(self, more: "News") -> None:
        """Add further records."""
        self.sequences += more.sequences
        self.arrived += more.arrived
        if more.snapshot is not None and (self.snapshot is None or more.snapshot.version >= self.snapshot.version):
            self.snapshot = more.snapshot


def advance(
    stored: UserDocument | None,
    news: News,
    vector: NDArray[np.float32] | None,
    *,
    policy: SeenPolicy,
    now_ms: int,
) -> UserDocument:
    """The document after *news*; *vector* is the vector of ``news.newest``, if it has one.

    Without a vector the old one stays, with the clicks that it used; seen items advance anyway. News that the document
    already includes change only ``stored_ms``.
    """
    document = stored or UserDocument(None, 0, 0, "", 0, now_ms, NONE, NONE, NONE)
    for sequence in news.sequences:
        if sequence.erased:
            document = _erased(document, sequence.version)
    if news.snapshot is not None and news.snapshot.version >= document.seen_version:
        document = _replaced(document, news.snapshot)
    # One copy for all changes: each separate copy would cost as much as hashing the window.
    changes = _seeing(document, news.sequences, policy)
    history_version = changes.get("history_version", document.history_version)
    changes |= _describing(document, history_version, news.newest, vector)
    return replace(document, stored_ms=now_ms, **changes)


def _erased(document: UserDocument, version: int) -> UserDocument:
    """The document without anything as old as *version*; a marker if nothing is left."""
    if document.seen_version <= version:
        document = _replaced(document, SeenSnapshot(version, NONE, np.zeros(0, np.uint32), np.zeros(0, np.bool_)))
    if document.vector_version > version:
        return document
    return replace(
        document,
        vector=None,
        vector_version=version,
        newest_event_id="",
        as_of_ms=0,
        events=NONE,
        erased=document.history_version == version,
    )


def _replaced(document: UserDocument, snapshot: SeenSnapshot) -> UserDocument:
    """The document with *snapshot* replacing the one before and the windows that it includes."""
    recent = _picked(document.recent, document.recent.versions > snapshot.version)
    seen, until_s, bought = _together(
        (snapshot.hashes, recent.hashes), (snapshot.until_s, recent.until_s), (snapshot.bought, recent.bought)
    )
    history_version = max(document.history_version, snapshot.version)
    return replace(
        document,
        history_version=history_version,
        seen_version=snapshot.version,
        seen=seen,
        until_s=until_s,
        purchased=seen[bought],
        recent=recent,
        erased=document.erased and history_version == document.history_version,
    )


def _seeing(document: UserDocument, sequences: Sequence[UserSequence], policy: SeenPolicy) -> dict[str, Any]:
    """The document's changed fields for the windows of those *sequences* that no snapshot includes."""
    newer = sorted((each for each in sequences if each.version > document.seen_version), key=_version)
    if not newer:
        return {}
    window, is_forever = _window(newer, policy)
    seen, until_s, purchased = _grown(document, window, is_forever)
    history_version = max(document.history_version, newer[-1].version)
    return {
        "history_version": history_version,
        "seen": seen,
        "until_s": until_s,
        "purchased": purchased,
        "recent": _joined(document.recent, window),
        "erased": document.erased and history_version == document.history_version,
    }


def _window(newer: Sequence[UserSequence], policy: SeenPolicy) -> tuple[Recent, bool]:
    """The items that count as seen in the windows of *newer*, in the order of versions.

    And whether all of them count for ever, as is most common.
    """
    counting = [_counting(sequence, policy) for sequence in newer]
    version_of: dict[str, int] = {}
    for sequence, (until_of, _) in zip(newer, counting, strict=True):
        version_of |= dict.fromkeys(until_of, sequence.version)
    is_forever = all(forever for _, forever in counting)
    hashes = hash64_all(list(version_of))
    order = hashes.argsort()
    count = len(order)
    until_s, bought = np.full(count, FOREVER_S, np.uint32), np.zeros(count, np.bool_)
    if not is_forever:
        longest = dict.fromkeys(version_of, 0)
        for until_of, _ in counting:
            longest |= {item: max(end_s, longest[item]) for item, end_s in until_of.items()}
        until_s = np.fromiter(longest.values(), np.uint32, count)[order]
    if any(PURCHASE in sequence.types for sequence in newer):
        of_all = set[str]().union(*map(_bought, newer, (until_of for until_of, _ in counting)))
        bought = np.fromiter(map(of_all.__contains__, version_of), np.bool_, count)[order]
    versions = np.fromiter(version_of.values(), np.int64, count)[order]
    return Recent(hashes[order], versions, until_s, bought), is_forever


def _bought(sequence: UserSequence, counting: Mapping[str, int]) -> set[str]:
    pairs = zip(sequence.items, sequence.types, strict=True)
    return {item for item, kind in pairs if kind == PURCHASE and item in counting}


def _counting(sequence: UserSequence, policy: SeenPolicy) -> tuple[dict[str, int], bool]:
    """The window's items that count as seen, until when, and whether all count for ever (the most common case)."""
    if all(policy.until_s(kind, 0) == FOREVER_S for kind in set(sequence.types)):
        return dict.fromkeys(sequence.items, FOREVER_S), True
    until_of: dict[str, int] = {}
    for item, kind, time_ms in zip(sequence.items, sequence.types, sequence.times_ms, strict=True):
        until_s = policy.until_s(kind, time_ms)
        if until_s:
            until_of[item] = max(until_s, until_of.get(item, 0))
    return until_of, all(until_s == FOREVER_S for until_s in until_of.values())


def _grown(document: UserDocument, window: Recent, is_forever: bool) -> tuple[Hashes, Seconds | None, Hashes]:
    """The document's seen, until_s and purchased after adding *window*."""
    if document.until_s is None and is_forever:
        seen = _union(document.seen, window.hashes)
        bought = window.hashes[window.bought]
        return seen, None, _union(document.purchased, bought) if len(bought) else document.purchased
    known = document.seen
    known_until_s = np.full(len(known), FOREVER_S, np.uint32) if document.until_s is None else document.until_s
    known_bought = np.isin(known, document.purchased, assume_unique=True)
    seen, until_s, either = _together(
        (known, window.hashes), (known_until_s, window.until_s), (known_bought, window.bought)
    )
    return seen, until_s, seen[either]


def _together(
    hashes: tuple[Hashes, Hashes], until_s: tuple[Seconds, Seconds], bought: tuple[NDArray[np.bool_], NDArray[np.bool_]]
) -> tuple[Hashes, Seconds | None, NDArray[np.bool_]]:
    """The sorted union with each item's longest time and whether it was bought; no times if all are for ever."""
    union, place = np.unique(np.concatenate(hashes), return_inverse=True)
    longest = np.zeros(len(union), np.uint32)
    np.maximum.at(longest, place, np.concatenate(until_s))
    either = np.zeros(len(union), np.bool_)
    either[place[np.concatenate(bought)]] = True
    return union, (None if (longest == FOREVER_S).all() else longest), either


def _joined(recent: Recent, window: Recent) -> Recent:
    """*recent* with *window*, which wins for an item of both unless it is older; the newest ``MOST_ITEMS``."""
    if not len(recent.hashes):
        return window
    old, new = _disagreeing(recent, window)
    if new is not None:
        window = _picked(window, new)
    if not len(old) and len(window.hashes) <= MOST_ITEMS:
        return window
    hashes = np.concatenate((recent.hashes[old], window.hashes))
    versions = np.concatenate((recent.versions[old], window.versions))
    order = hashes.argsort(kind="stable")
    if len(hashes) > MOST_ITEMS:
        newest = np.argsort(versions, kind="stable")[-MOST_ITEMS:]
        order = newest[hashes[newest].argsort()]
    return Recent(
        hashes[order],
        versions[order],
        np.concatenate((recent.until_s[old], window.until_s))[order],
        np.concatenate((recent.bought[old], window.bought))[order],
    )


def _disagreeing(recent: Recent, window: Recent) -> tuple[NDArray[np.intp], NDArray[np.bool_] | None]:
    """The places in both of items that the other does not have at a later version; ``None`` for all of *window*."""
    count = len(recent.hashes)
    place = np.minimum(recent.hashes.searchsorted(window.hashes), count - 1)
    both = recent.hashes[place] == window.hashes
    later = window.versions >= recent.versions[place]
    replaced = both & later
    kept = np.ones(count, np.bool_)
    kept[place[replaced]] = False
    return kept.nonzero()[0], None if later.all() or (replaced == both).all() else ~both | later


def _picked(recent: Recent, which: NDArray[Any]) -> Recent:
    if not len(recent.hashes):
        return NOTHING_RECENT
    return Recent(recent.hashes[which], recent.versions[which], recent.until_s[which], recent.bought[which])


def _describing(
    document: UserDocument, history_version: int, newest: UserSequence | None, vector: NDArray[np.float32] | None
) -> dict[str, Any]:
    """The changed fields for *vector* and the clicks that it used; without a vector, for the newest known history."""
    if newest is None or newest.version < document.vector_version:
        return {}
    if vector is None and (
        document.vector is not None or not (newest.version >= history_version or newest.as_of_ms >= document.as_of_ms)
    ):
        return {}
    used: dict[str, Any] = {
        "newest_event_id": newest.newest_event_id,
        "as_of_ms": newest.as_of_ms,
        "events": hash64_all(newest.event_ids),
    }
    return used if vector is None else {"vector": vector, "vector_version": newest.version, **used}


def _union(known: Hashes, more: Hashes) -> Hashes:
    """The sorted union of *known*, sorted, and *more*, without repeats; *known* itself if it has all of *more*."""
    if len(known):
        more = more[known.take(known.searchsorted(more), mode="clip") != more]
    return np.sort(np.concatenate((known, more))) if len(more) else known


def _version(sequence: UserSequence) -> int:
    return sequence.version
