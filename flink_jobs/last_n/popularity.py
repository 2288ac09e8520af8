"""An event's share in its item's popularity. Independent of Flink.

Forward decay (Cormode, Shkapenyuk, Srivastava, Xu: Forward Decay, ICDE 2009): an event of weight w at time t adds
``w · 2^((t - landmark) / half_life)``. The landmark is fixed, so sums are never decayed: the ratios of scores stay the
same as with decay.
"""

import math

from nearline.errors import Misconfigured
from nearline.events import Event, EventType
from nearline.sequences import UserSequence

LANDMARK_MS = 1_767_225_600_000  # 2026-01-01
# A score unchanged for this many half-lives is under a millionth of a new event's: its state may expire.
FORGOTTEN_AFTER_HALF_LIVES = 20
_DAY_MS = 24 * 3600 * 1000
_MAX_EXPONENT = 960.0  # doubles end at 2^1024, and sums need room
_HEADROOM_MS = 365 * _DAY_MS

# Dislikes and skips add nothing to popularity and subtract nothing.
WEIGHTS: dict[str, float] = {
    EventType.VIEW: 1.0,
    EventType.CLICK: 2.0,
    EventType.ADD_TO_CART: 3.0,
    EventType.PURCHASE: 5.0,
    EventType.LIKE: 3.0,
    EventType.DISLIKE: 0.0,
    EventType.SKIP: 0.0,
}


def gain(event: Event, *, half_life_ms: int, counted: float = 0.0) -> float:
    """What *event* adds to its item's score; 0 for types without weight, synthetic events and events of a merge.

    A merged event was counted in its session. *counted* is the weight that its user and item already have.
    """
    weight = 0.0 if event.synthetic or event.merged_from else WEIGHTS[event.type] - counted
    if weight <= 0:
        return 0.0
    return weight * math.exp2(min((event.time_ms - LANDMARK_MS) / half_life_ms, _MAX_EXPONENT))


def counted_before(window: UserSequence | None, event: Event, *, once_ms: int) -> float:
    """The largest weight in the user's *window* of events of the same item less than *once_ms* from *event*.

    So repeated events of a user and item count once, as the strongest of them.
    """
    if window is None or event.item_id not in window.items:
        return 0.0
    columns = zip(window.items, window.times_ms, window.types, strict=True)
    near = (kind for item, ms, kind in columns if item == event.item_id and abs(ms - event.time_ms) < once_ms)
    return max((WEIGHTS.get(kind, 0.0) for kind in near), default=0.0)


def check_half_life(half_life_ms: int, *, now_ms: int) -> int:
    """Return *half_life_ms*, or raise ``Misconfigured`` if it is so short that scores leave a double within a year."""
    shortest_ms = (now_ms + _HEADROOM_MS - LANDMARK_MS) / _MAX_EXPONENT
    if half_life_ms < shortest_ms:
        raise Misconfigured(
            f"NEARLINE_POPULARITY_HALF_LIFE_DAYS={half_life_ms / _DAY_MS:.3g} is too short: scores would overflow "
            f"within a year; at least {shortest_ms / _DAY_MS:.3g} days"
        )
    return half_life_ms
