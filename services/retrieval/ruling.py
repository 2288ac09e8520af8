"""Where rules as data touch an answer; what they are and where they come from is no concern of the stages.

A ``Rulebook`` gives each request its ``Ruling``, or ``None`` while no rule is in force for it: then the answer takes no
longer than without rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nearline.user_documents import Hashes
from services.retrieval.answer import Group
from services.retrieval.asked import Asked
from services.retrieval.filters import Filter
from services.retrieval.item_index import ItemIndex, Picked

if TYPE_CHECKING:
    from services.retrieval.work import Work

Worth = NDArray[np.floating[Any]]


class Ruling(Protocol):
    """The rules in force for one request; each that changes something is noted in the work's course."""

    @property
    def is_weighing(self) -> bool:
        """Whether ``weigh`` may change anything; if so, more candidates are looked at than the answer has places."""

    @property
    def blocked(self) -> Hashes:
        """Hashes of items that are blocked by name, sorted."""

    def allowed(self, wanted: Filter | None) -> Filter | None:
        """*wanted*, and what no block forbids; *wanted* itself if none does."""

    async def weigh(self, index: ItemIndex, items: Picked, worth: Worth, work: Work) -> Worth:
        """The worth of *items* (n,) after boosts and buries: 0-1 before, any number that is not negative after."""

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
