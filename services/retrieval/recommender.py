"""From a user's id to the bytes of an answer: read the document, choose, and print where everything came from."""

import time
from collections.abc import Callable
from dataclasses import replace

import orjson

from nearline.errors import BadInput, SpaceMismatch, Unavailable
from nearline.space import Space
from nearline.telemetry import counter, get_logger, seconds
from nearline.user_documents import UserDocument, decode_user_document
from services.retrieval.answer import ExcludeSeen, Group, Reason, Source, choose
from services.retrieval.filters import Filter
from services.retrieval.item_index import ItemIndex
from services.retrieval.store_guard import GuardedStore

_TOOK = seconds("recommend_seconds", "From the request to the answer's bytes")
_ANSWERS = counter("recommend_answers_total", "Answers by why they were not wholly personal", "reason")
_COUNTED = {reason: _ANSWERS.labels(reason.value) for reason in Reason}
_PERSONAL = _ANSWERS.labels("none")
_ITEM_ENDS = {source: b',"source":' + orjson.dumps(source) + b"}" for source in Source}


class Recommender:
    """Answers requests; what it reads of the catalogue never changes within an answer."""

    def __init__(
        self,
        items: ItemIndex,
        store: GuardedStore,
        space: Space,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._items = items
        self._store = store
        self._space = space
        self._now_ms = now_ms

    async def answer(self, user_id: str, k: int, exclude: ExcludeSeen, wanted: Filter | None, request_id: str) -> bytes:
        """The answer as JSON: at most *k* items that pass *wanted*; *reason* says why some are not personal.

        There is one whatever is down; ``FilterError`` if *wanted* names what no item on show has.
        """
        started = time.perf_counter_ns()
        if wanted is not None:
            self._items.check(wanted)
        document, reason = await self._document(user_id)
        try:
            groups = await choose(self._items, document, k, exclude, wanted)
        except Unavailable:
            assert document is not None  # only a search with a vector asks an engine that may be away
            reason, document = Reason.INDEX_UNAVAILABLE, replace(document, vector=None)
            groups = await choose(self._items, document, k, exclude, wanted)
        if reason is None:
            reason = _shortfall(document, groups, k)
        body = self._render(user_id, document, groups, reason, request_id, started)
        _TOOK.observe((time.perf_counter_ns() - started) / 1e9)
        (_PERSONAL if reason is None else _COUNTED[reason]).inc()
        return body

    async def _document(self, user_id: str) -> tuple[UserDocument | None, Reason | None]:
        try:
            raw = await self._store.get(user_id)
            document = None if raw is None else decode_user_document(raw, self._space).at(self._now_ms() // 1000)
        except Unavailable:
            return None, Reason.STORE_UNAVAILABLE
        except (BadInput, SpaceMismatch) as error:
            get_logger().error("a user document was refused", user_id=user_id, reason=str(error))
            return None, Reason.BAD_DOCUMENT
        return document, None

    def _render(
        self,
        user_id: str,
        document: UserDocument | None,
        groups: list[Group],
        reason: Reason | None,
        request_id: str,
        started_ns: int,
    ) -> bytes:
        about = orjson.dumps(
            {
                "user_id": user_id,
                "space": self._space.number,
                **_provenance(document, self._now_ms()),
                "degraded": reason is not None and reason.is_degraded,
                "reason": reason,
                "took_ms": round((time.perf_counter_ns() - started_ns) / 1e6, 3),
                "request_id": request_id,
            }
        )
        return about[:-1] + b',"items":[' + b",".join([_render_items(group) for group in groups]) + b"]}"


def _render_items(group: Group) -> bytes:
    """The group's items as JSON, joined by commas; two pieces an item, for this is a tenth of an answer's time."""
    end = _ITEM_ENDS[group.source]
    scores = orjson.dumps(group.items.scores, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    pieces = [b""] * (2 * len(group.items))
    pieces[::2] = group.items.printed
    pieces[1::2] = scores.replace(b",", end + b"\n").split(b"\n")
    return b"".join(pieces)[1:] + end


def _provenance(document: UserDocument | None, now_ms: int) -> dict[str, object]:
    """Which clicks the answer used; all ``None`` for a user whom the store does not know."""
    if document is None:
        return dict.fromkeys(("vector_version", "history_version", "newest_event_id", "as_of_ms", "age_ms"))
    has_vector = document.vector is not None
    return {
        "vector_version": document.vector_version if has_vector else None,
        "history_version": document.vector_version if has_vector else document.history_version,
        "newest_event_id": document.newest_event_id,
        "as_of_ms": document.as_of_ms,
        "age_ms": now_ms - document.as_of_ms,
    }


def _shortfall(document: UserDocument | None, groups: list[Group], k: int) -> Reason | None:
    """Why an answer from a healthy store is not wholly personal."""
    if document is None:
        return Reason.UNKNOWN_USER
    if document.vector is None:
        return Reason.NO_VECTOR
    personal = bool(groups) and len(groups[0].items) == k
    return None if personal else Reason.TOO_FEW_CANDIDATES
