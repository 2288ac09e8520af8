"""The newest vectors of the most recently active users, to find users near a user or near an item.

Bounded: the *most* users whose documents changed last since this process started; the least recently active are evicted
first. The search is exact: 50,000 vectors of 64 dimensions take 1 ms and 13 MB, so no graph is needed.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from nearline.errors import BadInput, SpaceMismatch, Unavailable
from nearline.ids import SYNTHETIC_USERS
from nearline.item_vectors import Vector
from nearline.space import Space
from nearline.telemetry import counter, gauge, get_logger
from nearline.user_documents import UserDocument, decode_user_document
from services.retrieval.users.store_guard import GuardedStore

MOST = 50_000
_ROUND_S = 1.0  # between two rounds of reading: several changes of a user meanwhile cost one read
_ASKED_ROUND_S = 0.25  # the same after a request for users
_ASKED_S = 60.0  # how long after it
_ROUND = 500  # documents of one round, so 500/s or 2,000/s; if there are more, the newest are read first
_MOST_WAITING = 10_000
_AT_ONCE = 50
_SPARE = 16  # extra candidates, because some users may have been erased since

_USERS = gauge("active_users", "Users whose newest vector is in memory")
_SKIPPED = counter("active_users_skipped_total", "Changes of users' documents that were not read: too many came")

NearUsers = list[tuple[str, float, UserDocument]]  # the user, the inner product, the document as it is now


class ActiveUsers:
    """Users' vectors in the order in which they changed; for one thread.

    ``note`` queues a changed user; ``run`` reads the documents from *store*. ``nearest`` reads them again, so that its
    answers are never older than the store.
    """

    def __init__(self, store: GuardedStore, space: Space, *, most: int = MOST) -> None:
        self._store = store
        self._space = space
        self.most = most
        self._vectors: Vector = np.empty((most, space.dimension), np.float32)  # memory is allocated when written
        self._place_of: OrderedDict[str, int] = OrderedDict()  # least recently active first
        self._user_at: list[str] = []  # by place; "" for a free place
        self._free: list[int] = []
        self._changed: OrderedDict[str, None] = OrderedDict()  # changed longest ago first
        self._asked_at = -_ASKED_S

    def __len__(self) -> int:
        """How many users have a vector here."""
        return len(self._place_of)

    def note(self, user_id: str) -> None:
        """Queue the user, whose document changed; synthetic users are ignored."""
        if user_id.startswith(SYNTHETIC_USERS):
            return
        self._changed[user_id] = None
        self._changed.move_to_end(user_id)
        if len(self._changed) > _MOST_WAITING:
            self._changed.popitem(last=False)
            _SKIPPED.inc()

    async def run(self) -> None:
        """Read changed documents until cancelled; while the store is down they stay queued."""
        while True:
            await self.read()
            _USERS.set(len(self))
            is_asked = time.monotonic() - self._asked_at < _ASKED_S
            await asyncio.sleep(_ASKED_ROUND_S if is_asked else _ROUND_S)

    async def read(self) -> None:
        """Read one round of documents, the latest changes first."""
        user_ids = [self._changed.popitem()[0] for _ in range(min(_ROUND, len(self._changed)))]
        for start in range(0, len(user_ids), _AT_ONCE):
            part = user_ids[start : start + _AT_ONCE]
            try:
                raws = await self._store.get_many(part)
            except Unavailable:
                self._wait_again(user_ids[start:])
                return
            for user_id, raw in zip(reversed(part), reversed(raws), strict=True):
                self._take_in(user_id, self._decoded(user_id, raw))
            await asyncio.sleep(0)  # no answer waits for more than a part

    async def nearest(self, vector: Vector, k: int, but: str | None = None) -> NearUsers:
        """The *k* users nearest to *vector* except *but*, best first, with their current documents.

        ``Unavailable`` if the store is down: an erased user must not be in the result.
        """
        self._asked_at = time.monotonic()
        candidates = self._candidates(vector, k + _SPARE, but)
        found: NearUsers = []
        for user_id, document in zip(candidates, await self._documents(candidates), strict=True):
            self._take_in(user_id, document, is_news=False)
            if document is not None and document.vector is not None:
                found.append((user_id, float(document.vector @ vector), document))
        return sorted(found, key=lambda each: (-each[1], each[0]))[:k]

    def _candidates(self, vector: Vector, count: int, but: str | None) -> list[str]:
        scores = self._vectors[: len(self._user_at)] @ vector
        scores[self._free] = -np.inf
        if but is not None and but in self._place_of:
            scores[self._place_of[but]] = -np.inf
        if len(scores) > count:
            places = np.argpartition(scores, len(scores) - count)[len(scores) - count :]
        else:
            places = np.arange(len(scores))
        return [self._user_at[place] for place in places.tolist() if scores[place] > -np.inf]

    async def _documents(self, user_ids: Sequence[str]) -> list[UserDocument | None]:
        """One by one: each within the deadline of a request's own read."""
        raws = await asyncio.gather(*map(self._store.get, user_ids))
        return [self._decoded(user_id, raw) for user_id, raw in zip(user_ids, raws, strict=True)]

    def _decoded(self, user_id: str, raw: bytes | None) -> UserDocument | None:
        try:
            return None if raw is None else decode_user_document(raw, self._space)
        except (BadInput, SpaceMismatch) as error:
            get_logger().error("a user document was refused", user_id=user_id, reason=str(error))
            return None

    def _take_in(self, user_id: str, document: UserDocument | None, *, is_news: bool = True) -> None:
        if document is None or document.vector is None:
            self._drop(user_id)
        else:
            self._put(user_id, document.vector, is_news)

    def _put(self, user_id: str, vector: Vector, is_news: bool) -> None:
        place = self._place_of.get(user_id)
        if place is None:
            place = self._new_place()
            self._place_of[user_id], self._user_at[place] = place, user_id
        elif is_news:
            self._place_of.move_to_end(user_id)
        self._vectors[place] = vector

    def _new_place(self) -> int:
        if len(self._place_of) >= self.most:
            self._drop(next(iter(self._place_of)))
        if self._free:
            return self._free.pop()
        self._user_at.append("")
        return len(self._user_at) - 1

    def _drop(self, user_id: str) -> None:
        place = self._place_of.pop(user_id, None)
        if place is not None:
            self._user_at[place] = ""
            self._free.append(place)

    def _wait_again(self, user_ids: Iterable[str]) -> None:
        """Queue *user_ids*, which were not read, behind those that changed meanwhile."""
        for user_id in user_ids:
            if user_id not in self._changed:
                self._changed[user_id] = None
                self._changed.move_to_end(user_id, last=False)
