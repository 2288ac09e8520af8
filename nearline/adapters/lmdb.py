"""User documents in LMDB, the store for one machine: one process writes, any number read.

A value is its expiry (UTC ms, 8 bytes little-endian) and the document. Commits are not fsynced one by one: a killed
process loses nothing, a power cut at most the writes since the last ``keep_house`` (and the job can be replayed).
"""

import struct
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import lmdb

from nearline.errors import Misconfigured, Unavailable
from nearline.seen import may_replace_seen
from nearline.space import Space
from nearline.store import StoredUser
from nearline.user_documents import knows_all_of

_EXPIRY = struct.Struct("<q")
_MAP_SIZE = 64 << 30  # address space, not disk: the file grows with its content
_SEEN = "s:"
_SWEEP = 2_000  # keys checked in one round of maintenance


class LmdbStore:
    """Documents of *space* in *folder*; a *writer* creates the folder, a reader gets ``Unavailable`` until then.

    LMDB forbids opening one folder twice in a process, and a handle across ``fork``: open it in the process, and
    in the event loop, that uses it.
    """

    is_remote = False

    def __init__(
        self,
        folder: Path,
        space: Space,
        *,
        ttl_ms: int,
        writer: bool,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._folder = folder
        self._prefix = f"u:{space.number}:"
        self._ttl_ms = ttl_ms
        self._writer = writer
        self._now_ms = now_ms
        self._env: lmdb.Environment | None = None
        self._swept_to = b""

    async def open(self) -> None:
        """Open the environment; a reader raises ``Unavailable`` until the writer has created it."""
        if self._env is not None:
            return
        try:
            if self._writer:
                self._folder.mkdir(parents=True, exist_ok=True)
            self._env = lmdb.open(
                str(self._folder), map_size=_MAP_SIZE, max_readers=256, sync=False, readonly=not self._writer
            )
        except (lmdb.Error, OSError) as error:
            kind = Misconfigured if isinstance(error, PermissionError) else Unavailable
            raise kind(f"cannot open the LMDB store in {self._folder}: {error}; is user_tower running?") from None
        if self._writer:
            self._env.reader_check()

    async def close(self) -> None:
        """Flush and close; safe to call twice."""
        if self._env is not None:
            if self._writer:
                self._env.sync(True)
            self._env.close()
            self._env = None

    async def get(self, user_id: str) -> bytes | None:
        """The user's document, or ``None``."""
        try:
            with self._open_env().begin() as transaction:
                return self._live(transaction.get(self._key(user_id)))
        except lmdb.Error as error:
            raise self._refused("a read", error) from None

    async def get_with_seen(self, user_id: str) -> StoredUser:
        """The user's document and seen items, from one snapshot."""
        try:
            with self._open_env().begin() as transaction:
                keys = self._key(user_id), _seen_key(user_id)
                return StoredUser(*(self._live(transaction.get(key)) for key in keys))
        except lmdb.Error as error:
            raise self._refused("a read", error) from None

    async def get_many(self, user_ids: Sequence[str]) -> list[bytes | None]:
        """As ``get`` for each id, in order and from one snapshot."""
        try:
            with self._open_env().begin() as transaction:
                return [self._live(transaction.get(self._key(user_id))) for user_id in user_ids]
        except lmdb.Error as error:
            raise self._refused("a read", error) from None

    async def put_many_if_newer(self, documents: Mapping[str, bytes]) -> int:
        """Write, in one transaction, each document that is at least as new as the stored one in every version."""
        written = 0
        expiry = _EXPIRY.pack(self._now_ms() + self._ttl_ms)
        try:
            with self._open_env().begin(write=True) as transaction:
                for user_id, document in documents.items():
                    key = self._key(user_id)
                    stored = self._live(transaction.get(key))
                    if stored is None or knows_all_of(document, stored):
                        transaction.put(key, expiry + document)
                        written += 1
        except lmdb.Error as error:
            raise self._refused("a write", error) from None
        return written

    async def put_seen_if_newer(self, snapshots: Mapping[str, bytes]) -> None:
        """Write, in one transaction, each snapshot of seen items that is not older than the stored one."""
        # They are written rarely, at the latest after a quarter of the time to live, so they are kept so much longer.
        expiry = _EXPIRY.pack(self._now_ms() + self._ttl_ms * 5 // 4)
        try:
            with self._open_env().begin(write=True) as transaction:
                for user_id, snapshot in snapshots.items():
                    key = _seen_key(user_id)
                    stored = self._live(transaction.get(key))
                    if stored is None or may_replace_seen(snapshot, stored):
                        transaction.put(key, expiry + snapshot)
        except lmdb.Error as error:
            raise self._refused("a write", error) from None

    async def delete(self, user_id: str) -> None:
        """Delete the user's document and seen items."""
        with self._open_env().begin(write=True) as transaction:
            transaction.delete(self._key(user_id))
            transaction.delete(_seen_key(user_id))

    async def delete_document(self, user_id: str) -> None:
        """Delete the user's document; the seen items stay."""
        with self._open_env().begin(write=True) as transaction:
            transaction.delete(self._key(user_id))

    async def keep_house(self) -> None:
        """Free the slots of dead readers, flush to disk, and delete the next few expired documents."""
        env = self._open_env()
        env.reader_check()
        self._sweep(env)
        env.sync(True)

    def _sweep(self, env: lmdb.Environment) -> None:
        now = self._now_ms()
        with env.begin(write=True) as transaction:
            cursor = transaction.cursor()
            more = cursor.set_range(self._swept_to) if self._swept_to else cursor.first()
            for _ in range(_SWEEP):
                if not more:
                    break
                expired = _EXPIRY.unpack_from(cursor.value())[0] <= now
                if expired:
                    cursor.delete()  # moves to the next key; after the last one the key is empty
                    more = bool(cursor.key())
                else:
                    more = cursor.next()
            self._swept_to = bytes(cursor.key()) if more else b""

    def _open_env(self) -> lmdb.Environment:
        if self._env is None:
            raise Unavailable(f"the LMDB store in {self._folder} is not open")
        return self._env

    def _refused(self, what: str, error: lmdb.Error) -> Unavailable:
        return Unavailable(f"LMDB in {self._folder} refused {what}: {error}")

    def _key(self, user_id: str) -> bytes:
        return (self._prefix + user_id).encode()

    def _live(self, value: bytes | None) -> bytes | None:
        if value is None or _EXPIRY.unpack_from(value)[0] <= self._now_ms():
            return None
        return value[_EXPIRY.size :]


def _seen_key(user_id: str) -> bytes:
    return (_SEEN + user_id).encode()
