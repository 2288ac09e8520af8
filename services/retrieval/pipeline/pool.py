"""The candidates of all sources in one pool, for a re-ranker to score before items are selected."""

from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

import numpy as np

from nearline.filters import Filter
from nearline.user_documents import Hashes
from services.retrieval.items.interface import Candidates, ItemFeatures, ItemIndex, Scores
from services.retrieval.merchandising.active_rules import ActiveRules
from services.retrieval.merchandising.effects import together
from services.retrieval.pipeline.candidates import candidate_sources
from services.retrieval.pipeline.diversity import Positions
from services.retrieval.request import RequestContext
from services.retrieval.result import Group, Source


@dataclass(frozen=True, slots=True)
class Pool:
    """Candidates (n,) without duplicates, with their sources and features.

    Until a re-ranker has scored them, scores are comparable within one source only.
    """

    candidates: Candidates
    sources: list[Source]
    features: ItemFeatures

    def __len__(self) -> int:
        """How many there are."""
        return len(self.candidates)

    def scored(self, scores: Scores) -> "Pool":
        """This pool with *scores* (n,), which are comparable across sources; ``ValueError`` if there are not n."""
        if len(scores) != len(self):
            raise ValueError(f"{len(scores)} scores came for {len(self)} candidates; one for each was expected")
        return replace(self, candidates=replace(self.candidates, scores=scores))

    def groups(self, order: Positions) -> list[Group]:
        """The candidates at *order*, in that order, grouped by consecutive source."""
        places = order.tolist()
        runs = groupby(range(len(places)), key=lambda at: self.sources[places[at]])
        return [Group(name, self.candidates.take(order[list(at)])) for name, at in runs]


class Reranker(Protocol):
    """Scores the candidates of all sources on one scale."""

    async def score(self, pool: Pool, context: RequestContext) -> Scores:
        """The scores (n,) of the candidates of *pool* for this request, higher is better.

        ``Unavailable`` if it cannot answer in time: the answer is then made without it and is degraded.
        """


async def collect(
    index: ItemIndex,
    context: RequestContext,
    weights: ActiveRules | None,
    excluded: Hashes,
    filter: Filter | None,
    places: int,
) -> Pool:
    """At most *places* candidates of the sources in their order, and items that *weights* may lift into the answer."""
    found: list[Candidates] = []
    names: list[Source] = []
    taken: set[str] = set()
    for name, source in candidate_sources(index, context, excluded, filter, taken):
        room = places - len(taken)
        items = await source.fetch(room, 0)
        if weights is not None:
            items = await weights.widened(index, items, source, room)
        found.append(items)
        names += [name] * len(items)
        taken.update(items.item_ids)
        if len(items) >= room:
            break
    candidates = together(found) if found else Candidates([], [], np.empty(0))
    features = await index.features(candidates, vectors=bool(len(candidates)))
    return Pool(candidates, names, features)
