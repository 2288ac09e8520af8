"""Reads a user's document for the routes that cannot answer without it."""

import time

from nearline.errors import BadInput, SpaceMismatch, Unavailable
from nearline.space import Space
from nearline.store import StoredUser
from nearline.user_documents import UserDocument, decode_stored_user
from services.retrieval.routes.refusals import not_known
from services.retrieval.users.store_guard import GuardedStore


async def document_of(user_id: str, store: GuardedStore, space: Space) -> UserDocument:
    """The user's document; a 404 for a user who is unknown or erased, ``Unavailable`` without the store."""
    document = _decoded(user_id, await store.get_with_seen(user_id), space)
    if document is None:
        raise not_known("user_id", user_id, "no event of this user has arrived, or the user was erased")
    return document


def _decoded(user_id: str, stored: StoredUser, space: Space) -> UserDocument | None:
    try:
        document = decode_stored_user(stored, space)
        return None if document is None else document.at(int(time.time()))
    except (BadInput, SpaceMismatch) as error:
        raise Unavailable(f"the document of {user_id!r:.80} cannot be read ({error}) until it is rewritten") from None
