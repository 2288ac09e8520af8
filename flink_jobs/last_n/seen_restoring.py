"""Seen items from a snapshot of ``user-seen``: hashes of items, without the events that met them.

Such an entry has ``UNKNOWN`` in place of its event's hash, and a time and a type that make its item count as long as
the snapshot says. Without a known time it is older than all others, so it falls out first. Independent of Flink.
"""

import numpy as np
from numpy.typing import NDArray

from flink_jobs.last_n.seen_items import SeenItems, united
from nearline.events import EVENT_TYPES, EventType
from nearline.seen import FOREVER_S, SeenPolicy, SeenSnapshot

UNKNOWN = 0
_OLDEST_MS = 1
_PURCHASE = EVENT_TYPES.index(EventType.PURCHASE) + 1
_NONE = SeenItems(np.zeros(0, np.uint64), np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.uint64))


def seen_of(snapshot: SeenSnapshot, policy: SeenPolicy) -> SeenItems:
    """The entries that give *snapshot* again; its items that no type of event makes seen any more are left out."""
    lasts_s = _lasts_s(policy)
    until_s = snapshot.until_s.astype(np.int64)
    bought = snapshot.bought & bool(lasts_s[_PURCHASE])
    as_bought = _met(snapshot.hashes[bought], _PURCHASE, until_s[bought], lasts_s)
    ends_s = np.where(bought, np.minimum(until_s, _most_s(lasts_s[_PURCHASE])), 0)
    others = ends_s < until_s
    finite, forever = others & (until_s != FOREVER_S), others & (until_s == FOREVER_S)
    parts = [as_bought]
    for which, kind in ((finite, _kind_of(lasts_s, forever=False)), (forever, _kind_of(lasts_s, forever=True))):
        if kind:
            parts.append(_met(snapshot.hashes[which], kind, until_s[which], lasts_s))
    return united(_NONE, _joined(parts))


def of_unknown_events(seen: SeenItems) -> SeenItems:
    """The entries that came from a snapshot."""
    return _picked(seen, seen.events == UNKNOWN)


def of_known_events(seen: SeenItems) -> SeenItems:
    """The entries that came from events."""
    return _picked(seen, seen.events != UNKNOWN)


def explained(seen: SeenItems, policy: SeenPolicy) -> SeenItems:
    """*seen* without entries from a snapshot whose item a known event makes count as long, and as bought.

    So that the removal of that event removes the item.
    """
    unknown = seen.events == UNKNOWN
    if not unknown.any() or unknown.all():
        return seen
    known, rest = _picked(seen, ~unknown), _picked(seen, unknown)
    lasts_s = _lasts_s(policy)
    items, place = np.unique(known.items, return_inverse=True)
    longest_s, bought = np.zeros(len(items), np.int64), np.zeros(len(items), np.bool_)
    np.maximum.at(longest_s, place, _until_s(known, lasts_s))
    bought[place[known.kinds == _PURCHASE]] = True
    at = np.minimum(items.searchsorted(rest.items), len(items) - 1)
    is_known = (items[at] == rest.items) & (longest_s[at] >= _until_s(rest, lasts_s))
    is_known &= bought[at] | (rest.kinds != _PURCHASE)
    return united(_NONE, _joined([known, _picked(rest, ~is_known)])) if is_known.any() else seen


def _lasts_s(policy: SeenPolicy) -> NDArray[np.int64]:
    """How long each type of event lasts, by its code."""
    return np.array([0, *(policy.seconds[kind] for kind in EVENT_TYPES)], np.int64)


def _most_s(lasts_s: np.int64) -> int:
    return FOREVER_S if lasts_s == FOREVER_S else FOREVER_S - 1


def _until_s(seen: SeenItems, lasts_s: NDArray[np.int64]) -> NDArray[np.int64]:
    lasts = lasts_s[seen.kinds]
    return np.where(lasts == FOREVER_S, FOREVER_S, np.minimum(seen.times_ms // 1000 + lasts, FOREVER_S - 1))


def _kind_of(lasts_s: NDArray[np.int64], *, forever: bool) -> int:
    """The code of a type of event that lasts for ever, or longest of those that do not; 0 if there is none.

    A purchase only if no other type does: it would count as bought.
    """
    lasts = (lasts_s == FOREVER_S) if forever else (lasts_s > 0) & (lasts_s != FOREVER_S)
    fits = np.flatnonzero(lasts)
    if len(fits) > 1:
        fits = fits[fits != _PURCHASE]
    return int(fits[lasts_s[fits].argmax()]) if len(fits) else 0


def _met(items: NDArray[np.uint64], kind: int, until_s: NDArray[np.int64], lasts_s: NDArray[np.int64]) -> SeenItems:
    """Entries of one type of event that last until *until_s*, or from the oldest time if it is for ever."""
    at_ms = np.where(until_s == FOREVER_S, _OLDEST_MS, np.maximum(until_s - lasts_s[kind], 0) * 1000)
    events = np.full(len(items), UNKNOWN, np.uint64)
    return SeenItems(items, np.full(len(items), kind, np.uint8), at_ms, events)


def _joined(parts: list[SeenItems]) -> SeenItems:
    columns = zip(*((part.items, part.kinds, part.times_ms, part.events) for part in parts), strict=True)
    return SeenItems(*(np.concatenate(column) for column in columns))


def _picked(seen: SeenItems, which: NDArray[np.bool_]) -> SeenItems:
    return SeenItems(seen.items[which], seen.kinds[which], seen.times_ms[which], seen.events[which])
