"""The interface of the store of user documents.

Engines are adapters (``nearline/adapters/memory.py``, ``lmdb.py``, ``couchbase.py``); all pass
``tests/contract/test_store.py``.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol


class StoredUser(NamedTuple):
    """What is stored of one user: the document, and the snapshot of the seen items (nearline/seen.py)."""

    document: bytes | None
    seen: bytes | None


JUST_NOW: Mapping[str, int] = {}


def expiry_ms(user_id: str, since_ms: Mapping[str, int], *, now_ms: int, lasts_ms: int) -> int:
    """When the user's value expires (UTC ms)."""
    return min(since_ms.get(user_id, now_ms), now_ms) + lasts_ms


class UserStore(Protocol):
    """Stores a document per user of one space, and beside it the user's seen items, which all spaces share.

    So a click reads and writes only the document, which is small. An expired value is as if it had never existed.

    Every method but ``close`` raises ``Unavailable`` if the engine does not answer within its deadline: an outage is
    never mistaken for "no such user".
    """

    is_remote: bool  # whether calls wait for another process

    @property
    def is_filled(self) -> bool:
        """Whether it has what the log had up to the committed offsets; else read the log from its beginning."""

    async def fill_again(self) -> None:
        """Note that the log is read from its beginning from here on, so that the store will be filled."""

    async def open(self) -> None:
        """Connect; ``Unavailable`` if the engine is down (call again later), ``Misconfigured`` if no retry can help."""

    async def close(self) -> None:
        """Close all connections; safe to call twice."""

    async def get(self, user_id: str) -> bytes | None:
        """The user's document, or ``None`` if there is none."""

    async def get_with_seen(self, user_id: str) -> StoredUser:
        """The user's document and seen items."""

    async def get_many(self, user_ids: Sequence[str]) -> list[bytes | None]:
        """As ``get`` for each id, in order."""

    async def put_many_if_newer(self, documents: Mapping[str, bytes], since_ms: Mapping[str, int] = JUST_NOW) -> int:
        """Write each document that is at least as new as the stored one in every version; return how many were written.

        A document's time to live counts from its user's time in *since_ms* (UTC ms), for others from now; a time in
        the future is now. So a store that is filled again keeps no user longer than the one before.

        ``knows_all_of`` (nearline/user_documents.py) compares four versions, so a document that is older in one is
        refused even if it is newer in another. An equal document is written again, which repairs a damaged one.
        """

    async def put_seen_if_newer(self, snapshots: Mapping[str, bytes], since_ms: Mapping[str, int] = JUST_NOW) -> None:
        """Write each snapshot of seen items that is not older than the stored one.

        They are written rarely, at the latest after a quarter of the time to live, so they are kept so much longer.
        """

    async def delete(self, user_id: str) -> None:
        """Delete the user's document and seen items."""

    async def delete_document(self, user_id: str) -> None:
        """Delete the user's document; the seen items stay."""

    async def keep_house(self) -> None:
        """The writer's maintenance (expiry, flushing), called every few seconds; may do nothing."""
