"""User documents in LMDB, the store for one machine: one process writes, any number read.

A value is its expiry (UTC ms, 8 bytes little-endian) and the document. Commits are not flushed to disk one by one,
which would cost several times the write (benchmarks/store_flushes.py). So a killed process loses nothing, but a system
that goes down (a power cut, a kernel's crash) can lose what was written since the last ``keep_house``, or corrupt the
file unless the file system keeps the order of writes. The file ``opened`` beside it says in which start of the system
the store was opened; a store that was open when the system went down is deleted at the next start, and filled again
from the log (``is_filled``).
"""

import struct
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import lmdb

from nearline.disk import flush, write_whole
from nearline.errors import Misconfigured, Unavailable
from nearline.seen import may_replace_seen
from nearline.space import Space
from nearline.store import JUST_NOW, StoredUser, expiry_ms
from nearline.telemetry import get_logger
from nearline.user_documents import knows_all_of

_EXPIRY = struct.Struct("<q")
_MAP_SIZE = 64 << 30  # address space, not disk: the file grows with its content
_SEEN = "s:"
_SWEEP = 2_000  # keys checked in one round of maintenance
_ASK_WRITER = "is user_tower running?"
_CLOSED = "closed"  # content of the file ``opened`` after an orderly end


class Flushes(TypedDict, total=False):
    """LMDB's flags of when a write reaches the disk; what is left out is LMDB's default, every commit."""

    sync: bool
    metasync: bool
    map_async: bool
    writemap: bool


FLUSHES: Flushes = {"sync": False}


def start_of_the_system() -> str:
    """The id that the kernel drew when it started: the same in every process and container until it goes down."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


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
        system: Callable[[], str] = start_of_the_system,
        flushes: Flushes = FLUSHES,
    ) -> None:
        self._folder = folder
        self._prefix = f"u:{space.number}:"
        self._ttl_ms = ttl_ms
        self._writer = writer
        self._now_ms = now_ms
        self._system = system
        self._flushes = flushes
        self._opened = folder / "opened"
        self._filled = folder / f"filled.{space.number}"
        self._env: lmdb.Environment | None = None
        self._swept_to = b""

    @property
    def is_filled(self) -> bool:
        """Whether the store has what the log had up to the committed offsets; not so if it is new or was deleted."""
        return self._filled.exists()

    async def open(self) -> None:
        """Open the environment; a reader raises ``Unavailable`` until the writer has created it.

        A writer deletes a store that cannot be trusted: it was open when the system went down, or is damaged.
        """
        if self._env is not None:
            return
        try:
            if self._writer:
                self._prepare()
            elif not self._is_trusted():
                raise Unavailable(f"the store in {self._folder} was open when the system went down: {_ASK_WRITER}")
            self._env = self._environment()
        except (lmdb.Error, OSError) as error:
            kind = Misconfigured if isinstance(error, PermissionError) else Unavailable
            raise kind(f"cannot open the LMDB store in {self._folder}: {error}; {_ASK_WRITER}") from None
        if self._writer:
            self._env.reader_check()

    async def close(self) -> None:
        """Flush and close; safe to call twice."""
        if self._env is not None:
            if self._writer:
                self._env.sync(True)
                write_whole(self._opened, _CLOSED)
            self._env.close()
            self._env = None

    async def fill_again(self) -> None:
        """Note that the log is read from its beginning from here on: the store will be filled."""
        write_whole(self._filled, "")

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

    async def put_many_if_newer(self, documents: Mapping[str, bytes], since_ms: Mapping[str, int] = JUST_NOW) -> int:
        """Write, in one transaction, each document that is at least as new as the stored one in every version."""
        written = 0
        now_ms = self._now_ms()
        try:
            with self._open_env().begin(write=True) as transaction:
                for user_id, document in documents.items():
                    key = self._key(user_id)
                    stored = self._live(transaction.get(key))
                    if stored is None or knows_all_of(document, stored):
                        expires_ms = expiry_ms(user_id, since_ms, now_ms=now_ms, lasts_ms=self._ttl_ms)
                        transaction.put(key, _EXPIRY.pack(expires_ms) + document)
                        written += 1
        except lmdb.Error as error:
            raise self._refused("a write", error) from None
        return written

    async def put_seen_if_newer(self, snapshots: Mapping[str, bytes], since_ms: Mapping[str, int] = JUST_NOW) -> None:
        """Write, in one transaction, each snapshot of seen items that is not older than the stored one."""
        now_ms = self._now_ms()
        try:
            with self._open_env().begin(write=True) as transaction:
                for user_id, snapshot in snapshots.items():
                    key = _seen_key(user_id)
                    stored = self._live(transaction.get(key))
                    if stored is None or may_replace_seen(snapshot, stored):
                        expires_ms = expiry_ms(user_id, since_ms, now_ms=now_ms, lasts_ms=self._ttl_ms * 5 // 4)
                        transaction.put(key, _EXPIRY.pack(expires_ms) + snapshot)
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

    def _prepare(self) -> None:
        """Make the folder if there is none, delete a store that cannot be trusted, and note that ours is open."""
        self._folder.mkdir(parents=True, exist_ok=True)
        data = self._folder / "data.mdb"
        if not data.exists() or not data.stat().st_size:
            self._delete()  # notes about data that is gone
        elif not self._is_trusted() or not self._is_readable():
            get_logger().warning("the store is deleted and filled again from the log", folder=str(self._folder))
            self._delete()
        elif not self._opened.exists():
            write_whole(self._filled, "")  # by a version that made no such files
        write_whole(self._opened, self._system())

    def _is_trusted(self) -> bool:
        """Whether all that was written is there; a store of a version that noted nothing is."""
        try:
            return self._opened.read_text() in (_CLOSED, self._system())
        except FileNotFoundError:
            return True

    def _is_readable(self) -> bool:
        try:
            self._environment().close()
        except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError):
            return False
        return True

    def _delete(self) -> None:
        """Delete the store of every space; last what says that it cannot be trusted."""
        for file in [*self._folder.glob("filled.*"), *self._folder.glob("*.mdb"), self._opened]:
            file.unlink(missing_ok=True)
        flush(self._folder)

    def _environment(self) -> lmdb.Environment:
        return lmdb.open(
            str(self._folder), map_size=_MAP_SIZE, max_readers=256, readonly=not self._writer, **self._flushes
        )

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
