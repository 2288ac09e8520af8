"""Notifies open pages when their user's document is written, and lists the most recently active users."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from nearline.log import Record
from nearline.telemetry import gauge
from nearline.user_updates import decode_user_update

MOST_RECENT = 50  # users on the operator's page

_WATCHING = gauge("web_watching_requests", "Open event streams, which send changes to pages")


class Watchers:
    """Wakes the event streams of a user when that user's document is written."""

    def __init__(self) -> None:
        self._by_user: dict[str, list[asyncio.Event]] = {}
        self._recent: OrderedDict[str, int] = OrderedDict()

    def hear(self, record: Record) -> None:
        """Apply a record of ``user-updates.<space>``."""
        user_id = (record.key or b"").decode()
        stored_ms = decode_user_update(record.value).stored_ms
        self._recent[user_id] = stored_ms
        self._recent.move_to_end(user_id)
        while len(self._recent) > MOST_RECENT:
            self._recent.popitem(last=False)
        for changed in self._by_user.get(user_id, ()):
            changed.set()

    @property
    def recent(self) -> list[tuple[str, int]]:
        """The users whose documents were written last, newest first, each with the time (UTC ms)."""
        return list(reversed(self._recent.items()))

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
