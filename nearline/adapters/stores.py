"""Chooses the store that a URL names."""

from pathlib import Path
from urllib.parse import urlsplit

from nearline.errors import Misconfigured
from nearline.space import Space
from nearline.store import UserStore
from nearline.tls import Tls


def store_for(url: str, space: Space, *, ttl_ms: int, read_ms: int, writer: bool, tls: Tls | None = None) -> UserStore:
    """The store that *url* names, not yet open; *tls* holds certificates for couchbases:// beyond the system's.

    ``Misconfigured`` for an unknown scheme.
    """
    scheme = urlsplit(url).scheme
    if scheme == "lmdb":
        from nearline.adapters.lmdb import LmdbStore

        return LmdbStore(Path(urlsplit(url).path), space, ttl_ms=ttl_ms, writer=writer)
    if scheme in ("couchbase", "couchbases"):
        from nearline.adapters.couchbase import CouchbaseStore

        return CouchbaseStore(url, space, ttl_ms=ttl_ms, read_ms=read_ms, tls=tls)
    raise Misconfigured(f"the store must be couchbase://user:password@host/bucket or lmdb:///folder, came {url!r}")
