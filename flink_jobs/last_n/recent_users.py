"""A cache of decoded users with recent records: a user who has just clicked often clicks again.

Reading and decoding a user's state takes a third of an event's time. A cached user is the state: only this operator
writes it, and a restore makes a new operator with an empty cache. It is used for half of the state's time to live, so
that the state has never expired meanwhile. Checkpoints do not include the cache.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from flink_jobs.last_n.user_state import User

MOST_BYTES = 8 * 1024 * 1024  # of encoded states; decoded they take about four times as much: 2,400 users of 50 events


class _Kept(NamedTuple):
    user: User
    size: int
    until_s: float


class RecentUsers:
    """Users by id, with states of at most *most_bytes*; the least recently used are evicted first.

    *ttl_ms* is the state's time to live after a write, *now_s* any monotonic clock.
    """

    def __init__(
        self, ttl_ms: int, *, most_bytes: int = MOST_BYTES, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._lasts_s = ttl_ms / 2_000
        self._most_bytes = most_bytes
        self._now_s = now_s
        self._bytes = 0
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def __len__(self) -> int:
        """How many users are cached."""
        return len(self._kept)

    def get(self, user_id: str) -> User | None:
        """The user as the state has it, or ``None`` if the state must be read."""
        kept = self._kept.get(user_id)
        return kept.user if kept is not None and self._now_s() < kept.until_s else None

    def keep(self, user: User, state_bytes: int) -> None:
        """Cache *user*, whose encoded state of *state_bytes* was just stored."""
        user_id = user.window.user_id
        before = self._kept.pop(user_id, None)
        self._kept[user_id] = _Kept(user, state_bytes, self._now_s() + self._lasts_s)
        self._bytes += state_bytes - (before.size if before is not None else 0)
        while self._bytes > self._most_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].size

    def forget(self, user_id: str) -> None:
        """Drop the user, whose state is written in another way."""
        kept = self._kept.pop(user_id, None)
        if kept is not None:
            self._bytes -= kept.size
