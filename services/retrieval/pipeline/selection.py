"""Selects the items of an answer: candidates, exclusions, discount and weights of rules, caps and diversity, placement.

A request without discount, weights, caps or diversity asks each source for exactly the open places; one with them
selects from more candidates. With a re-ranker the candidates of all sources become one pool, and its scores decide.
"""

from nearline.errors import Unavailable
from nearline.filters import Filter
from nearline.user_documents import NO_HASHES, Hashes
from services.retrieval.items.interface import Candidates, CandidateSource, ItemFeatures, ItemIndex, Scores
from services.retrieval.merchandising.active_rules import ActiveRules
from services.retrieval.pipeline.candidates import candidate_sources
from services.retrieval.pipeline.diversity import Positions, Selected, mmr, top_by_score
from services.retrieval.pipeline.exclusions import excluded_hashes
from services.retrieval.pipeline.pool import Reranker, collect
from services.retrieval.pipeline.scoring import less_popularity, normalized
from services.retrieval.request import RequestContext
from services.retrieval.result import Degradation, Group

_OVERSAMPLE = 200  # candidates beyond the places, and at most twice as many as there are places
_MOST_OVERSAMPLE = 2_000  # where caps leave places open


async def select(
    index: ItemIndex, context: RequestContext, rules: ActiveRules | None = None, reranker: Reranker | None = None
) -> list[Group]:
    """At most ``context.request.k`` available items that pass the filter and are not excluded, without duplicates."""
    request = context.request
    excluded = excluded_hashes(context, NO_HASHES if rules is None else rules.blocked)
    filter = request.filter if rules is None else rules.allowed(request.filter)
    groups = None if reranker is None else await _reranked(index, context, rules, reranker, excluded, filter)
    if groups is None:
        groups = await _in_order_of_sources(index, context, rules, excluded, filter)
    return groups if rules is None else await rules.place(index, groups, context, excluded, filter)


async def _in_order_of_sources(
    index: ItemIndex, context: RequestContext, rules: ActiveRules | None, excluded: Hashes, filter: Filter | None
) -> list[Group]:
    """Each source fills the places that the sources before it left open."""
    request, weights = context.request, rules if rules is not None and rules.is_weighing else None
    shaping = _Shaping(index, context, weights) if request.is_shaped or weights is not None else None
    groups: list[Group] = []
    taken: set[str] = set()
    for name, source in candidate_sources(index, context, excluded, filter, taken):
        room = request.k - len(taken)
        items = await (source.fetch(room, 0) if shaping is None else shaping.fill(source, room))
        if len(items):
            groups.append(Group(name, items))
        if len(items) == room:
            break
        taken.update(items.item_ids)
    return groups


async def _reranked(
    index: ItemIndex,
    context: RequestContext,
    rules: ActiveRules | None,
    reranker: Reranker,
    excluded: Hashes,
    filter: Filter | None,
) -> list[Group] | None:
    """The best of all sources by the re-ranker's scores; ``None`` if it is unavailable or no time is left for it."""
    if context.is_late:
        context.trace.degrade(Degradation.RERANKER_SKIPPED)
        return None
    request, weights = context.request, rules if rules is not None and rules.is_weighing else None
    pool = await collect(index, context, weights, excluded, filter, request.k + _oversample(request.k))
    try:
        pool = pool.scored(await reranker.score(pool, context))
    except Unavailable:
        context.trace.degrade(Degradation.RERANKER_SKIPPED)
        return None
    shaping = _Shaping(index, context, weights)
    return pool.groups(shaping.order(pool.candidates, pool.features, request.k))


class _Shaping:
    """Selects from each source's candidates, given the items selected from earlier sources."""

    def __init__(self, index: ItemIndex, context: RequestContext, weights: ActiveRules | None) -> None:
        self._index = index
        self._context = context
        self._weights = weights
        self._selected = Selected()

    async def fill(self, source: CandidateSource, room: int) -> Candidates:
        """At most *room* candidates of *source*; if caps leave places open, from more and more candidates."""
        request = self._context.request
        oversample = _oversample(room) if request.is_shaped else 0
        while True:
            found = await source.fetch(room, oversample)
            is_all = len(found) < room + oversample
            if self._weights is not None:
                found = await self._weights.widened(self._index, found, source, room)
            features = await self._index.features(found, vectors=bool(request.diversity))
            order = self.order(found, features, room)
            # Too few, and the source may have more.
            is_short = len(order) < room and not is_all and oversample < _MOST_OVERSAMPLE
            if not is_short or self._context.is_late:
                if len(order):
                    self._selected.add(features.take(order))
                return found.take(order)
            oversample = min(4 * (oversample + room), _MOST_OVERSAMPLE)

    def order(self, found: Candidates, features: ItemFeatures, room: int) -> Positions:
        """The positions of the at most *room* candidates to select from *found*, in order."""
        request, scores = self._context.request, self._scores(found)
        if request.diversity and self._context.is_late:
            self._context.trace.degrade(Degradation.DIVERSITY_SKIPPED)
        elif request.diversity:
            return mmr(scores, features, self._selected, room, request.diversity, request.max_per_category)
        return top_by_score(scores, features, self._selected, room, request.max_per_category)

    def _scores(self, found: Candidates) -> Scores:
        scores = normalized(found.scores if self._weights is None else self._weights.weighted(self._index, found))
        discount = self._context.request.popularity_discount
        if not discount:
            return scores
        return less_popularity(scores, self._index.trending.popularity(found.item_ids), discount)


def _oversample(room: int) -> int:
    return min(2 * room, _OVERSAMPLE)
