"""Where rules as data touch an answer; what they are and where they come from is no concern of the stages.

A ``Rulebook`` gives each request its ``Ruling``, or ``None`` while no rule is in force for it: then the answer takes no
longer than without rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from nearline.filters import Filter
from nearline.user_documents import Hashes
from services.retrieval.answer import Group
from services.retrieval.asked import Asked
from services.retrieval.items.interface import CandidateSource, ItemIndex, Picked
from services.retrieval.rules import Scores

if TYPE_CHECKING:
    from services.retrieval.work import Work


class Ruling(Protocol):
    """The rules in force for one request; each that changes something is noted in the work's course."""

    @property
    def propensities(self) -> Sequence[float | None]:
        """Of the items of the placed answer, with which probability each came to its place; empty if all were sure."""

    @property
    def is_weighing(self) -> bool:
        """Whether boosts or buries hold: then candidates are chosen by their weighed scores."""

    @property
    def blocked(self) -> Hashes:
        """Hashes of items that are blocked by name, sorted."""

    def allowed(self, wanted: Filter | None) -> Filter | None:
        """*wanted*, and what no block forbids; *wanted* itself if none does."""

    async def widened(self, index: ItemIndex, pool: Picked, source: CandidateSource, places: int) -> Picked:
        """*pool*, the best of *source* by plain score, with what may be better once it is weighed; in any order."""

    def weighed(self, index: ItemIndex, items: Picked) -> Scores:
        """The scores of *items* (n,) after boosts and buries; those of *items* itself stay as they are."""

    async def place(
        self, index: ItemIndex, groups: list[Group], work: Work, excluded: Hashes, wanted: Filter | None
    ) -> list[Group]:
        """The answer with exploration, then pins, at their places; both obey *excluded* and *wanted*."""


class Rulebook(Protocol):
    """All rules and scenarios that there are (nearline/rules.py)."""

    def expand(self, asked: Asked) -> Asked:
        """*asked* with the parameters of its scenario, where the caller gave none; ``BadInput`` if there is no such."""

    def ruling(self, asked: Asked, user_id: str, request_id: str) -> Ruling | None:
        """What is in force for this request now; exploration is seeded by *request_id*."""
