"""The hard drops: what may not come into an answer, whatever else is wanted; every source and every pin obeys them."""

import numpy as np

from nearline.user_documents import NO_HASHES, Hashes, UserDocument
from services.retrieval.asked import ExcludeSeen
from services.retrieval.work import Work


def dropped(work: Work) -> Hashes:
    """Hashes of what was seen, excluded by the caller, served before or blocked by name: sorted, each once."""
    blocked = NO_HASHES if work.ruling is None else work.ruling.blocked
    all_parts = (seen(work.document, work.asked.exclude_seen), work.asked.exclude, work.served, blocked)
    parts = [part for part in all_parts if len(part)]
    if len(parts) < 2:
        return parts[0] if parts else NO_HASHES
    return np.unique(np.concatenate(parts))


def seen(document: UserDocument | None, exclude: ExcludeSeen) -> Hashes:
    """Of what the user has seen, the part that *exclude* names."""
    if document is None or exclude is ExcludeSeen.NONE:
        return NO_HASHES
    return document.purchased if exclude is ExcludeSeen.PURCHASE else document.seen
