"""Answers a request: reads the user's document, selects items, and serialises them with the answer's provenance."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from nearline.errors import BadInput, Unavailable
from nearline.ids import SYNTHETIC_USERS
from nearline.space import Space
from nearline.telemetry import counter, seconds
from services.retrieval.exposure_log import ExposureLog, PendingExposure
from services.retrieval.items.interface import ItemIndex
from services.retrieval.merchandising.active_rules import ActiveRules, RuleResolver
from services.retrieval.pages import ListPage, PageError, PageTokens
from services.retrieval.pipeline.pool import Reranker
from services.retrieval.pipeline.selection import select
from services.retrieval.provenance import ABSENT, Provenance, unused_parameters, used_clicks
from services.retrieval.rendering import print_answer
from services.retrieval.request import Budget, RecommendRequest, RequestContext
from services.retrieval.result import TOP_UPS, Degradation, Group, Reason, Seen, Trace
from services.retrieval.users.reader import UserReader, UserState
from services.retrieval.users.trace_ends import TracedClicks

BUDGET_MS = 100.0
Read = Callable[[], Awaitable[UserState]]

_TOOK = seconds("recommend_seconds", "From the request to the answer's bytes")
_ANSWERS = counter(
    "recommend_answers_total", "Answers, by why some items were not personal", "reason", known=("none", *Reason)
)
_COUNTED = {reason: _ANSWERS.labels(reason.value) for reason in Reason}
_PERSONAL = _ANSWERS.labels("none")
_DEGRADED = counter("recommend_steps_total", "Degraded answers, by degradation", "step", known=Degradation)


class Recommender:
    """Answers the requests of one space.

    Without *rules* there are no scenarios; without *exposures* none are recorded; without a *reranker* the sources fill
    an answer in their order.
    """

    def __init__(
        self,
        items: ItemIndex,
        users: UserReader,
        space: Space,
        *,
        pages: PageTokens | None = None,
        rules: RuleResolver | None = None,
        reranker: Reranker | None = None,
        exposures: ExposureLog | None = None,
        budget_ms: float = BUDGET_MS,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        traced: TracedClicks | None = None,
    ) -> None:
        self.space = space
        self._items = items
        self.users = users
        self._pages = pages
        self._rules = rules
        self._reranker = reranker
        self._exposures = exposures
        self._budget_ms = budget_ms
        self._now_ms = now_ms
        self._traced = traced

    def trying(self, rules: RuleResolver) -> "Recommender":
        """A copy that answers with *rules* and records no exposures: no user sees its answers."""
        return Recommender(
            self._items,
            self.users,
            self.space,
            pages=self._pages,
            rules=rules,
            reranker=self._reranker,
            budget_ms=self._budget_ms,
            now_ms=self._now_ms,
            traced=self._traced,
        )

    async def answer(self, user_id: str, request: RecommendRequest, request_id: str, read: Read | None = None) -> bytes:
        """The answer as JSON; its *reason* says why some items are not personal, its *degradations* what it lacks.

        It answers even if store, index or tower are down. ``BadInput`` if *request* names an attribute
        (``FilterError``), a page (``PageError``) or a scenario that does not exist. *read* replaces the store: it
        returns the state of a user who is not stored.
        """
        started = time.perf_counter_ns()
        request = self._checked(request)
        page = None if request.page is None else self._opened(request.page, user_id)
        user = await self._user(user_id, request, read)
        known = time.perf_counter_ns()
        if request.after is not None and read is None:
            started = known  # the wait for the event does not count as work
        budget = Budget(self._budget_ms, known if read else started)
        context = RequestContext(request, user.document, budget=budget)
        if user.degradation is not None:
            context.trace.degrade(user.degradation)
        if page is not None:
            page = self._turn_to(page, context, user)
        rules = None if self._rules is None else self._rules.resolve(request, request_id)
        groups = await self._select(context, rules)
        whom = user_id if read is None else None
        about = self._provenance(whom, context, user, groups, page, started, request_id)
        if self._exposures is not None and not user_id.startswith(SYNTHETIC_USERS):
            self._exposures.note(self._exposure(about, request, groups, rules, page))
        body = print_answer(about.as_dict(), groups, request.fields)
        took_ns = time.perf_counter_ns() - started
        _count(about.reason, context.trace, took_ns / 1e9)
        if self._traced and read is None:
            self._traced.answered(user_id, user.document, took_ns, request_id)
        return body

    async def _user(self, user_id: str, request: RecommendRequest, read: Read | None) -> UserState:
        if read is not None:
            return await read()
        if request.after is None:
            return await self.users.read(user_id)
        return await self.users.read_after(user_id, request.after, request.wait_ms, request.after_ms, request.holder)

    def _checked(self, request: RecommendRequest) -> RecommendRequest:
        """*request* with the parameters of its scenario; ``BadInput`` for an unknown attribute or scenario."""
        if request.filter is not None:
            self._items.check(request.filter)
        if request.scenario is None:
            return request
        if self._rules is None:
            raise BadInput(
                "unknown_scenario",
                f"there is no scenario {request.scenario!r}: this service has no scenarios",
                field="scenario",
            )
        return self._rules.expand(request)  # its filter is not checked: attributes may have gone since it was written

    async def _select(self, context: RequestContext, rules: ActiveRules | None) -> list[Group]:
        """As ``select``; without the vector if the index is down, or takes longer than the budget."""
        try:
            if not self._items.is_remote:
                return await select(self._items, context, rules, self._reranker)
            async with asyncio.timeout(context.budget.left_s if context.budget else None):
                return await select(self._items, context, rules, self._reranker)
        except (Unavailable, TimeoutError):
            context.trace.degrade(Degradation.INDEX_UNAVAILABLE)
            context.document = None if context.document is None else replace(context.document, vector=None)
            return await select(self._items, context, rules)

    def _opened(self, token: str, user_id: str) -> ListPage:
        if self._pages is None:
            raise PageError("this service has no pages", is_gone=False)
        return self._pages.open(token, user_id)

    def _turn_to(self, page: ListPage, context: RequestContext, user: UserState) -> ListPage:
        """Continue the list of *page* in *context*; return the list's state for the next page.

        While the user's document cannot be read, the user may have been erased: the list continues without its vector.
        """
        if not page.number:
            return page.begun(context.document)
        context.served = page.served
        if user.seen is not Seen.UNKNOWN:
            context.document = page.of(context.document)
        return page

    def _provenance(
        self,
        user_id: str | None,
        context: RequestContext,
        user: UserState,
        groups: Sequence[Group],
        page: ListPage | None,
        started_ns: int,
        request_id: str,
    ) -> Provenance:
        """The clicks and items that the answer used, and its degradations."""
        degradations = context.trace.degradations
        return Provenance(
            user_id=user_id,
            space=self.space.number,
            **used_clicks(context.document, self._now_ms()),
            index_generation=self._items.generation,
            seen=user.seen,
            degraded=bool(degradations),
            reason=user.reason or _reason(context, groups),
            degradations=degradations,
            steps=degradations,
            rules=context.trace.rules,
            warnings=unused_parameters(context.request.context, category_used=context.trace.category_used),
            fresh=ABSENT if user.after is None else user.is_fresh,
            after_event=ABSENT if user.after is None else user.after,
            next_page=ABSENT if page is None else self._next(page, user_id or "", groups),
            took_ms=round((time.perf_counter_ns() - started_ns) / 1e6, 3),
            request_id=request_id,
        )

    def _next(self, page: ListPage, user_id: str, groups: Sequence[Group]) -> str | None:
        assert self._pages is not None
        return self._pages.next(page, user_id, (item_id for group in groups for item_id in group.items.item_ids))

    def _exposure(
        self,
        about: Provenance,
        request: RecommendRequest,
        groups: Sequence[Group],
        rules: ActiveRules | None,
        page: ListPage | None,
    ) -> PendingExposure:
        propensities = () if rules is None else rules.propensities
        number = 0 if page is None else page.number
        return PendingExposure(about, self._now_ms(), groups, request.scenario, propensities, number)


def _reason(context: RequestContext, groups: Sequence[Group]) -> Reason | None:
    """Why not all items of an answer are personal, given that the store answered."""
    if context.document is None:
        return Reason.UNKNOWN_USER
    if Degradation.INDEX_UNAVAILABLE in context.trace.degradations:
        return Reason.INDEX_UNAVAILABLE
    if context.document.vector is None:
        return Reason.NO_VECTOR
    is_full = sum(len(group.items) for group in groups) == context.request.k
    return None if is_full and not any(group.source in TOP_UPS for group in groups) else Reason.TOO_FEW_CANDIDATES


def _count(reason: Reason | None, trace: Trace, took_s: float) -> None:
    _TOOK.observe(took_s)
    (_PERSONAL if reason is None else _COUNTED[reason]).inc()
    for degradation in trace.degradations:
        _DEGRADED.labels(degradation).inc()
