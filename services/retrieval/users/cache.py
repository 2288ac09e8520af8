"""A cache of decoded users, each valid only for the exact bytes that it was decoded from: document and seen items.

Every answer reads the user's bytes from the store, so no answer is older than the store; the cache only saves decoding.
While the store is down, the cached document is used, unless ``user-updates`` announced a newer one: that could be an
erasure.
"""

from collections import OrderedDict
from dataclasses import dataclass

from nearline.space import Space
from nearline.store import StoredUser
from nearline.telemetry import counter, gauge
from nearline.user_documents import DocumentVersions, UserDocument, decode_stored_user

_MOST_BYTES = 64 * 1024 * 1024
_ENTRY_BYTES = 1_000  # of an entry in addition to the stored bytes
_MOST_HEARD = 20_000  # users whose newest version is remembered, for reads that are under way when an update arrives

_HITS = counter("user_cache_hits_total", "Reads whose document was in the cache, unchanged")
_MISSES = counter("user_cache_misses_total", "Reads whose document had to be decoded")
_USERS = gauge("user_cache_users", "Users whose decoded document is cached")


@dataclass(frozen=True, slots=True)
class _KeptDocument:
    stored: StoredUser
    document: UserDocument


class UserCache:
    """Decoded documents of *space*, bounded by bytes; the least recently used are evicted first."""

    def __init__(self, space: Space, *, most_bytes: int = _MOST_BYTES) -> None:
        self._space = space
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, _KeptDocument] = OrderedDict()
        self._bytes = 0
        self._newest: OrderedDict[str, DocumentVersions] = (
            OrderedDict()
        )  # the newest versions that were announced or read

    def __len__(self) -> int:
        """How many documents are cached."""
        return len(self._kept)

    def decoded(self, user_id: str, stored: StoredUser) -> UserDocument | None:
        """The document in *stored*, which the store holds now; decoded only if the cached bytes differ."""
        kept = self._kept.get(user_id)
        if kept is not None and kept.stored == stored:
            self._kept.move_to_end(user_id)
            _HITS.inc()
            return kept.document
        _MISSES.inc()
        document = decode_stored_user(stored, self._space)
        if document is None:
            self.forget(user_id)
        elif self._learn(user_id, document.order) and not document.seen_beside:
            self.forget(user_id)
            self._keep(user_id, _KeptDocument(stored, document))
        return document

    def remembered(self, user_id: str) -> UserDocument | None:
        """The document at the last read; ``None`` if it is not cached or a newer one was written since."""
        kept = self._kept.get(user_id)
        return None if kept is None else kept.document

    def forget(self, user_id: str) -> None:
        """Drop the user's cached document."""
        kept = self._kept.pop(user_id, None)
        if kept is not None:
            self._bytes -= _size(kept)

    def heard(self, user_id: str, order: DocumentVersions) -> None:
        """Drop the cached document if it is older than *order*, which the store now holds."""
        self._learn(user_id, order)
        kept = self._kept.get(user_id)
        if kept is not None and _is_behind(kept.document.order, order):
            self.forget(user_id)

    def _learn(self, user_id: str, order: DocumentVersions) -> bool:
        """Note that a document of *order* exists; return whether no newer one is known.

        Of two concurrent reads the older may finish last: it must not replace the newer in the cache.
        """
        known = self._newest.pop(user_id, order)
        is_newest = not _is_behind(order, known)
        self._newest[user_id] = order if is_newest else known
        if len(self._newest) > _MOST_HEARD:
            self._newest.popitem(last=False)
        return is_newest

    def _keep(self, user_id: str, kept: _KeptDocument) -> None:
        self._kept[user_id] = kept
        self._bytes += _size(kept)
        while self._bytes > self._most_bytes and len(self._kept) > 1:
            self.forget(next(iter(self._kept)))
        _USERS.set(len(self._kept))


def _is_behind(order: DocumentVersions, heard: DocumentVersions) -> bool:
    return any(own < other for own, other in zip(order, heard, strict=True))


def _size(kept: _KeptDocument) -> int:
    return sum(len(raw or b"") for raw in kept.stored) + _ENTRY_BYTES
