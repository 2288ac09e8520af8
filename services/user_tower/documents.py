"""Updates a user's document: each of its versions only grows, and older news never replaces newer.

Seen items are those of the job's newest snapshot, which is stored beside the document, and of the windows of later
sequences. A snapshot replaces the one before and every window up to its version, so an item whose event was removed
disappears with it; until then the set only grows. The vector changes only together with the record of what it used.
An erasure removes everything up to its version, and the document keeps that version.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearline.events import EventType
from nearline.features import HISTORY_LENGTH
from nearline.hashing import hash64_all
from nearline.seen import FOREVER_S, MOST_ITEMS, SeenPolicy, SeenSnapshot, no_seen
from nearline.sequences import TriggerEvent, UserSequence
from nearline.user_documents import Bought, Hashes, Recent, UserDocument, or_forever, seen_with, with_recent

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
    kept: int = HISTORY_LENGTH,
) -> UserDocument:
    """The document after *news*; *vector* is the vector of ``news.newest``, if it has one. A full window has *kept*
    events.

    Without a vector the old one stays, with the clicks that it used; seen items advance anyway. News that the document
    already includes change only ``stored_ms``.
    """
    document = stored or UserDocument(None, 0, 0, "", 0, now_ms, NONE, NONE, NONE)
    for sequence in news.sequences:
        if sequence.erased:
            document = _erased(document, sequence.version)
    if news.snapshot is not None and news.snapshot.version >= document.seen_version:
        document = _replaced(document, news.snapshot.version)
    # One copy for all changes: each separate copy would cost as much as hashing the window.
    changes = _seeing(document, news.sequences, policy)
    history_version = changes.get("history_version", document.history_version)
    changes |= _describing(document, history_version, news.newest, vector, kept)
    return replace(document, stored_ms=now_ms, **changes)


def _erased(document: UserDocument, version: int) -> UserDocument:
    """The document without anything as old as *version*; a marker if nothing is left."""
    document = replace(document, erased_version=max(version, document.erased_version))
    if document.seen_version <= version:
        document = _replaced(document, version)
    if document.vector_version > version:
        return document
    return replace(
        document,
        vector=None,
        vector_version=version,
        newest_event_id="",
        as_of_ms=0,
        events=NONE,
        window_from_ms=0,
        erased=document.history_version == version,
    )


def _replaced(document: UserDocument, version: int) -> UserDocument:
    """The document beside a snapshot of *version*, which replaces the one before and the windows that it includes."""
    history_version = max(document.history_version, version)
    nothing = replace(
        document,
        history_version=history_version,
        seen_version=version,
        seen=NONE,
        purchased=NONE,
        until_s=None,
        seen_beside=True,
        erased=document.erased and history_version == document.history_version,
    )
    return with_recent(nothing, document.recent.newer_than(version))


def snapshot_beside(document: UserDocument, news: News) -> SeenSnapshot | None:
    """The snapshot of *news* that belongs beside the *document* made of them, if it is among them."""
    if news.snapshot is not None and news.snapshot.version == document.seen_version:
        return news.snapshot
    erasures = (sequence.version for sequence in news.sequences if sequence.erased)
    return no_seen(document.seen_version) if document.seen_version in erasures else None


def _seeing(document: UserDocument, sequences: Sequence[UserSequence], policy: SeenPolicy) -> dict[str, Any]:
    """The document's changed fields for the windows of those *sequences* that no snapshot includes."""
    newer = sorted((each for each in sequences if each.version > document.seen_version), key=_version)
    if not newer:
        return {}
    window = _window(newer, policy)
    seen, purchased, until_s = seen_with(document, window)
    history_version = max(document.history_version, newer[-1].version)
    return {
        "history_version": history_version,
        "seen": seen,
        "until_s": until_s,
        "purchased": purchased,
        "recent": _joined(document.recent, window),
        "erased": document.erased and history_version == document.history_version,
    }


def _window(newer: Sequence[UserSequence], policy: SeenPolicy) -> Recent:
    """The items that count as seen in the windows of *newer*, which are in the order of versions."""
    counting = [_counting(sequence, policy) for sequence in newer]
    version_of: dict[str, int] = {}
    for sequence, (until_of, _) in zip(newer, counting, strict=True):
        version_of |= dict.fromkeys(until_of, sequence.version)
    hashes = hash64_all(list(version_of))
    order = hashes.argsort()
    count = len(order)
    until_s = bought = None
    if not all(forever for _, forever in counting):
        longest = dict.fromkeys(version_of, 0)
        for until_of, _ in counting:
            longest |= {item: max(end_s, longest[item]) for item, end_s in until_of.items()}
        until_s = np.fromiter(longest.values(), np.uint32, count)[order]
    if any(PURCHASE in sequence.types for sequence in newer):
        of_all = set[str]().union(*map(_bought, newer, (until_of for until_of, _ in counting)))
        bought = np.fromiter(map(of_all.__contains__, version_of), np.bool_, count)[order]
    if len(newer) == 1:
        versions = np.full(count, newer[0].version)
    else:
        versions = np.fromiter(version_of.values(), np.int64, count)[order]
    return Recent(hashes[order], versions, until_s, bought)


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


def _joined(recent: Recent, window: Recent) -> Recent:
    """*recent* with *window*, which wins for an item of both unless it is older; the newest ``MOST_ITEMS``."""
    if not len(recent.hashes):
        return window
    old, new = _disagreeing(recent, window)
    if new is not None:
        window = window.picked(new)
    if not len(old) and len(window.hashes) <= MOST_ITEMS:
        return window
    kept = recent.picked(old)
    hashes = np.concatenate((kept.hashes, window.hashes))
    versions = np.concatenate((kept.versions, window.versions))
    order = hashes.argsort(kind="stable")
    if len(hashes) > MOST_ITEMS:
        newest = np.argsort(versions, kind="stable")[-MOST_ITEMS:]
        order = newest[hashes[newest].argsort()]
    until_s = bought = None
    if kept.until_s is not None or window.until_s is not None:
        until_s = np.concatenate([or_forever(each.until_s, each.hashes) for each in (kept, window)])[order]
    if kept.bought is not None or window.bought is not None:
        bought = np.concatenate([_or_not(each.bought, each.hashes) for each in (kept, window)])[order]
    return Recent(hashes[order], versions[order], until_s, bought)


def _or_not(bought: Bought | None, hashes: Hashes) -> Bought:
    return np.zeros(len(hashes), np.bool_) if bought is None else bought


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


def _describing(
    document: UserDocument,
    history_version: int,
    newest: UserSequence | None,
    vector: NDArray[np.float32] | None,
    kept: int,
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
        "window_from_ms": newest.times_ms[0] if len(newest.times_ms) >= kept else 0,
    }
    return used if vector is None else {"vector": vector, "vector_version": newest.version, **used}


def _version(sequence: UserSequence) -> int:
    return sequence.version
