"""The newest vectors of the users who were active last: who is like whom, and for whom an item is, in one pass.

A bound and not a store: the *most* users whose documents changed last, as far as this process has heard of them since
it started; those silent longest are forgotten first. All are looked at, exactly: 50,000 of 64 dimensions take 1 ms and
13 MB, so there is no graph to keep.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from nearline.errors import BadInput, SpaceMismatch, Unavailable
from nearline.ids import SYNTHETIC_USERS
from nearline.item_vectors import Vector
from nearline.log import Record
from nearline.space import Space
from nearline.telemetry import counter, gauge, get_logger
from nearline.user_documents import UserDocument, decode_user_document
from services.retrieval.users.store_guard import GuardedStore

MOST = 50_000
_ROUND_S = 1.0  # between two rounds of reading: what a user does meanwhile costs one read
_ASKED_ROUND_S = 0.25  # the same while somebody asks
_ASKED_S = 60.0  # how long a question counts as that
_ROUND = 500  # documents of one round, so 500/s or 2,000/s; of more, the newest are read and the others wait
_MOST_WAITING = 10_000
_AT_ONCE = 50
_SPARE = 16  # users that are found and may have gone since

_USERS = gauge("active_users", "Users whose newest vector this process knows")
_SKIPPED = counter("active_users_skipped_total", "Changes of users' documents that were not looked at: too many came")

NearUsers = list[tuple[str, float, UserDocument]]  # the user, the inner product, the document as it is now


class ActiveUsers:
    """Users' vectors by the order in which they changed; one thread uses it.

    ``note`` what changed; ``run`` reads it from *store*, which tells what is true and is asked again for each answer.
    """

    def __init__(self, store: GuardedStore, space: Space, *, most: int = MOST) -> None:
        self._store = store
        self._space = space
        self.most = most
        self._vectors: Vector = np.empty((most, space.dimension), np.float32)  # taken when written
        self._place_of: OrderedDict[str, int] = OrderedDict()  # silent longest first
        self._user_at: list[str] = []  # by place; "" for nobody
        self._free: list[int] = []
        self._changed: OrderedDict[str, None] = OrderedDict()  # changed longest ago first
        self._asked_at = -_ASKED_S

    def __len__(self) -> int:
        """How many users are known."""
        return len(self._place_of)

    def note(self, user_id: str) -> None:
        """The user's document changed; that of a synthetic one is nothing to anybody."""
        if user_id.startswith(SYNTHETIC_USERS):
            return
        self._changed[user_id] = None
        self._changed.move_to_end(user_id)
        if len(self._changed) > _MOST_WAITING:
            self._changed.popitem(last=False)
            _SKIPPED.inc()

    def follow(self, record: Record) -> None:
        """Take in a record of ``user-updates``."""
        self.note(record.id)

    async def run(self) -> None:
        """Read what changed until cancelled; what cannot be read while the store is away waits."""
        while True:
            await self.read()
            _USERS.set(len(self))
            is_asked = time.monotonic() - self._asked_at < _ASKED_S
            await asyncio.sleep(_ASKED_ROUND_S if is_asked else _ROUND_S)

    async def read(self) -> None:
        """One round: the documents that changed last."""
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
        """The *k* users nearest to *vector*, best first, as the store knows them now; never *but*.

        ``Unavailable`` if the store cannot say: who was forgotten must not be named.
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
        """Put back what was not read; what changed meanwhile is newer."""
        for user_id in user_ids:
            if user_id not in self._changed:
                self._changed[user_id] = None
                self._changed.move_to_end(user_id, last=False)
