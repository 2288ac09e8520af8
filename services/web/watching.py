"""Notifies open pages when their user's document is written, and lists the most recently active users."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from nearline.log import Record
from nearline.telemetry import gauge
from nearline.user_updates import decode_user_updates

MOST_RECENT = 50  # users on the operator's page

_WATCHING = gauge("web_watching_requests", "Open event streams, which send changes to pages")


class Watchers:
    """Wakes the event streams of a user when that user's document is written."""

    def __init__(self) -> None:
        self._by_user: dict[str, list[asyncio.Event]] = {}
        self._recent: dict[str, int] = {}

    def hear(self, record: Record) -> None:
        """Apply a record of ``user-updates.<space>``."""
        for user_id, update in decode_user_updates(record).items():
            self._hear(user_id, update.stored_ms)

    def _hear(self, user_id: str, stored_ms: int) -> None:
        self._recent.pop(user_id, None)
        self._recent[user_id] = stored_ms
        if len(self._recent) > MOST_RECENT:
            # By time and not by arrival: partitions that are read again come one after the other.
            del self._recent[min(self._recent, key=self._recent.__getitem__)]
        for changed in self._by_user.get(user_id, ()):
            changed.set()

    @property
    def recent(self) -> list[tuple[str, int]]:
        """Users whose documents were written last, newest first, and when that was (UTC ms)."""
        return sorted(reversed(self._recent.items()), key=lambda each: each[1], reverse=True)

    @contextmanager
    def on(self, user_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the user's document is written, while the block runs."""
        changed = asyncio.Event()
        self._by_user.setdefault(user_id, []).append(changed)
        _WATCHING.inc()
        try:
            yield changed
        finally:
            _WATCHING.dec()
            others = self._by_user[user_id]
            others.remove(changed)
            if not others:
                del self._by_user[user_id]
