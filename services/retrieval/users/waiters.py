"""Requests that wait until a user's document is written: they are woken and do not poll."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nearline.shares import BoundedShares
from nearline.telemetry import gauge

MOST = 1_000
MOST_OF_USER = 16

_WAITING = gauge("recommend_waiting_requests", "Requests that wait for an event to be used")


class Waiters:
    """The waiting requests by user, at most *most* at a time: half of them of one holder, *most_of_user* of one user.

    *hurry* is called whenever a request begins to wait.
    """

    def __init__(
        self, most: int = MOST, *, most_of_user: int = MOST_OF_USER, hurry: Callable[[], None] = lambda: None
    ) -> None:
        self._shares = BoundedShares(most, max(1, most // 2), changed=_WAITING.set)
        self._most_of_user = most_of_user
        self._hurry = hurry
        self._by_user: dict[str, list[asyncio.Event]] = {}

    def __len__(self) -> int:
        """How many requests wait."""
        return self._shares.taken

    @contextmanager
    def for_user(self, user_id: str, holder: str | None = None) -> Iterator[asyncio.Event | None]:
        """An event that is set whenever the user's document is written, while the block runs.

        ``None`` if no further request of this user or *holder* may wait; a holder of ``None`` has no share.
        """
        others = self._by_user.get(user_id, [])
        if len(others) >= self._most_of_user or not self._shares.take(1, holder):
            yield None
            return
        written = asyncio.Event()
        others.append(written)
        self._by_user[user_id] = others
        self._hurry()
        try:
            yield written
        finally:
            others.remove(written)
            if not others:
                del self._by_user[user_id]
            self._shares.give_back(1, holder)

    def wake(self, user_id: str) -> None:
        """Wake the requests that wait for the user, whose document was written."""
        for written in self._by_user.get(user_id, ()):
            written.set()
