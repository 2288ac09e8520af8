"""The candidates of several named sources as one table, for a re-ranker to score before items are selected."""

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
    """Candidates (n,), none twice, with the name of the source of each and what an index tells of them.

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
        """The candidates at *order*, in that order, as groups of one source that follow one another."""
        places = order.tolist()
        runs = groupby(range(len(places)), key=lambda at: self.sources[places[at]])
        return [Group(name, self.candidates.take(order[list(at)])) for name, at in runs]


class Reranker(Protocol):
    """Scores the candidates of all sources beside each other."""

    async def score(self, pool: Pool, context: RequestContext) -> Scores:
        """(n,): how good each candidate of *pool* is for this request, more is better.

        ``Unavailable`` if it can't be told in time: then the answer goes without, and says so.
        """


async def collect(
    index: ItemIndex,
    context: RequestContext,
    weights: ActiveRules | None,
    excluded: Hashes,
    filter: Filter | None,
    places: int,
) -> Pool:
    """At most *places* candidates of the sources in their order, and what *weights* may lift into the answer."""
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
