"""Pagination: the next page continues the same list, even if the user clicked meanwhile or another replica answers.

The state of a list is in a signed token that the caller returns: the user's vector at the first page, and the hashes
of all items served so far. So the next page uses the same vector, no item is repeated, and events in between only
remove items. The server keeps no state.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nearline.erasure import PAGES_LIVE_MS
from nearline.errors import BadInput
from nearline.hashing import hash64, hash64_all
from nearline.space import Space
from nearline.user_documents import NO_HASHES, Hashes, UserDocument

FIRST = "first"
LIVES_S = PAGES_LIVE_MS // 1000
MOST_SERVED = 500  # items of all pages of a list: then a token has 5,600 characters; servers accept lines of 8,000
LONGEST_TOKEN = 16_000

_HEAD = struct.Struct("<BIQqqQHHB")  # layout, space, user, vector's version and time, a seen item, page, sizes
_LAYOUT = 1


class PageError(BadInput):
    """The page token is invalid; *is_gone* if it was valid once."""

    def __init__(self, problem: str, *, is_gone: bool) -> None:
        super().__init__("gone_page" if is_gone else "bad_page", problem, field="page")
        self.is_gone = is_gone


class TokenSigner(Protocol):
    """Signs tokens that callers return, and verifies them (nearline/adapters/signed_tokens.py)."""

    def sign(self, payload: bytes) -> str:
        """*payload* as a signed token that a URL may contain."""

    def open(self, token: str) -> bytes:
        """The payload of *token*; ``BadInput`` with the reason ``expired`` or ``forged``."""


@dataclass(frozen=True, slots=True)
class ListPage:
    """The state of a list: its vector and the clicks that the vector used, the items served, and the pages so far.

    *served* are sorted hashes. *seen* is the hash of one seen item of the user's document, 0 if there was none. The
    user was erased in between if a later document has an erasure of *vector_version* or later, or contains neither the
    newest event nor that item: a document that was made again after a loss of the store may know no erasure.
    """

    vector: NDArray[np.float32] | None = None
    vector_version: int = 0
    as_of_ms: int = 0
    newest_event_id: str = ""
    seen: int = 0
    served: Hashes = field(default_factory=lambda: NO_HASHES)
    number: int = 0

    def of(self, document: UserDocument | None) -> UserDocument | None:
        """*document* with the vector of this list; ``PageError`` if the user was erased since the first page."""
        if self.vector is None:
            return None if document is None else replace(document, vector=None)
        if document is None or not self._is_known_to(document):
            raise PageError(f"the user of this list was erased; {_START_AGAIN}", is_gone=True)
        return replace(
            document,
            vector=self.vector,
            vector_version=self.vector_version,
            as_of_ms=self.as_of_ms,
            newest_event_id=self.newest_event_id,
        )

    def begun(self, document: UserDocument | None) -> "ListPage":
        """The state of a list that begins with *document*, for its next pages."""
        if document is None:
            return self
        seen = int(document.seen[len(document.seen) // 2]) if len(document.seen) else 0
        return replace(
            self,
            vector=document.vector,
            vector_version=document.vector_version,
            as_of_ms=document.as_of_ms,
            newest_event_id=document.newest_event_id,
            seen=seen,
        )

    def _is_known_to(self, document: UserDocument) -> bool:
        if self.vector_version <= document.erased_version:
            return False
        newest = hash64(self.newest_event_id) if self.newest_event_id else 0
        witnesses = ((newest, document.events), (self.seen, document.seen))
        matches = [bool((known == np.uint64(witness)).any()) for witness, known in witnesses if witness]
        return any(matches) or not matches


_START_AGAIN = f"start again with page={FIRST}"


class PageTokens:
    """Writes and reads page tokens of *space*."""

    def __init__(self, seal: TokenSigner, space: Space) -> None:
        self._seal = seal
        self._space = space

    def space_of(self, token: str) -> int | None:
        """The number of the space in which the list of *token* began; ``None`` for the first page or a bad token."""
        try:
            return None if token == FIRST else int(_HEAD.unpack_from(self._seal.open(token))[1])
        except BadInput:
            return None

    def open(self, token: str, user_id: str) -> ListPage:
        """The page of *token*; ``PageError`` if it is forged, of another user, expired, or of another space."""
        if token == FIRST:
            return ListPage()
        try:
            raw = self._seal.open(token)
        except BadInput as error:
            raise PageError(f"not a page: {error}; {_START_AGAIN}", is_gone=error.reason == "expired") from None
        layout, space, user, version, as_of_ms, seen, number, dimension, size = _HEAD.unpack_from(raw)
        if layout != _LAYOUT or space != self._space.number:
            raise PageError(f"the page is of space {space}, which is no longer served; {_START_AGAIN}", is_gone=True)
        if user != hash64(user_id):
            raise PageError("the page is of another user's list", is_gone=False)
        newest_end = _HEAD.size + size
        end = newest_end + 2 * dimension
        vector = np.frombuffer(raw, "<f2", dimension, newest_end).astype(np.float32) if dimension else None
        newest = raw[_HEAD.size : newest_end].decode()
        return ListPage(vector, version, as_of_ms, newest, seen, np.frombuffer(raw[end:], "<u8"), number)

    def next(self, page: ListPage, user_id: str, served: Iterable[str]) -> str | None:
        """The token of the page after *page*, which served *served*; ``None`` if the list ends here."""
        hashes = np.union1d(page.served, hash64_all(list(served)))
        if len(hashes) == len(page.served) or len(hashes) >= MOST_SERVED:
            return None
        vector = b"" if page.vector is None else page.vector.astype("<f2").tobytes()
        newest = page.newest_event_id.encode()
        about = (page.vector_version, page.as_of_ms, page.seen, page.number + 1, len(vector) // 2, len(newest))
        head = _HEAD.pack(_LAYOUT, self._space.number, hash64(user_id), *about)
        return self._seal.sign(head + newest + vector + hashes.tobytes())
