"""The effects of active rules on an answer, as functions of its candidates.

Blocks come first: they are part of the request's filter, so blocked items are never candidates. Boosts and buries then
weight scores: a factor multiplies a score, and divides a negative one, so that a boost always raises a score and a bury
lowers it. Pins come last, and only with items that pass the hard exclusions.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from nearline.filters import Filter, narrowed, parse
from nearline.hashing import hash64_all
from nearline.rules import Action, Rule, Scenario
from nearline.user_documents import NO_HASHES, Hashes
from services.retrieval.items.interface import Candidates, CandidateSource, Scores

_KEPT = 256  # cached filters of requests, joined with those of the rules


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The active rules of a scenario, prepared once and used until a rule changes or a window begins or ends."""

    scenario: Scenario | None = None
    base_filter: Filter | None = None  # the scenario's own
    blocks: tuple[Rule, ...] = ()
    weights: tuple[Rule, ...] = ()  # boosts and buries
    pins: tuple[Rule, ...] = ()  # by position
    blocked_filters: tuple[Filter, ...] = ()  # items that pass one of these are blocked
    blocked_items: Hashes = field(default_factory=lambda: NO_HASHES)  # hashes of items blocked by id, sorted
    _joined: dict[tuple[str, bool], Filter | None] = field(default_factory=dict, compare=False, repr=False)

    @property
    def is_empty(self) -> bool:
        """Whether no rule is active."""
        return not (self.blocks or self.weights or self.pins)

    def within_base_filter(self, filter: Filter | None) -> Filter | None:
        """The filter for items that pass *filter* and the scenario's filter; ``None`` if all items do."""
        return filter if self.base_filter is None else self._remembered(filter, self.base_filter, ())

    def allowed(self, filter: Filter | None) -> Filter | None:
        """The filter for items that pass *filter* and no filter of a block; ``None`` if all items do."""
        return filter if not self.blocked_filters else self._remembered(filter, None, self.blocked_filters)

    def _remembered(self, filter: Filter | None, to: Filter | None, without: Sequence[Filter]) -> Filter | None:
        key = "" if filter is None else filter.key, to is None
        if key not in self._joined:
            if len(self._joined) >= _KEPT:
                self._joined.clear()
            self._joined[key] = narrowed(filter, to=to, without=without)
        return self._joined[key]


def rule_set_of(rules: Sequence[Rule], scenario: Scenario | None) -> RuleSet:
    """The rule set of *rules*, which are all active; of two pins at one position the smaller id comes first."""
    blocks = tuple(rule for rule in rules if rule.action is Action.BLOCK)
    pins = [rule for rule in rules if rule.action is Action.PIN]
    expression = None if scenario is None else scenario.parameters.get("filter")
    return RuleSet(
        scenario=scenario,
        base_filter=None if expression is None else parse(expression, is_stored=True),
        blocks=blocks,
        weights=tuple(rule for rule in rules if rule.action in (Action.BOOST, Action.BURY)),
        pins=tuple(sorted(pins, key=lambda pin: (pin.position, pin.rule_id))),
        blocked_filters=tuple(rule.filter for rule in blocks if rule.filter is not None),
        blocked_items=np.unique(hash64_all([item_id for rule in blocks for item_id in rule.items])),
    )


Passing = Callable[[Filter, Candidates], NDArray[np.bool_]]


async def widened(
    pool: Candidates, weights: Sequence[Rule], source: CandidateSource, places: int, passing: Passing
) -> Candidates:
    """*pool*, the best of *source* by unweighted score, plus items that *weights* may lift; in any order.

    These are the best items of each boost and, if the pool contains buried items, the best that are not buried. So the
    result contains the best items by weighted score, unless several rules touch one item.
    """
    found = [pool]
    for rule in weights:
        if rule.action is Action.BOOST:
            found.append(await (source.of(rule.items) if rule.filter is None else source.best(places, to=rule.filter)))
    buries = [rule for rule in weights if rule.action is Action.BURY]
    if any(touches(rule, pool, passing).any() for rule in buries):
        named = np.unique(hash64_all([item_id for rule in buries for item_id in rule.items]))
        without = [rule.filter for rule in buries if rule.filter is not None]
        found.append(await source.best(places, without=without, left_out=named))
    return together(found)


def touches(rule: Rule, items: Candidates, passing: Passing) -> NDArray[np.bool_]:
    """Whether the rule applies to each of *items* (n,)."""
    if rule.filter is not None:
        return passing(rule.filter, items)
    named = set(rule.items)
    return np.fromiter((item_id in named for item_id in items.item_ids), bool, len(items))


def weighted(scores: Scores, weights: Sequence[Rule], about: Sequence[NDArray[np.bool_]]) -> Scores:
    """*scores* (n,) after *weights*, each applied to the items that its mask in *about* (n,) selects."""
    found = scores.astype(np.float64)
    for rule, mine in zip(weights, about, strict=True):
        factor = rule.factor or 1.0
        found[mine] = np.where(found[mine] < 0, found[mine] / factor, found[mine] * factor)
    return found


def together(found: Sequence[Candidates]) -> Candidates:
    """All of *found* without duplicates, in the order of first occurrence."""
    if len(found) == 1:
        return found[0]
    ids = [item_id for picked in found for item_id in picked.item_ids]
    first = sorted({item_id: at for at, item_id in reversed(list(enumerate(ids)))}.values())
    printed = [each for picked in found for each in picked.printed]
    scores = np.concatenate([picked.scores for picked in found])
    return Candidates([ids[at] for at in first], [printed[at] for at in first], scores[first])


@dataclass(frozen=True, slots=True)
class PinPosition:
    """A pinned item and its place, counted from 0."""

    at: int
    item_id: str
    rule_id: str


def pin_positions(
    pins: Sequence[Rule], best_of: Mapping[str, Sequence[str]], allowed: Container[str], k: int
) -> list[PinPosition]:
    """The places of pinned items in an answer of *k*: only *allowed* items, each once, none beyond the end.

    A pin of items puts them one after the other and skips those that are not allowed. A pin with a filter puts the
    first free item of *best_of*, by rule id. An item whose place is taken gets the next free one.
    """
    taken: dict[int, PinPosition] = {}
    pinned: set[str] = set()
    for pin in pins:
        at = (pin.position or 1) - 1
        named = pin.items or best_of.get(pin.rule_id, ())
        for item_id in [each for each in named if each in allowed and each not in pinned][: len(pin.items) or 1]:
            while at in taken:
                at += 1
            if at >= k:
                break
            taken[at] = PinPosition(at, item_id, pin.rule_id)
            pinned.add(item_id)
    return [taken[at] for at in sorted(taken)]


def with_pins(others: Sequence[str], pinned: Sequence[PinPosition], k: int) -> list[str]:
    """The answer's *k* ids: pins at their places, *others* around them in their order; no gaps if *others* are few."""
    rest = iter([item_id for item_id in others if item_id not in {place.item_id for place in pinned}])
    found: list[str] = []
    for place in pinned:
        found += islice(rest, place.at - len(found))
        found.append(place.item_id)
    return [*found, *rest][:k]
