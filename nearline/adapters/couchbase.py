"""User documents in Couchbase, through its Python SDK (asyncio), as raw binary values with an expiry."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from acouchbase.cluster import Cluster
from couchbase.auth import CertificateAuthenticator, PasswordAuthenticator
from couchbase.exceptions import (
    AuthenticationException,
    BucketNotFoundException,
    CasMismatchException,
    CouchbaseException,
    DocumentExistsException,
    DocumentNotFoundException,
)
from couchbase.options import (
    ClusterOptions,
    ClusterTimeoutOptions,
    GetOptions,
    InsertOptions,
    RemoveOptions,
    ReplaceOptions,
)
from couchbase.transcoder import RawBinaryTranscoder

from nearline.errors import Misconfigured, Unavailable
from nearline.seen import may_replace_seen
from nearline.space import Space
from nearline.store import JUST_NOW, StoredUser, expiry_ms
from nearline.tls import Tls
from nearline.user_documents import knows_all_of

_ATTEMPTS = 5  # a write that loses a race reads and compares again; five losses in a row is another writer's loop
_CONNECT_S = 5.0
_PATIENCE = 1.5  # we stop waiting after this many deadlines; the SDK's own timeout comes first on an idle machine
_SEEN = "s:"
_RAW = RawBinaryTranscoder()
T = TypeVar("T")


def _login(user: str, password: str, tls: Tls) -> PasswordAuthenticator | CertificateAuthenticator:
    """Log in by password, or by our own certificate if there is one; the server's is checked against the same CA."""
    ca = str(tls.ca) if tls.ca else None
    if tls.certificate is None:
        return PasswordAuthenticator(user, password, cert_path=ca)
    return CertificateAuthenticator(str(tls.certificate), str(tls.key), ca)


class CouchbaseStore:
    """Documents of *space* in the bucket that *url* names: ``couchbase://user:password@host[:port]/bucket``.

    A read's deadline is *read_ms*, a write's ten times that. The SDK does not fail fast when a node is down: every
    call then takes its whole deadline, so callers on a request path put a breaker in front.
    """

    is_remote = True
    is_filled = True

    def __init__(self, url: str, space: Space, *, ttl_ms: int, read_ms: int, tls: Tls | None = None) -> None:
        parts = urlsplit(url)
        if tls is not None and parts.scheme != "couchbases":
            raise Misconfigured("certificates for Couchbase need TLS: its URL must be couchbases://…")
        bucket = parts.path.strip("/")
        if not (parts.hostname and parts.username and parts.password and bucket):
            raise Misconfigured("the store's URL must be couchbase://user:password@host/bucket; a part is missing")
        self._address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._login = _login(unquote(parts.username), unquote(parts.password), tls or Tls())
        self._bucket = bucket
        self._prefix = f"u:{space.number}:"
        self._ttl_ms = ttl_ms
        self._read_s = read_ms / 1000
        self._write_s = read_ms / 100
        self._cluster: Cluster | None = None
        self._calls: set[asyncio.Future[Any]] = set()

    async def fill_again(self) -> None:
        """Do nothing."""

    async def open(self) -> None:
        """Connect and open the bucket; ``Misconfigured`` for a wrong login or bucket, ``Unavailable`` otherwise."""
        if self._cluster is not None:
            return
        timeouts = ClusterTimeoutOptions(
            bootstrap_timeout=timedelta(seconds=_CONNECT_S), connect_timeout=timedelta(seconds=_CONNECT_S)
        )
        options = ClusterOptions(self._login, timeout_options=timeouts)
        try:
            cluster = await Cluster.connect(self._address, options)
            bucket = cluster.bucket(self._bucket)
            await bucket.on_connect()
        except (AuthenticationException, BucketNotFoundException) as error:
            raise Misconfigured(
                f"Couchbase at {self._address} refused bucket {self._bucket!r}: {error!r:.200}"
            ) from None
        except CouchbaseException as error:
            raise Unavailable(f"Couchbase at {self._address} does not answer: {_said(error)}") from None
        self._cluster, self._collection = cluster, bucket.default_collection()

    async def close(self) -> None:
        """Close the connections, and return when no call runs any more; safe to call twice."""
        if self._cluster is not None:
            cluster, self._cluster = self._cluster, None
            await cluster.close()
        if self._calls:
            await asyncio.wait(self._calls, timeout=self._write_s)

    async def get(self, user_id: str) -> bytes | None:
        """The user's document, or ``None``."""
        return (await self._read(self._key(user_id), self._read_s))[0]

    async def get_with_seen(self, user_id: str) -> StoredUser:
        """The user's document and seen items, read at the same time."""
        keys = self._key(user_id), _SEEN + user_id
        (document, _), (seen, _) = await asyncio.gather(*(self._read(key, self._read_s) for key in keys))
        return StoredUser(document, seen)

    async def get_many(self, user_ids: Sequence[str]) -> list[bytes | None]:
        """As ``get`` for each id, in order."""
        found = await asyncio.gather(*(self._read(self._key(user_id), self._write_s) for user_id in user_ids))
        return [value for value, _ in found]

    async def put_many_if_newer(self, documents: Mapping[str, bytes], since_ms: Mapping[str, int] = JUST_NOW) -> int:
        """Write each document that is at least as new as the stored one in every version, by compare-and-swap."""
        lasts = _lasting(documents, since_ms, self._ttl_ms)
        written = (self._put(self._key(user), raw, knows_all_of, lasts[user]) for user, raw in documents.items())
        return sum(await asyncio.gather(*written))

    async def put_seen_if_newer(self, snapshots: Mapping[str, bytes], since_ms: Mapping[str, int] = JUST_NOW) -> None:
        """Write each snapshot of seen items that is not older than the stored one, by compare-and-swap."""
        lasts = _lasting(snapshots, since_ms, self._ttl_ms * 5 // 4)
        written = (self._put(_SEEN + user, raw, may_replace_seen, lasts[user]) for user, raw in snapshots.items())
        await asyncio.gather(*written)

    async def delete(self, user_id: str) -> None:
        """Delete the user's document and seen items."""
        await self.delete_document(user_id)
        await self._remove(_SEEN + user_id)

    async def delete_document(self, user_id: str) -> None:
        """Delete the user's document; the seen items stay."""
        await self._remove(self._key(user_id))

    async def _remove(self, key: str) -> None:
        options = RemoveOptions(timeout=timedelta(seconds=self._write_s))
        with contextlib.suppress(DocumentNotFoundException):
            await self._answer(self._open_collection().remove(key, options), self._write_s)

    async def keep_house(self) -> None:
        """Do nothing: Couchbase expires and persists by itself."""

    async def _read(self, key: str, deadline_s: float) -> tuple[bytes | None, int]:
        options = GetOptions(transcoder=_RAW, timeout=timedelta(seconds=deadline_s))
        try:
            result = await self._answer(self._open_collection().get(key, options), deadline_s)
        except DocumentNotFoundException:
            return None, 0
        return bytes(result.value), int(result.cas)

    async def _put(self, key: str, raw: bytes, may_replace: Callable[[bytes, bytes], bool], lasts: timedelta) -> bool:
        for _ in range(_ATTEMPTS):
            stored, cas = await self._read(key, self._write_s)
            if stored is not None and not may_replace(raw, stored):
                return False
            try:
                await self._write(key, raw, cas, lasts)
            except (CasMismatchException, DocumentExistsException, DocumentNotFoundException):
                continue
            return True
        raise Unavailable(f"{_ATTEMPTS} writes of a user in a row lost a race; is another writer looping?")

    async def _write(self, key: str, raw: bytes, cas: int, lasts: timedelta) -> None:
        timeout = timedelta(seconds=self._write_s)
        collection = self._open_collection()
        if cas:
            replace = ReplaceOptions(cas=cas, expiry=lasts, transcoder=_RAW, timeout=timeout)
            await self._answer(collection.replace(key, raw, replace), self._write_s)
        else:
            insert = InsertOptions(expiry=lasts, transcoder=_RAW, timeout=timeout)
            await self._answer(collection.insert(key, raw, insert), self._write_s)

    async def _answer(self, asked: Coroutine[Any, Any, T], deadline_s: float) -> T:
        """The answer to *asked*, within our own deadline: the SDK's overshoots on a loaded machine.

        Who stops waiting does not cancel the call: the SDK's callback would raise. It ends by the SDK's own timeout.
        """
        call = asyncio.ensure_future(asked)
        self._calls.add(call)
        call.add_done_callback(self._ended)
        await asyncio.wait({call}, timeout=deadline_s * _PATIENCE)
        if not call.done():
            raise Unavailable(f"Couchbase at {self._address}: no answer within {deadline_s * _PATIENCE * 1000:.0f} ms")
        try:
            return call.result()
        except (DocumentNotFoundException, DocumentExistsException, CasMismatchException):
            raise
        except CouchbaseException as error:
            raise Unavailable(f"Couchbase at {self._address}: {_said(error)}") from None

    def _ended(self, call: asyncio.Future[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # asyncio logs the error of an abandoned call unless it is taken

    def _open_collection(self) -> Any:
        if self._cluster is None:
            raise Unavailable(f"not connected to Couchbase at {self._address}")
        return self._collection

    def _key(self, user_id: str) -> str:
        return self._prefix + user_id


def _said(error: Exception) -> str:
    """The error's type and message; the SDK's full text names the document, and so the user."""
    return f"{type(error).__name__} {getattr(error, 'message', '') or ''}".strip()[:200]


def _lasting(users: Iterable[str], since_ms: Mapping[str, int], ttl_ms: int) -> dict[str, timedelta]:
    """How long each user's value is kept from now on; at least a second, since 0 is for ever to Couchbase."""
    now_ms = time.time_ns() // 1_000_000
    ends_ms = {user: expiry_ms(user, since_ms, now_ms=now_ms, lasts_ms=ttl_ms) for user in users}
    return {user: timedelta(milliseconds=max(1_000, end_ms - now_ms)) for user, end_ms in ends_ms.items()}
