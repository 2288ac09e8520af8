"""The hard exclusions: items that no answer may contain; every source and pin obeys them."""

import numpy as np

from nearline.user_documents import NO_HASHES, Hashes, UserDocument
from services.retrieval.request import ExcludeSeen, RequestContext


def excluded_hashes(context: RequestContext, blocked: Hashes = NO_HASHES) -> Hashes:
    """Sorted hashes, without duplicates, of items that are seen, excluded by the caller, served before or *blocked*."""
    request = context.request
    all_parts = (seen_hashes(context.document, request.exclude_seen), request.exclude, context.served, blocked)
    parts = [part for part in all_parts if len(part)]
    if len(parts) < 2:
        return parts[0] if parts else NO_HASHES
    return np.unique(np.concatenate(parts))


def seen_hashes(document: UserDocument | None, exclude: ExcludeSeen) -> Hashes:
    """Hashes of the user's seen items, or only of the purchased ones, as *exclude* says."""
    if document is None or exclude is ExcludeSeen.NONE:
        return NO_HASHES
    return document.purchased if exclude is ExcludeSeen.PURCHASE else document.seen
