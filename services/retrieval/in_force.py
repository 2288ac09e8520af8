"""What is in force for a request, as the stages of its answer ask for it (ruling.py)."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nearline.filters import Filter
from nearline.user_documents import Hashes
from services.retrieval.answer import Group
from services.retrieval.asked import Asked, ExcludeSeen
from services.retrieval.items.interface import CandidateSource, ItemIndex, Picked
from services.retrieval.placing import NO_NEWCOMERS, Newcomers, Placing, groups_of
from services.retrieval.rule_book import RuleBook
from services.retrieval.rules import Scores, Standing, touches, weighed, widened
from services.retrieval.work import Work

_DAY_MS = 24 * 3600 * 1000


class InForce:
    """The ruling of one request: *standing* rules, and exploration seeded by the request's id."""

    def __init__(self, standing: Standing, request_id: str, newcomers: Newcomers = NO_NEWCOMERS) -> None:
        self._standing = standing
        self._request_id = request_id
        self._newcomers = newcomers
        self.propensities: list[float | None] = []  # of the answer's items, where it explored, once they are placed

    @property
    def is_weighing(self) -> bool:
        """Whether boosts or buries hold."""
        return bool(self._standing.weights)

    @property
    def blocked(self) -> Hashes:
        """Hashes of items that are blocked by name, sorted."""
        return self._standing.refused_items

    def allowed(self, wanted: Filter | None) -> Filter | None:
        """*wanted*, and what no block forbids; *wanted* itself if none does."""
        return self._standing.allowed(wanted)

    async def widened(self, index: ItemIndex, pool: Picked, source: CandidateSource, places: int) -> Picked:
        """*pool*, the best of *source* by plain score, with what may be better once it is weighed; in any order."""
        return await widened(pool, self._standing.weights, source, places, index.passing)

    def weighed(self, index: ItemIndex, items: Picked) -> Scores:
        """The scores of *items* (n,) after boosts and buries."""
        weights = self._standing.weights
        return weighed(items.scores, weights, [touches(rule, items, index.passing) for rule in weights])

    async def place(
        self, index: ItemIndex, groups: list[Group], work: Work, excluded: Hashes, wanted: Filter | None
    ) -> list[Group]:
        """The answer with exploration, then pins, at their places; both obey *excluded* and *wanted*."""
        standing, newcomers = self._standing, self._newcomers
        work.course.rules += [rule.rule_id for rule in standing.blocks]
        if not (standing.weights or standing.pins or newcomers.share):
            return groups
        answer = await Placing(index, work, excluded, wanted).answer(groups, standing, newcomers, self._request_id)
        self.propensities = [entry.propensity for entry in answer] if newcomers.share else []
        work.course.rules += sorted({rule_id for entry in answer for rule_id in entry.rules})
        return groups_of(answer)


class Rulings:
    """What holds for each request: the rules of *book*, and exploration of *share* of places, unless a scenario says.

    An item that was listed within *new_days* is new.
    """

    def __init__(
        self,
        book: RuleBook,
        *,
        share: float = 0.0,
        new_days: float = 14.0,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.book = book
        self._share = share
        self._new_ms = int(new_days * _DAY_MS)
        self._now_ms = now_ms

    def of(self, book: RuleBook) -> "Rulings":
        """The same for another book."""
        return Rulings(book, share=self._share, new_days=self._new_ms / _DAY_MS, now_ms=self._now_ms)

    def expand(self, asked: Asked) -> Asked:
        """*asked* with the parameters of its scenario, where the caller gave none; ``BadInput`` if there is no such.

        Filters of both are joined: a scenario's shelf stays what it is.
        """
        if asked.scenario is None:
            return asked
        standing = self.book.standing(asked.scenario, self._now_ms())
        assert standing.scenario is not None
        said: dict[str, Any] = {
            name: _READ.get(name, lambda value: value)(value)
            for name, value in standing.scenario.parameters.items()
            if name not in asked.given and name not in _READ_ELSEWHERE
        }
        return replace(asked, filter=standing.on_shelf(asked.filter), **said)

    def standing(self, asked: Asked) -> Standing:
        """The rules that hold for *asked* now."""
        return self.book.standing(asked.scenario, self._now_ms())

    def ruling(self, asked: Asked, user_id: str, request_id: str) -> InForce | None:
        """What is in force for this request now; ``None`` if nothing is."""
        now_ms = self._now_ms()
        standing = self.book.standing(asked.scenario, now_ms)
        share = self._share if standing.scenario is None else standing.scenario.parameters.get("explore", self._share)
        if not share and standing.is_empty:
            return None
        return InForce(standing, request_id, Newcomers(share, now_ms - self._new_ms) if share else NO_NEWCOMERS)


_READ: dict[str, Callable[[Any], Any]] = {"exclude_seen": ExcludeSeen}
_READ_ELSEWHERE = frozenset({"filter", "explore"})
