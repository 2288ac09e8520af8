"""Requests that wait until a user's document is written: they are woken and do not poll."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nearline.telemetry import gauge

MOST = 1_000

_WAITING = gauge("recommend_waiting_requests", "Requests that wait for an event to be used")


class Waiters:
    """The waiting requests by user, at most *most* at a time (``is_full``).

    *hurry* is called whenever a request begins to wait.
    """

    def __init__(self, most: int = MOST, *, hurry: Callable[[], None] = lambda: None) -> None:
        self._most = most
        self._hurry = hurry
        self._by_user: dict[str, list[asyncio.Event]] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many requests wait."""
        return self._count

    @property
    def is_full(self) -> bool:
        """Whether no further request may wait."""
        return self._count >= self._most

    @contextmanager
    def for_user(self, user_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the user's document is written, while the block runs."""
        written = asyncio.Event()
        self._by_user.setdefault(user_id, []).append(written)
        self._note(+1)
        self._hurry()
        try:
            yield written
        finally:
            others = self._by_user[user_id]
            others.remove(written)
            if not others:
                del self._by_user[user_id]
            self._note(-1)

    def wake(self, user_id: str) -> None:
        """Wake the requests that wait for the user, whose document was written."""
        for written in self._by_user.get(user_id, ()):
            written.set()

    def _note(self, more: int) -> None:
        self._count += more
        _WAITING.set(self._count)
