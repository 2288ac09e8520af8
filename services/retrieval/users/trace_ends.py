"""Ends the trace of a click with the first answer of this process that used it."""

import time
from collections import OrderedDict

import numpy as np

from nearline.hashing import hash64
from nearline.tracing import Spans, is_traced, note
from nearline.user_documents import UserDocument
from nearline.user_updates import UserUpdate

_MOST = 1_000  # users whose next answer ends a trace; beyond that the oldest are dropped


class TracedClicks:
    """Traced clicks that no answer has used yet, by user."""

    def __init__(self, spans: Spans, *, most: int = _MOST) -> None:
        self._spans = spans
        self._most = most
        self._waiting: OrderedDict[str, UserUpdate] = OrderedDict()

    def __len__(self) -> int:
        """How many users have such a click."""
        return len(self._waiting)

    def heard(self, user_id: str, update: UserUpdate) -> None:
        """Remember the click of *update* if it is traced; the user's document was written."""
        if is_traced(update.traceparent):
            self._waiting[user_id] = update
            self._waiting.move_to_end(user_id)
            if len(self._waiting) > self._most:
                self._waiting.popitem(last=False)

    def answered(self, user_id: str, document: UserDocument | None, took_ns: int, request_id: str) -> None:
        """End the trace of the user's click if the answer, made from *document* in *took_ns*, used it."""
        update = self._waiting.get(user_id)
        if update is None or document is None or document.vector_version < update.vector_version:
            return
        del self._waiting[user_id]
        if (document.events == np.uint64(hash64(update.event_id))).any():
            now_ns = time.time_ns()
            about = {"event_id": update.event_id, "request_id": request_id}
            note(self._spans, "answer", now_ns - took_ns, now_ns, update.traceparent, **about)
