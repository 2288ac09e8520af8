"""From a user's id to the bytes of an answer: read the document, choose, and print where everything came from."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import replace

from nearline.errors import BadInput, Unavailable
from nearline.ids import SYNTHETIC_USERS
from nearline.space import Space
from nearline.telemetry import counter, seconds
from nearline.user_documents import UserDocument
from services.retrieval.answer import TOP_UPS, Course, Group, Reason, Seen, Step
from services.retrieval.asked import Asked
from services.retrieval.budget import Budget
from services.retrieval.exposing import Exposures, Shown
from services.retrieval.items.interface import ItemIndex
from services.retrieval.pages import Page, PageError, Pages
from services.retrieval.reading import Knowledge, Reading
from services.retrieval.rendering import print_answer
from services.retrieval.ruling import Rulebook
from services.retrieval.stages.order import choose
from services.retrieval.store_guard import GuardedStore
from services.retrieval.traced import TracedClicks
from services.retrieval.waiting import Waiting
from services.retrieval.work import Work

BUDGET_MS = 100.0
Read = Callable[[], Awaitable[Knowledge]]

_TOOK = seconds("recommend_seconds", "From the request to the answer's bytes")
_ANSWERS = counter(
    "recommend_answers_total", "Answers by why they were not wholly personal", "reason", known=("none", *Reason)
)
_COUNTED = {reason: _ANSWERS.labels(reason.value) for reason in Reason}
_PERSONAL = _ANSWERS.labels("none")
_STEPS = counter("recommend_steps_total", "Answers that went without something, by what", "step", known=Step)


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
        waiting: Waiting | None = None,
        is_hearing: Callable[[], bool] = lambda: True,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        traced: TracedClicks | None = None,
    ) -> None:
        self.reading = Reading(
            store, space, waiting=waiting, is_hearing=is_hearing, now_s=lambda: now_ms() / 1000, traced=traced
        )
        self._traced = traced
        self._items = items
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
        a page (``PageError``), a scenario. *read* tells of somebody whom the store does not know.
        """
        started = time.perf_counter_ns()
        asked = self._checked(asked)
        page = None if asked.page is None else self._opened(asked.page, user_id)
        if read is not None:
            known = await read()
        elif asked.after is None:
            known = await self.reading.read(user_id)
        else:
            known = await self.reading.read_after(user_id, asked.after, asked.wait_ms)
            started = time.perf_counter_ns()  # waiting is no work
        work = Work(asked, known.document, budget=Budget(self._budget_ms, time.perf_counter_ns() if read else started))
        if known.step is not None:
            work.course.without(known.step)
        if page is not None:
            page = self._turn_to(page, work, known)
        if self._rulebook is not None:
            work.ruling = self._rulebook.ruling(asked, user_id, request_id)
        groups = await self._choose(work)
        reason = known.reason or _reason(work, groups)
        whom = user_id if read is None else None
        about = {"user_id": whom, "space": self._space.number, **self._provenance(work, known, reason)}
        if page is not None:
            about["next_page"] = self._next(page, user_id, groups)
        about["took_ms"] = round((time.perf_counter_ns() - started) / 1e6, 3)
        about["request_id"] = request_id
        if self._exposures is not None and not user_id.startswith(SYNTHETIC_USERS):
            self._exposures.note(self._shown(whom, work, groups, page, request_id))
        body = print_answer(about, groups, asked.fields)
        took_ns = time.perf_counter_ns() - started
        _count(reason, work.course, took_ns / 1e9)
        if self._traced and read is None:
            self._traced.answered(user_id, known.document, took_ns, request_id)
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

    def _turn_to(self, page: Page, work: Work, known: Knowledge) -> Page:
        """Let *work* go on with the list of *page*; return the list as its next page is to know it.

        While nothing is known nobody can say whether the user was forgotten: then the list goes on without its vector.
        """
        if not page.number:
            return page.begun(work.document)
        work.served = page.served
        if known.seen is not Seen.UNKNOWN:
            work.document = page.of(work.document)
        return page

    def _next(self, page: Page, user_id: str, groups: list[Group]) -> str | None:
        assert self._pages is not None
        return self._pages.next(page, user_id, (item_id for group in groups for item_id in group.items.item_ids))

    def _provenance(self, work: Work, known: Knowledge, reason: Reason | None) -> dict[str, object]:
        """Which clicks and items the answer used, and what it went without."""
        about = {
            **_clicks(work.document, self._now_ms()),
            "index_generation": self._items.generation,
            "seen": known.seen,
            "degraded": bool(work.course.steps),
            "reason": reason,
            "steps": work.course.steps,
            "rules": work.course.rules,
        }
        if known.fresh is not None:
            about["fresh"] = known.fresh
        return about


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
