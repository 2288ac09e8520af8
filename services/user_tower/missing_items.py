"""Users whose vector lacks items, because these had no vector yet: they are encoded again as soon as one comes.

In memory only: after a restart such an item counts with the user's next event.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nearline.telemetry import counter, gauge
from services.user_tower.documents import News

MOST_PAIRS = 10_000  # of user and item
MOST_S = 600.0  # from the user's newest event on

PAIRS = gauge("user_tower_waiting_items", "Pairs of a user and an item that wait for the item's vector.")
ENDED = counter(
    "item_waits_ended_total",
    "Users whose wait for an item's vector ended: it came, ten minutes were over, or too many users waited.",
    "reason",
    known=("came", "expired", "dropped"),
)


@dataclass(frozen=True, slots=True)
class _Waiting:
    news: News
    items: frozenset[str]
    until_s: float


class MissingItems:
    """The users that wait for vectors of items, at most *most* pairs and *most_s*; of more pairs the oldest leave."""

    def __init__(
        self, *, most: int = MOST_PAIRS, most_s: float = MOST_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._most_s = most_s
        self._clock = clock
        self._waiting: dict[str, _Waiting] = {}  # the longest waiting user first
        self._users_of: dict[str, set[str]] = {}
        self._due: dict[str, News] = {}
        self._pairs = 0

    def __len__(self) -> int:
        """How many pairs of user and item wait."""
        return self._pairs

    def wait(self, user_id: str, news: News, items: Iterable[str]) -> None:
        """Let the user wait for the vectors of *items*, instead of what the user waited for before."""
        self.forget(user_id)
        waiting = _Waiting(news, frozenset(items), self._clock() + self._most_s)
        self._waiting[user_id] = waiting
        for item_id in waiting.items:
            self._users_of.setdefault(item_id, set()).add(user_id)
        self._count(len(waiting.items))
        while self._pairs > self._most:
            self._remove(next(iter(self._waiting)), "dropped")

    def came(self, item_ids: Iterable[str]) -> None:
        """Make the users due who wait for one of *item_ids*, which have vectors now."""
        if self._waiting:
            for item_id in item_ids:
                for user_id in list(self._users_of.get(item_id, ())):
                    self.make_due(user_id, self._remove(user_id, "came"))

    def make_due(self, user_id: str, news: News) -> None:
        """Have *news* encoded again."""
        self._due[user_id] = news

    def take(self) -> dict[str, News]:
        """The users that are due, and what to encode; each is returned once."""
        while self._waiting and next(iter(self._waiting.values())).until_s <= self._clock():
            self._remove(next(iter(self._waiting)), "expired")
        due, self._due = self._due, {}
        return due

    def forget(self, user_id: str) -> None:
        """Drop what the user waits for: newer events, or an erasure, came."""
        self._due.pop(user_id, None)
        if user_id in self._waiting:
            self._remove(user_id)

    def _remove(self, user_id: str, reason: str = "") -> News:
        waiting = self._waiting.pop(user_id)
        for item_id in waiting.items:
            users = self._users_of[item_id]
            users.remove(user_id)
            if not users:
                del self._users_of[item_id]
        self._count(-len(waiting.items))
        if reason:
            ENDED.labels(reason=reason).inc()
        return waiting.news

    def _count(self, more: int) -> None:
        self._pairs += more
        PAIRS.set(self._pairs)
