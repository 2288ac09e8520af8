"""The users' documents of the system under test, read from its store."""

import asyncio
from types import TracebackType
from typing import Self

from nearline.adapters.stores import store_for
from nearline.errors import Unavailable
from nearline.settings import Settings
from nearline.user_documents import UserDocument, decode_stored_user

_READ_MS = 1_000  # long: nothing is timed here


class Documents:
    """A reader of the store; used by one thread, closed by ``with``."""

    def __init__(self, settings: Settings) -> None:
        self._space = settings.embedding_space
        self._store = store_for(
            settings.store_url,
            self._space,
            ttl_ms=settings.history_ttl_ms,
            read_ms=_READ_MS,
            writer=False,
            tls=settings.store_security,
        )

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        self._runner.run(self._store.open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._store.close())
        self._runner.close()

    def of(self, user_id: str) -> UserDocument:
        """The user's current document; ``Unavailable`` without one."""
        document = decode_stored_user(self._runner.run(self._store.get_with_seen(user_id)), self._space)
        if document is None:
            raise Unavailable(f"{user_id} has no document")
        return document
