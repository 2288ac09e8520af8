"""The store of user documents: what every engine promises, whichever URL names it.

Engines are adapters (``nearline/adapters/memory.py``, ``lmdb.py``, ``couchbase.py``); all pass
``tests/contract/test_store.py``.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol


class UserStore(Protocol):
    """Keeps one value for each user of one space; an expired value is as if it had never been.

    Every method but ``close`` raises ``Unavailable`` when the engine does not answer within its deadline: an outage
    is never mistaken for "no such user".
    """

    is_remote: bool  # whether a call waits for another process

    async def open(self) -> None:
        """Connect; ``Unavailable`` if the engine is away (call again later), ``Misconfigured`` if it never can be."""

    async def close(self) -> None:
        """Let go of everything; safe to call twice."""

    async def get(self, user_id: str) -> bytes | None:
        """The user's stored bytes, or ``None`` if there are none."""

    async def get_many(self, user_ids: Sequence[str]) -> list[bytes | None]:
        """As ``get`` for each id, in order."""

    async def put_many_if_newer(self, documents: Mapping[str, bytes]) -> int:
        """Write each encoded user document that knows all of what is stored; return how many were written.

        ``knows_all_of`` (nearline/user_documents.py) compares three versions, so a write that was made from something
        older is refused even if it is newer in one of them. An equal rewrite is written, so that it heals.
        """

    async def delete(self, user_id: str) -> None:
        """Forget the user; unknown ones are forgotten already."""

    async def keep_house(self) -> None:
        """The writer's upkeep (expiry, flushing), called every few seconds; may do nothing."""
