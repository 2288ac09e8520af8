"""Anonymous sessions: the events come with the request and are not stored."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nearline.errors import BadAnswer, BadInput, Overloaded, Unavailable
from nearline.events import Event, EventType, event_of
from nearline.hashing import hash64_all
from nearline.seen import SeenPolicy, parse_seen_policy
from nearline.sequences import UserSequence
from nearline.signals import Context, kept_context
from nearline.telemetry import get_logger
from nearline.user_documents import UserDocument
from services.retrieval.recommender import Recommender
from services.retrieval.request import RecommendRequest
from services.retrieval.result import Degradation, Reason
from services.retrieval.users.reader import UserState
from services.retrieval.users.session_vectors import SessionVectors

MAX_EVENTS = 50
_ANONYMOUS = "anonymous"  # the user id with which a session's events are validated


def session_of(events: Sequence[Mapping[str, Any]], context: Mapping[str, Any], *, now_ms: int) -> UserSequence:
    """The sequence of *events*, given in any order; *context* is the request's context.

    Events are validated as in ``POST /events``, except that they must not have a ``user_id`` and need no ``v`` or
    ``event_id``: nothing is stored, so nothing can be stored twice. Events of a clock that is ahead keep their order
    and are from *now_ms*. ``BadInput`` names the field.
    """
    valid = (_validated(nth, event) for nth, event in enumerate(events))
    by_id = {event.event_id: event for event in sorted(valid, key=_order)}
    ordered = sorted(by_id.values(), key=_order)
    times_ms = [min(event.time_ms, now_ms) for event in ordered]
    contexts: list[Context | None] = [kept_context(event.context) for event in ordered]
    current = kept_context(context) or {}
    if current and contexts:
        contexts[-1] = {**(contexts[-1] or {}), **current}
    return UserSequence(
        user_id=_ANONYMOUS,
        version=times_ms[-1] if times_ms else now_ms,
        items=[event.item_id for event in ordered],
        times_ms=times_ms,
        types=[event.type for event in ordered],
        values=[event.value for event in ordered],
        event_ids=[event.event_id for event in ordered],
        contexts=contexts if any(contexts) else [],
        profile={} if contexts else current,
        profile_ms=0 if contexts else now_ms,
    )


def _order(event: Event) -> tuple[int, str]:
    return event.time_ms, event.event_id


def _validated(nth: int, event: Mapping[str, Any]) -> Event:
    where = f"events.{nth}"
    if "user_id" in event:
        problem = "a session's events have no user_id; GET /recommend/{user_id} answers for a known user"
        raise BadInput("unknown_field", problem, field=f"{where}.user_id")
    try:
        return event_of({"v": 1, "event_id": f"#{nth:03}", **event, "user_id": _ANONYMOUS})
    except BadInput as error:
        field = f"{where}.{error.field}" if error.field else where
        raise BadInput(error.reason, str(error), field=field) from None


class Sessions:
    """Answers sessions with *recommender*; *policy* decides which events make an item count as seen."""

    def __init__(
        self,
        recommender: Recommender,
        vectors: SessionVectors,
        policy: SeenPolicy | None = None,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._recommender = recommender
        self.vectors = vectors
        self._policy = policy or parse_seen_policy("")
        self.now_ms = now_ms

    async def answer(self, session: UserSequence, request: RecommendRequest, request_id: str) -> bytes:
        """The answer as JSON, like a user's; popular items, with the reason, if the tower cannot encode the session."""

        async def read() -> UserState:
            document, reason = await self.document(session)
            return UserState(
                document, reason=reason, degradation=None if reason is None else Degradation.TOWER_UNAVAILABLE
            )

        return await self._recommender.answer("", request, request_id, read=read)

    async def document(self, session: UserSequence) -> tuple[UserDocument, Reason | None]:
        """The session's user document, and the reason if the tower failed to make its vector."""
        document = document_of(session, self._policy, now_s=self.now_ms() // 1000)
        try:
            return replace(document, vector=await self.vectors.vector(session)), None
        except BadAnswer as error:
            get_logger().error("the user tower gave an invalid answer for a session", reason=str(error))
        except (Unavailable, Overloaded):
            pass  # the breaker has logged it
        return document, Reason.TOWER_UNAVAILABLE


def document_of(session: UserSequence, policy: SeenPolicy, *, now_s: int) -> UserDocument:
    """The user document of the session at *now_s*, without a vector; its versions are times of events."""
    seen, bought = set(), set()
    for item_id, kind, time_ms in zip(session.items, session.types, session.times_ms, strict=True):
        if policy.until_s(kind, time_ms) > now_s:
            seen.add(item_id)
        if kind == EventType.PURCHASE:
            bought.add(item_id)
    return UserDocument(
        vector=None,
        vector_version=session.version,
        history_version=session.version,
        newest_event_id=session.newest_event_id,
        as_of_ms=session.as_of_ms,
        stored_ms=now_s * 1000,
        seen=np.sort(hash64_all(list(seen))),
        purchased=np.sort(hash64_all(list(bought))),
        events=hash64_all(session.event_ids),
    )
