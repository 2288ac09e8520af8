"""Builds and runs the parts behind the read routes."""

import asyncio
from collections.abc import Callable, Coroutine

from nearline.log import Record
from nearline.settings import Settings
from nearline.space import Space
from nearline.user_updates import UserUpdate, decode_user_updates
from services.retrieval.items.interface import ItemIndex
from services.retrieval.items.text_index import TextIndex
from services.retrieval.recommender import Recommender
from services.retrieval.routes.reads import Reads
from services.retrieval.sessions import Sessions
from services.retrieval.users.active_users import ActiveUsers
from services.retrieval.users.session_vectors import KnownItems, SessionEncoder, SessionVectors
from services.retrieval.users.store_guard import GuardedStore

HearUpdate = Callable[[str, UserUpdate], None]


class ReadParts:
    """The parts behind the read routes; *known* and *texts* are ``None`` if items are in an engine."""

    def __init__(
        self,
        settings: Settings,
        space: Space,
        items: ItemIndex,
        store: GuardedStore,
        recommender: Recommender,
        *,
        known: KnownItems | None,
        texts: TextIndex | None,
    ) -> None:
        self._texts = texts
        self._vectors = None if known is None else SessionVectors(_towers(settings, space), known)
        self._users = ActiveUsers(store, space, most=settings.active_users) if settings.active_users else None
        sessions = None if self._vectors is None else Sessions(recommender, self._vectors, settings.seen_policy)
        self.reads = Reads(space, items, store, sessions, texts, self._users, known)

    async def run(self) -> None:
        """Run the parts until cancelled; if Triton or the store is down, other answers continue."""
        async with asyncio.TaskGroup() as tasks:
            for part in self._running():
                tasks.create_task(part)

    def _running(self) -> list[Coroutine[None, None, None]]:
        running = []
        if self._vectors is not None:
            running.append(self._vectors.watch())
        if self._texts is not None:
            running.append(self._texts.run())
        if self._users is not None:
            running.append(self._users.run())
        return running

    def hearing(self, others: HearUpdate) -> Callable[[Record], None]:
        """A handler for records of ``user-updates``: it notes the active users and calls *others* for each update."""
        users = self._users

        def hear(record: Record) -> None:
            for user_id, update in decode_user_updates(record).items():
                if users is not None:
                    users.note(user_id)
                others(user_id, update)

        return hear


def _towers(settings: Settings, space: Space) -> SessionEncoder:
    """The user tower; not called if items are in an engine, which therefore needs no Triton client."""
    from nearline.adapters.triton import TritonTowers

    return TritonTowers(
        settings.triton,
        space,
        kept=settings.history_length,
        timeout_ms=settings.session_timeout_ms,
        tls=settings.triton_security,
    )
