"""Reads a user's document for the routes that cannot answer without it."""

import time

from nearline.errors import BadInput, SpaceMismatch, Unavailable
from nearline.space import Space
from nearline.user_documents import UserDocument, decode_user_document
from services.retrieval.routes.refusals import not_known
from services.retrieval.users.store_guard import GuardedStore


async def document_of(user_id: str, store: GuardedStore, space: Space) -> UserDocument:
    """The user's document; a 404 for a user who is unknown or erased, ``Unavailable`` without the store."""
    raw = await store.get(user_id)
    document = None if raw is None else _decoded(user_id, raw, space)
    if document is None:
        raise not_known("user_id", user_id, "no event of this user has arrived, or the user was erased")
    return document


def _decoded(user_id: str, raw: bytes, space: Space) -> UserDocument | None:
    try:
        return decode_user_document(raw, space).at(int(time.time()))
    except (BadInput, SpaceMismatch) as error:
        raise Unavailable(f"the document of {user_id!r:.80} cannot be read ({error}) until it is rewritten") from None
