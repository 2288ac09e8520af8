"""A user's seen items, also those beyond the window: the newest ``MOST_ITEMS``. Independent of Flink.

For each item and type of event, the newest time and its event are kept. That is a maximum, so order and repetition make
no difference; nor do they for the limit: items older than the oldest kept one fall out, and that border only moves
forward. Two different records with the same event id both count.

Removing an event removes the entry that it made. An older event beyond the window, of the same item and type, goes with
it, since only the newest is stored.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flink_jobs.last_n.history import Met
from nearline.errors import BadInput, Misconfigured
from nearline.events import EVENT_TYPES, EventType
from nearline.hashing import hash64_all
from nearline.seen import FOREVER_S, MOST_ITEMS, SeenPolicy, SeenSnapshot

FORMAT = b"1"  # the first byte of the stored state
_HEAD = struct.Struct("<cI")
_CODES = {kind: code for code, kind in enumerate(EVENT_TYPES, start=1)}
_PURCHASE = _CODES[EventType.PURCHASE]


@dataclass(frozen=True, slots=True, eq=False)
class SeenItems:
    """Columns of one length, sorted by item and kind, each pair once: hash of the item, code of the event's type, the
    newest time of such an event, and the hash of its id."""

    items: NDArray[np.uint64]
    kinds: NDArray[np.uint8]
    times_ms: NDArray[np.int64]
    events: NDArray[np.uint64]

    def __len__(self) -> int:
        """The number of pairs of item and kind."""
        return len(self.items)


NOTHING = SeenItems(np.zeros(0, np.uint64), np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.uint64))


def fold(seen: SeenItems, met: Iterable[Met], policy: SeenPolicy, *, most: int = MOST_ITEMS) -> SeenItems:
    """*seen* with the events *met*, in any order, or *seen* itself if nothing is new."""
    counted = [each for each in met if policy.counts(each[1])]
    if not counted:
        return seen
    items, kinds, times_ms, events = zip(*counted, strict=True)
    codes = np.array([_CODES[kind] for kind in kinds], np.uint8)
    return united(
        seen, SeenItems(hash64_all(items), codes, np.array(times_ms, np.int64), hash64_all(events)), most=most
    )


def united(seen: SeenItems, more: SeenItems, *, most: int = MOST_ITEMS) -> SeenItems:
    """*seen* with *more*, which may be in any order, or *seen* itself if nothing is new.

    A window is small compared to *seen*, so its places are looked up instead of sorting everything.
    """
    if not len(more):
        return seen
    more = _newest_of_each(more)
    if not len(seen):
        return _newest(more, most)
    places, known = _places(seen, more)
    newer = known & _is_newer(more, _chosen(seen, places.clip(max=len(seen) - 1)))
    if known.all() and not newer.any():
        return seen
    after = _inserted(_put(seen, places[newer], _chosen(more, newer)), places[~known], _chosen(more, ~known))
    after = _newest(after, most)
    return seen if _equal(seen, after) else after


def told_between(seen: SeenItems, after_ms: int, until_ms: int) -> SeenItems:
    """The entries of *seen* with times after *after_ms* and up to *until_ms*."""
    return _chosen(seen, (seen.times_ms > after_ms) & (seen.times_ms <= until_ms))


def parts_of(seen: SeenItems, pairs: int) -> list[SeenItems]:
    """*seen* in parts of at most *pairs* each."""
    return [_chosen(seen, np.arange(at, min(at + pairs, len(seen)))) for at in range(0, len(seen), pairs)]


def without(seen: SeenItems, events: Iterable[int]) -> SeenItems:
    """*seen* without the entries of the events with these hashes, or *seen* itself if it has none of them."""
    kept = ~np.isin(seen.events, np.fromiter(events, np.uint64))
    return seen if kept.all() else _chosen(seen, kept)


def snapshot_of(seen: SeenItems, policy: SeenPolicy, version: int) -> SeenSnapshot:
    """The snapshot of *seen* for readers; items that never count as seen are left out."""
    lasts_s = np.array([0, *(policy.seconds[kind] for kind in EVENT_TYPES)], np.int64)[seen.kinds]
    until_s = np.where(lasts_s == FOREVER_S, FOREVER_S, np.minimum(seen.times_ms // 1000 + lasts_s, FOREVER_S - 1))
    counting = lasts_s > 0
    items, until_s, kinds = seen.items[counting], until_s[counting], seen.kinds[counting]
    if not len(items):
        return SeenSnapshot(version, items, until_s.astype(np.uint32), np.zeros(0, np.bool_))
    starts = _starts(items)
    bought = np.logical_or.reduceat(kinds == _PURCHASE, starts)
    return SeenSnapshot(version, items[starts], np.maximum.reduceat(until_s, starts).astype(np.uint32), bought)


def same_for_readers(one: SeenItems, other: SeenItems, policy: SeenPolicy) -> bool:
    """Whether both give the same snapshot: meeting an item again that counts for ever changes nothing.

    May be false although they do: an item met by another type of event counts as a change.
    """
    if len(one) != len(other):
        return False
    if policy.is_forever and np.array_equal(one.items, other.items) and np.array_equal(one.kinds, other.kinds):
        return True
    a, b = snapshot_of(one, policy, 0), snapshot_of(other, policy, 0)
    columns = ((a.hashes, b.hashes), (a.until_s, b.until_s), (a.bought, b.bought))
    return all(np.array_equal(mine, yours) for mine, yours in columns)


def encode_seen_items(seen: SeenItems) -> bytes:
    """The stored bytes: 25 for each pair."""
    columns = (seen.items, seen.times_ms, seen.events, seen.kinds)
    return _HEAD.pack(FORMAT, len(seen)) + b"".join(column.tobytes() for column in columns)


def decode_seen_items(state: bytes | None) -> SeenItems:
    """The items in *state*, ``NOTHING`` without a state; refuses another release's format."""
    if not state:
        return NOTHING
    layout, count = _HEAD.unpack_from(state) if len(state) >= _HEAD.size else (b"", 0)
    if layout > FORMAT:
        raise Misconfigured(f"seen items of format {layout!r}, this release reads {FORMAT!r}: use a newer release")
    if layout != FORMAT or len(state) != _HEAD.size + 25 * count:
        raise BadInput("bad_seen", f"not seen items: {state[:16]!r}")
    at = _HEAD.size
    return SeenItems(
        items=np.frombuffer(state, "<u8", count, at),
        times_ms=np.frombuffer(state, "<i8", count, at + 8 * count),
        events=np.frombuffer(state, "<u8", count, at + 16 * count),
        kinds=np.frombuffer(state, np.uint8, count, at + 24 * count),
    )


def decode_adopted(told: bytes) -> SeenItems:
    """The items in a command; ``BadInput`` if this build cannot read them, since any producer may send them."""
    try:
        seen = decode_seen_items(told)
    except Misconfigured as unknown:
        raise BadInput("bad_seen", str(unknown)) from None
    if not told or (len(seen) and not 1 <= seen.kinds.min() <= seen.kinds.max() <= len(EVENT_TYPES)):
        raise BadInput("bad_seen", f"not seen items with types that this build knows: {told[:16]!r}")
    return seen


def _places(seen: SeenItems, more: SeenItems) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The place in *seen* of each pair of *more*, and whether *seen* has the pair; neither may be empty."""
    places, ends = seen.items.searchsorted(more.items), seen.items.searchsorted(more.items, "right")
    last = len(seen) - 1
    while (behind := (places < ends) & (seen.kinds[places.clip(max=last)] < more.kinds)).any():
        places = places + behind
    return places, (places < ends) & (seen.kinds[places.clip(max=last)] == more.kinds)


def _is_newer(one: SeenItems, other: SeenItems) -> NDArray[np.bool_]:
    newer: NDArray[np.bool_] = one.times_ms > other.times_ms
    newer |= (one.times_ms == other.times_ms) & (one.events > other.events)
    return newer


def _put(seen: SeenItems, places: NDArray[np.intp], newer: SeenItems) -> SeenItems:
    """*seen* with the times and events of *newer* at *places*, where *seen* has the same pairs."""
    times_ms, events = seen.times_ms.copy(), seen.events.copy()
    times_ms[places], events[places] = newer.times_ms, newer.events
    return SeenItems(seen.items, seen.kinds, times_ms, events)


def _inserted(seen: SeenItems, places: NDArray[np.intp], new: SeenItems) -> SeenItems:
    """*seen* with *new* inserted before *places*."""
    if not len(new):
        return seen
    at = places + np.arange(len(new))
    old = np.ones(len(seen) + len(new), np.bool_)
    old[at] = False

    def column(before: NDArray[Any], more: NDArray[Any]) -> NDArray[Any]:
        joined = np.empty(len(old), before.dtype)
        joined[old], joined[at] = before, more
        return joined

    return SeenItems(
        column(seen.items, new.items),
        column(seen.kinds, new.kinds),
        column(seen.times_ms, new.times_ms),
        column(seen.events, new.events),
    )


def _newest_of_each(seen: SeenItems) -> SeenItems:
    """Each pair of item and kind once, with its newest time; of two events at the same time the greater hash."""
    order = np.lexsort((seen.events, seen.times_ms, seen.kinds, seen.items))
    ordered = _chosen(seen, order)
    same = (ordered.items[1:] == ordered.items[:-1]) & (ordered.kinds[1:] == ordered.kinds[:-1])
    return _chosen(ordered, np.append(~same, True))


def _newest(seen: SeenItems, most: int) -> SeenItems:
    """The pairs that are not older than the border: the oldest of the *most* newest items.

    With exactly *most* items there is a border too: others may have fallen out below it.
    """
    if len(seen) < most or len(starts := _starts(seen.items)) < most:
        return seen
    newest_ms, items = np.maximum.reduceat(seen.times_ms, starts), seen.items[starts]
    border = np.lexsort((items, newest_ms))[-most]
    at_ms, item = newest_ms[border], items[border]
    return _chosen(seen, (seen.times_ms > at_ms) | ((seen.times_ms == at_ms) & (seen.items >= item)))


def _starts(items: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Where each item begins in a sorted column that is not empty."""
    return np.flatnonzero(np.append(True, items[1:] != items[:-1]))


def _chosen(seen: SeenItems, places: NDArray[np.bool_] | NDArray[np.intp]) -> SeenItems:
    return SeenItems(seen.items[places], seen.kinds[places], seen.times_ms[places], seen.events[places])


def _equal(one: SeenItems, other: SeenItems) -> bool:
    if len(one) != len(other):
        return False
    pairs = ((one.items, other.items), (one.kinds, other.kinds), (one.times_ms, other.times_ms))
    return all(np.array_equal(a, b) for a, b in (*pairs, (one.events, other.events)))
