"""From a user's id to the bytes of an answer: read the document, choose, and print where everything came from."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import replace

from nearline.errors import BadInput, SpaceMismatch, Unavailable
from nearline.space import Space
from nearline.telemetry import counter, get_logger, seconds
from nearline.user_documents import UserDocument, decode_user_document
from services.retrieval.answer import TOP_UPS, Course, Group, Reason, Seen, Step
from services.retrieval.asked import Asked
from services.retrieval.budget import Budget
from services.retrieval.exposing import Exposures, Shown
from services.retrieval.item_index import ItemIndex
from services.retrieval.pages import Page, PageError, Pages
from services.retrieval.rendering import print_answer
from services.retrieval.ruling import Rulebook
from services.retrieval.stages.order import choose
from services.retrieval.store_guard import GuardedStore
from services.retrieval.work import Work

BUDGET_MS = 100.0
Read = Callable[[Work], Awaitable[Reason | None]]

_TOOK = seconds("recommend_seconds", "From the request to the answer's bytes")
_ANSWERS = counter("recommend_answers_total", "Answers by why they were not wholly personal", "reason")
_COUNTED = {reason: _ANSWERS.labels(reason.value) for reason in Reason}
_PERSONAL = _ANSWERS.labels("none")
_STEPS = counter("recommend_steps_total", "Answers that went without something, by what", "step")


class Recommender:
    """Answers requests; what it reads of the catalogue never changes within an answer."""

    def __init__(
        self,
        items: ItemIndex,
        store: GuardedStore,
        space: Space,
        *,
        pages: Pages | None = None,
        rulebook: Rulebook | None = None,
        exposures: Exposures | None = None,
        budget_ms: float = BUDGET_MS,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._items = items
        self._store = store
        self._space = space
        self._pages = pages
        self._rulebook = rulebook
        self._exposures = exposures
        self._budget_ms = budget_ms
        self._now_ms = now_ms

    def trying(self, rulebook: Rulebook) -> "Recommender":
        """One that answers by *rulebook*, and whose answers nobody is shown: they leave no exposures."""
        other = copy(self)
        other._rulebook, other._exposures = rulebook, None
        return other

    async def answer(self, user_id: str, asked: Asked, request_id: str, read: Read | None = None) -> bytes:
        """The answer as JSON; its *reason* says why some items are not personal, its *steps* what it went without.

        There is one whatever is down. ``BadInput`` if *asked* names what there is not: an attribute (``FilterError``),
        a page (``PageError``), a scenario. *read* puts the document into the work instead of the store.
        """
        started = time.perf_counter_ns()
        asked = self._checked(asked)
        page = None if asked.page is None else self._opened(asked.page, user_id)
        work = Work(asked, budget=Budget(self._budget_ms, started))
        reason = await (self._read(user_id, work) if read is None else read(work))
        if page is not None:
            page = self._turn_to(page, work, reason)
        if self._rulebook is not None:
            work.ruling = self._rulebook.ruling(asked, user_id, request_id)
        groups = await self._choose(work)
        reason = reason or _reason(work, groups)
        about = {
            "user_id": user_id if read is None else None,
            "space": self._space.number,
            **self._provenance(work, reason),
        }
        about["took_ms"] = round((time.perf_counter_ns() - started) / 1e6, 3)
        about["request_id"] = request_id
        if page is not None:
            about["next_page"] = self._next(page, user_id, groups)
        if self._exposures is not None:
            self._exposures.note(self._shown(user_id if read is None else None, work, groups, page, request_id))
        body = print_answer(about, groups, asked.fields)
        _count(reason, work.course, (time.perf_counter_ns() - started) / 1e9)
        return body

    def _shown(self, user_id: str | None, work: Work, groups: list[Group], page: Page | None, request_id: str) -> Shown:
        propensities = () if work.ruling is None else work.ruling.propensities
        number = 0 if page is None else page.number
        return Shown(
            request_id, user_id, self._now_ms(), groups, work.asked.scenario, propensities, work.course.rules, number
        )

    def _checked(self, asked: Asked) -> Asked:
        """*asked* with all that its scenario says; what it names is known."""
        if asked.filter is not None:
            self._items.check(asked.filter)
        if asked.scenario is None:
            return asked
        if self._rulebook is None:
            raise BadInput("unknown_scenario", f"there is no scenario {asked.scenario!r}; there are none at all")
        return self._rulebook.expand(asked)  # whose own filter may name what no item has any more

    async def _read(self, user_id: str, work: Work) -> Reason | None:
        """Put the user's document into *work*; return why there is none, if that is anybody's fault."""
        try:
            raw = await self._store.get(user_id)
            document = None if raw is None else decode_user_document(raw, self._space).at(self._now_ms() // 1000)
            work.document = document
        except Unavailable:
            work.course.without(Step.STORE_UNAVAILABLE)
            return Reason.STORE_UNAVAILABLE
        except (BadInput, SpaceMismatch) as error:
            get_logger().error("a user document was refused", user_id=user_id, reason=str(error))
            work.course.without(Step.BAD_DOCUMENT)
            return Reason.BAD_DOCUMENT
        return None

    async def _choose(self, work: Work) -> list[Group]:
        """As ``choose``; without the vector if the index is away, or takes longer than the budget."""
        try:
            if not self._items.is_remote:
                return await choose(self._items, work)
            async with asyncio.timeout(work.budget.left_s if work.budget else None):
                return await choose(self._items, work)
        except (Unavailable, TimeoutError):
            work.course.without(Step.INDEX_UNAVAILABLE)
            work.document = None if work.document is None else replace(work.document, vector=None)
            return await choose(self._items, work)

    def _opened(self, token: str, user_id: str) -> Page:
        if self._pages is None:
            raise PageError("this service gives no pages", is_gone=False)
        return self._pages.open(token, user_id)

    def _turn_to(self, page: Page, work: Work, reason: Reason | None) -> Page:
        """Let *work* go on with the list of *page*; return the list as its next page is to know it.

        While the store is down nobody can say whether the user was forgotten: then the list goes on without its vector.
        """
        if not page.number:
            return page.begun(work.document)
        work.served = page.served
        if reason is None:
            work.document = page.of(work.document)
        return page

    def _next(self, page: Page, user_id: str, groups: list[Group]) -> str | None:
        assert self._pages is not None
        return self._pages.next(page, user_id, (item_id for group in groups for item_id in group.items.item_ids))

    def _provenance(self, work: Work, reason: Reason | None) -> dict[str, object]:
        """Which clicks and items the answer used, and what it went without."""
        return {
            **_clicks(work.document, self._now_ms()),
            "index_generation": self._items.generation,
            "seen": Seen.UNKNOWN if reason in _BLIND else Seen.KNOWN,
            "degraded": bool(work.course.steps),
            "reason": reason,
            "steps": work.course.steps,
            "rules": work.course.rules,
        }


_BLIND = (Reason.STORE_UNAVAILABLE, Reason.BAD_DOCUMENT)


def _clicks(document: UserDocument | None, now_ms: int) -> dict[str, object]:
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


def _reason(work: Work, groups: list[Group]) -> Reason | None:
    """Why an answer from a healthy store is not wholly personal."""
    if work.document is None:
        return Reason.UNKNOWN_USER
    if Step.INDEX_UNAVAILABLE in work.course.steps:
        return Reason.INDEX_UNAVAILABLE
    if work.document.vector is None:
        return Reason.NO_VECTOR
    is_full = sum(len(group.items) for group in groups) == work.asked.k
    return None if is_full and not any(group.source in TOP_UPS for group in groups) else Reason.TOO_FEW_CANDIDATES


def _count(reason: Reason | None, course: Course, took_s: float) -> None:
    _TOOK.observe(took_s)
    (_PERSONAL if reason is None else _COUNTED[reason]).inc()
    for step in course.steps:
        _STEPS.labels(step).inc()
