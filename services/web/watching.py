"""Who looks at whose row: pages that are told when a user's document was written anew, and who clicked lately."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from nearline.log import Record
from nearline.telemetry import gauge
from nearline.user_updates import decode_user_update

MOST_RECENT = 50  # users active last, for the operator to look at

_WATCHING = gauge("web_watching_requests", "Pages that are told of changes by server-sent events")


class Watchers:
    """Wakes every page that shows a user when that user's document changed."""

    def __init__(self) -> None:
        self._by_user: dict[str, list[asyncio.Event]] = {}
        self._recent: OrderedDict[str, int] = OrderedDict()

    def hear(self, record: Record) -> None:
        """A record of ``user-updates.<space>``."""
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
        """Users whose documents were written last, newest first, and when that was (UTC ms)."""
        return list(reversed(self._recent.items()))

    @contextmanager
    def on(self, user_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the user's document was written; for as long as the block runs."""
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
