"""The order of work: candidates, hard drops, discount and rules' weights, caps and diversity, exploration, pins.

A request that wants none of the stages between asks each source for exactly the places that are open. Only what is
shaped is chosen from more candidates than there are places.
"""

from services.retrieval.answer import Group, Step
from services.retrieval.items.interface import ItemIndex, Picked, Traits
from services.retrieval.stages.drops import dropped
from services.retrieval.stages.sources import Candidates, sources
from services.retrieval.stages.spread import Chosen, Order, by_worth, diverse
from services.retrieval.stages.worth import Numbers, discounted, worth_of
from services.retrieval.work import Work

_SPARE = 200  # candidates beyond the places, and at most twice as many as there are places
_MOST_SPARE = 2_000  # where caps leave places open


async def choose(index: ItemIndex, work: Work) -> list[Group]:
    """At most ``work.asked.k`` items on show that pass the filter and are not dropped, none twice."""
    ruling, k = work.ruling, work.asked.k
    excluded = dropped(work)
    wanted = work.asked.filter if ruling is None else ruling.allowed(work.asked.filter)
    shaping = _Shaping(index, work) if work.is_shaped else None
    groups: list[Group] = []
    taken: set[str] = set()
    for source, candidates in sources(index, work, excluded, wanted, taken):
        room = k - len(taken)
        items = await (candidates.fetch(room, 0) if shaping is None else shaping.fill(candidates, room))
        if len(items):
            groups.append(Group(source, items))
        if len(items) == room:
            break
        taken.update(items.item_ids)
    return groups if ruling is None else await ruling.place(index, groups, work, excluded, wanted)


class _Shaping:
    """Chooses from each source's candidates, in view of what was chosen of the sources before."""

    def __init__(self, index: ItemIndex, work: Work) -> None:
        self._index = index
        self._work = work
        self._chosen = Chosen()
        self._ruling = work.ruling if work.ruling is not None and work.ruling.is_weighing else None

    async def fill(self, candidates: Candidates, room: int) -> Picked:
        """At most *room* of *candidates*; where caps leave places open, of more and more."""
        spare = min(2 * room, _SPARE) if self._work.asked.is_shaped else 0
        while True:
            pool = await candidates.fetch(room, spare)
            is_all = len(pool) < room + spare
            if self._ruling is not None:
                pool = await self._ruling.widened(self._index, pool, candidates, room)
            traits = await self._index.traits(pool, vectors=bool(self._work.asked.diversity))
            order = self._order(self._worth(pool), traits, room)
            # Too few, and there may be more where these came from.
            is_short = len(order) < room and not is_all and spare < _MOST_SPARE
            if not is_short or self._work.is_late:
                if len(order):
                    self._chosen.add(traits.take(order))
                return pool.take(order)
            spare = min(4 * (spare + room), _MOST_SPARE)

    def _worth(self, pool: Picked) -> Numbers:
        worth = worth_of(pool.scores if self._ruling is None else self._ruling.weighed(self._index, pool))
        discount = self._work.asked.popularity_discount
        return discounted(worth, self._index.trending.popularity(pool.item_ids), discount) if discount else worth

    def _order(self, worth: Numbers, traits: Traits, room: int) -> Order:
        diversity, most = self._work.asked.diversity, self._work.asked.max_per_category
        if diversity and self._work.is_late:
            self._work.course.without(Step.DIVERSITY_SKIPPED)
        elif diversity:
            return diverse(worth, traits, self._chosen, room, diversity, most)
        return by_worth(worth, traits, self._chosen, room, most)
