"""A user's seen items, also those beyond the window: the newest ``MOST_ITEMS``, and the newest ``MOST_BOUGHT`` bought
ones. Independent of Flink.

For each item and type of event, the newest time and its event are kept. That is a maximum, so order and repetition make
no difference; nor do they for the limits: items older than the oldest kept one fall out, except for purchases, which
have a limit of their own, and each border only moves forward. Two different records with the same event id both count.

Removing an event removes the entry that it made. An older event beyond the window, of the same item and type, goes with
it, since only the newest is stored.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flink_jobs.last_n.history import Met
from nearline.errors import BadInput, Misconfigured
from nearline.events import EVENT_TYPES, EventType
from nearline.hashing import hash64_all
from nearline.seen import FOREVER_S, MOST_BOUGHT, MOST_ITEMS, SeenPolicy, SeenSnapshot

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


def fold(
    seen: SeenItems, met: Iterable[Met], policy: SeenPolicy, *, most: int = MOST_ITEMS, most_bought: int = MOST_BOUGHT
) -> SeenItems:
    """*seen* with the events *met*, in any order, or *seen* itself if nothing is new."""
    counted = [each for each in met if policy.counts(each[1])]
    if not counted:
        return seen
    items, kinds, times_ms, events = zip(*counted, strict=True)
    codes = np.array([_CODES[kind] for kind in kinds], np.uint8)
    more = SeenItems(hash64_all(items), codes, np.array(times_ms, np.int64), hash64_all(events))
    return united(seen, more, most=most, most_bought=most_bought)


def united(seen: SeenItems, more: SeenItems, *, most: int = MOST_ITEMS, most_bought: int = MOST_BOUGHT) -> SeenItems:
    """*seen* with *more*, which may be in any order, or *seen* itself if nothing is new."""
    both = SeenItems(
        np.concatenate((seen.items, more.items)),
        np.concatenate((seen.kinds, more.kinds)),
        np.concatenate((seen.times_ms, more.times_ms)),
        np.concatenate((seen.events, more.events)),
    )
    if not len(both):
        return seen
    after = _newest(_newest_of_each(both), most, most_bought)
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
    items, kinds, until_s = seen.items, seen.kinds, None
    if not policy.is_forever:
        lasts_s = np.array([0, *(policy.seconds[kind] for kind in EVENT_TYPES)], np.int64)[kinds]
        ends_s = np.where(lasts_s == FOREVER_S, FOREVER_S, np.minimum(seen.times_ms // 1000 + lasts_s, FOREVER_S - 1))
        counting = lasts_s > 0
        items, kinds, until_s = items[counting], kinds[counting], ends_s[counting]
    if not len(items):
        return SeenSnapshot(version, items, np.zeros(0, np.uint32), np.zeros(0, np.bool_))
    starts = _starts(items)
    longest = np.full(len(starts), FOREVER_S) if until_s is None else np.maximum.reduceat(until_s, starts)
    bought = np.logical_or.reduceat(kinds == _PURCHASE, starts)
    return SeenSnapshot(version, items[starts], longest.astype(np.uint32), bought)


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


def _newest_of_each(seen: SeenItems) -> SeenItems:
    """Each pair of item and kind once, with its newest time; of two events of one time the greater hash.

    Most items come once, so only the others are ordered by more than the item; of what is known, which is in order
    already, a stable sort is little more than one look.
    """
    order = seen.items.argsort(kind="stable")
    items = seen.items[order]
    same = items[1:] == items[:-1]
    if not same.any():
        return _chosen(seen, order)
    among = np.flatnonzero(np.append(same, False) | np.append(False, same))
    part = _chosen(seen, order[among])
    order[among] = order[among][np.lexsort((part.events, part.times_ms, part.kinds, part.items))]
    ordered = _chosen(seen, order)
    return _chosen(ordered, np.append(~(same & (ordered.kinds[1:] == ordered.kinds[:-1])), True))


def _newest(seen: SeenItems, most: int, most_bought: int) -> SeenItems:
    """The pairs that are not older than the border: the oldest of the *most* newest items; and the newest purchases.

    With exactly *most* items there is a border too: others may have fallen out below it.
    """
    if len(seen) < most or len(starts := _starts(seen.items)) < most:
        return seen
    newest_ms, items = np.maximum.reduceat(seen.times_ms, starts), seen.items[starts]
    at_ms = np.partition(newest_ms, len(starts) - most)[len(starts) - most]
    # Of those that are as old as the item on the border the greatest stay.
    item = items[newest_ms == at_ms][(newest_ms > at_ms).sum() - most]
    kept = (seen.times_ms > at_ms) | ((seen.times_ms == at_ms) & (seen.items >= item))
    bought = seen.kinds == _PURCHASE
    if (bought & ~kept).any():
        kept[_newest_bought(seen, np.flatnonzero(bought), most_bought)] = True
    return _chosen(seen, kept)


def _newest_bought(seen: SeenItems, places: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """Those of *places*, which are purchases, that are among the *most* newest; of equal times the greater item."""
    return places[seen.times_ms[places].argsort(kind="stable")[-most:]] if len(places) > most else places


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
