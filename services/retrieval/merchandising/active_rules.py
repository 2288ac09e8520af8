"""The rules that are active for one request: how they are found, and their interface to the pipeline."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nearline.filters import Filter
from nearline.user_documents import Hashes
from services.retrieval.items.interface import Candidates, CandidateSource, ItemIndex, Scores
from services.retrieval.merchandising.effects import RuleSet, touches, weighted, widened
from services.retrieval.merchandising.placement import NO_EXPLORATION, ExplorationPolicy, Placement, groups_of
from services.retrieval.merchandising.rule_table import RuleTable
from services.retrieval.request import ExcludeSeen, RecommendRequest, RequestContext
from services.retrieval.result import Group

_DAY_MS = 24 * 3600 * 1000


class ActiveRules:
    """The active rules of one request, and its exploration, which is seeded by the request id."""

    def __init__(self, rules: RuleSet, request_id: str, exploration: ExplorationPolicy = NO_EXPLORATION) -> None:
        self._rules = rules
        self._request_id = request_id
        self._exploration = exploration
        self.propensities: list[float | None] = []  # of the placed answer's items; empty without exploration

    @property
    def is_weighing(self) -> bool:
        """Whether boosts or buries are active."""
        return bool(self._rules.weights)

    @property
    def blocked(self) -> Hashes:
        """Hashes of items that are blocked by name, sorted."""
        return self._rules.blocked_items

    def allowed(self, filter: Filter | None) -> Filter | None:
        """*filter* without the items that blocks forbid; *filter* itself if no block has a filter."""
        return self._rules.allowed(filter)

    async def widened(self, index: ItemIndex, pool: Candidates, source: CandidateSource, places: int) -> Candidates:
        """*pool*, the best of *source* by unweighted score, plus items that weights may lift; in any order."""
        return await widened(pool, self._rules.weights, source, places, index.passing)

    def weighted(self, index: ItemIndex, items: Candidates) -> Scores:
        """The scores of *items* (n,) after boosts and buries."""
        weights = self._rules.weights
        return weighted(items.scores, weights, [touches(rule, items, index.passing) for rule in weights])

    async def place(
        self, index: ItemIndex, groups: list[Group], context: RequestContext, excluded: Hashes, filter: Filter | None
    ) -> list[Group]:
        """The answer with exploration, then pins, in place; both obey *excluded* and *filter*."""
        rules, exploration = self._rules, self._exploration
        context.trace.rules += [rule.rule_id for rule in rules.blocks]
        if not (rules.weights or rules.pins or exploration.share):
            return groups
        placement = Placement(index, context, excluded, filter)
        placed = await placement.place(groups, rules, exploration, self._request_id)
        self.propensities = [item.propensity for item in placed] if exploration.share else []
        context.trace.rules += sorted({rule_id for item in placed for rule_id in item.rules})
        return groups_of(placed)


class RuleResolver:
    """Finds the active rules of each request in *table*.

    Exploration takes *share* of the places, unless a scenario sets another share, for items that were listed in the
    last *new_days*.
    """

    def __init__(
        self,
        table: RuleTable,
        *,
        share: float = 0.0,
        new_days: float = 14.0,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.table = table
        self._share = share
        self._new_ms = int(new_days * _DAY_MS)
        self._now_ms = now_ms

    def of(self, table: RuleTable) -> "RuleResolver":
        """A resolver with the same settings for another table."""
        return RuleResolver(table, share=self._share, new_days=self._new_ms / _DAY_MS, now_ms=self._now_ms)

    def expand(self, request: RecommendRequest) -> RecommendRequest:
        """*request* with the parameters of its scenario, where the caller set none.

        Both filters apply. ``BadInput`` if the scenario does not exist.
        """
        if request.scenario is None:
            return request
        rules = self.table.rule_set(request.scenario, self._now_ms())
        assert rules.scenario is not None
        more: dict[str, Any] = {
            name: _READ.get(name, lambda value: value)(value)
            for name, value in rules.scenario.parameters.items()
            if name not in request.given and name not in _READ_ELSEWHERE
        }
        return replace(request, filter=rules.within_base_filter(request.filter), **more)

    def rule_set(self, request: RecommendRequest) -> RuleSet:
        """The rules that are active for *request* now."""
        return self.table.rule_set(request.scenario, self._now_ms())

    def resolve(self, request: RecommendRequest, request_id: str) -> ActiveRules | None:
        """The active rules and exploration of this request; ``None`` if there are none."""
        now_ms = self._now_ms()
        rules = self.table.rule_set(request.scenario, now_ms)
        share = self._share if rules.scenario is None else rules.scenario.parameters.get("explore", self._share)
        if not share and rules.is_empty:
            return None
        exploration = ExplorationPolicy(share, now_ms - self._new_ms) if share else NO_EXPLORATION
        return ActiveRules(rules, request_id, exploration)


_READ: dict[str, Callable[[Any], Any]] = {"exclude_seen": ExcludeSeen}
_READ_ELSEWHERE = frozenset({"filter", "explore"})
