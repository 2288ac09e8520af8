"""What the rules in force do to an answer, as functions of its candidates.

Hard drops come first: what is blocked is not looked for at all, by a filter joined to the request's own. Boosts and
buries then weigh scores: a factor multiplies a score, and divides a negative one, so that a boost raises and a bury
lowers whatever the score is of. Pins come last, and only those whose items the hard drops let through.
"""

from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from nearline.filters import Filter, narrowed
from nearline.hashing import hash64_all
from nearline.rules import Action, Rule, Scenario
from nearline.user_documents import Hashes
from services.retrieval.item_index import Picked

Touched = Mapping[str, tuple[str, ...]]  # item id -> ids of the rules that touched it
_KEPT = 256  # filters of requests whose joining with the blocks is remembered
_NOTHING: Hashes = np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True)
class Standing:
    """The rules that hold for an answer, made ready once for all answers until one of them changes or a window ends."""

    scenario: Scenario | None = None
    blocks: tuple[Rule, ...] = ()
    weights: tuple[Rule, ...] = ()  # boosts and buries
    pins: tuple[Rule, ...] = ()  # by position
    refused: tuple[Filter, ...] = ()  # what passes one of these is blocked
    refused_items: Hashes = field(default_factory=lambda: _NOTHING)  # so are these, sorted
    _joined: dict[str, Filter | None] = field(default_factory=dict, compare=False, repr=False)

    def narrowed(self, wanted: Filter | None) -> Filter | None:
        """What passes *wanted* and is not blocked by a filter; ``None`` if everything does."""
        if not self.refused:
            return wanted
        key = "" if wanted is None else wanted.key
        if key not in self._joined:
            if len(self._joined) == _KEPT:
                self._joined.clear()
            self._joined[key] = narrowed(wanted, without=self.refused)
        return self._joined[key]

    def excluded(self, excluded: Hashes) -> Hashes:
        """*excluded* and what is blocked by its id, sorted."""
        return union(excluded, self.refused_items)

    @property
    def places(self) -> int:
        """How many places pins may take at most."""
        return sum(max(1, len(pin.items)) for pin in self.pins)


NO_RULES = Standing()


def union(one: Hashes, other: Hashes) -> Hashes:
    """The sorted hashes that are in either; no copy when one of the two is empty."""
    if not len(other):
        return one
    return np.union1d(one, other) if len(one) else other


def standing_of(rules: Sequence[Rule], scenario: Scenario | None) -> Standing:
    """*rules*, all of which hold, made ready; of two pins of one position the one with the lesser id comes first."""
    blocks = [rule for rule in rules if rule.action is Action.BLOCK]
    pins = [rule for rule in rules if rule.action is Action.PIN]
    named = list({item_id for rule in blocks for item_id in rule.items})
    return Standing(
        scenario,
        tuple(blocks),
        tuple(rule for rule in rules if rule.action in (Action.BOOST, Action.BURY)),
        tuple(sorted(pins, key=lambda pin: (pin.position, pin.rule_id))),
        tuple(rule.filter for rule in blocks if rule.filter is not None),
        np.sort(hash64_all(named)),
    )


# Of whatever an answer takes candidates from: the best that pass a filter, less some hashes; the best of some items.
Fetch = Callable[[Filter | None, Hashes], Awaitable[Picked]]
FetchItems = Callable[[Sequence[str], Filter | None], Awaitable[Picked]]
Passing = Callable[[Filter, Picked], NDArray[np.bool_]]


async def weighed(
    weights: Sequence[Rule], most: int, wanted: Filter | None, fetch: Fetch, fetch_items: FetchItems, passing: Passing
) -> tuple[Picked, Touched]:
    """The *most* candidates that are best once *weights* weigh, by weighed score, and which rule touched which.

    Beside the best by plain score it looks at the best of what each boost names, and, if something buried is among the
    best, at the best of what is not. That finds the true ones unless several rules touch one item.
    """
    found = [await fetch(wanted, _NOTHING)]
    for rule in weights:
        if rule.action is Action.BOOST:
            found.append(await _of_rule(rule, wanted, fetch, fetch_items))
    buries = [rule for rule in weights if rule.action is Action.BURY]
    if any(touches(rule, found[0], passing).any() for rule in buries):
        found.append(await _beside(buries, wanted, fetch))
    pool = together(found)
    masks = [touches(rule, pool, passing) for rule in weights]
    return weigh(pool, weights, masks, most)


async def _of_rule(rule: Rule, wanted: Filter | None, fetch: Fetch, fetch_items: FetchItems) -> Picked:
    if rule.filter is None:
        return await fetch_items(rule.items, wanted)
    return await fetch(narrowed(wanted, to=rule.filter), _NOTHING)


async def _beside(buries: Sequence[Rule], wanted: Filter | None, fetch: Fetch) -> Picked:
    """The best of what none of *buries* is about."""
    without = [rule.filter for rule in buries if rule.filter is not None]
    named = np.sort(hash64_all([item_id for rule in buries for item_id in rule.items]))
    return await fetch(narrowed(wanted, without=without), named)


def touches(rule: Rule, picked: Picked, passing: Passing) -> NDArray[np.bool_]:
    """Which of *picked* the rule is about, in their order."""
    if rule.filter is not None:
        return passing(rule.filter, picked)
    named = set(rule.items)
    return np.fromiter((item_id in named for item_id in picked.item_ids), bool, len(picked))


def together(found: Sequence[Picked]) -> Picked:
    """All of *found*, each item once, in no promised order."""
    if len(found) == 1:
        return found[0]
    ids = [item_id for picked in found for item_id in picked.item_ids]
    first = list({item_id: at for at, item_id in reversed(list(enumerate(ids)))}.values())
    printed = [each for picked in found for each in picked.printed]
    scores = np.concatenate([picked.scores for picked in found])
    return Picked([ids[at] for at in first], [printed[at] for at in first], scores[first])


def weigh(
    pool: Picked, weights: Sequence[Rule], masks: Sequence[NDArray[np.bool_]], most: int
) -> tuple[Picked, Touched]:
    """The *most* best of *pool* after each of *weights* weighed what its mask says; the scores are the weighed ones.

    Equal scores keep the order of *pool*.
    """
    scores = pool.scores.astype(np.float64)
    for rule, mask in zip(weights, masks, strict=True):
        factor = rule.factor or 1.0
        scores[mask] = np.where(scores[mask] < 0, scores[mask] / factor, scores[mask] * factor)
    order = (-scores).argsort(kind="stable")[:most].tolist()
    touched = {
        pool.item_ids[at]: names
        for at in order
        if (names := tuple(rule.rule_id for rule, mask in zip(weights, masks, strict=True) if mask[at]))
    }
    ids, printed = pool.item_ids, pool.printed
    return Picked([ids[at] for at in order], [printed[at] for at in order], scores[order]), touched


@dataclass(frozen=True, slots=True)
class Place:
    """An item that a pin puts at a place, counted from 0."""

    at: int
    item_id: str
    rule_id: str


def places(pins: Sequence[Rule], best_of: Mapping[str, str], allowed: Container[str], k: int) -> list[Place]:
    """Where *pins* put which items of an answer of *k*: only *allowed* ones, each once, none beyond the answer's end.

    *best_of* has, by rule, the best item for a pin that names a filter. What one pin names comes one after the other;
    an item that is not allowed leaves its place to the next. A place that is taken pushes to the next free one.
    """
    taken: dict[int, Place] = {}
    pinned: set[str] = set()
    for pin in pins:
        named = pin.items or [item_id for item_id in [best_of.get(pin.rule_id)] if item_id is not None]
        at = (pin.position or 1) - 1
        for item_id in named:
            if item_id not in allowed or item_id in pinned:
                continue
            while at in taken:
                at += 1
            if at >= k:
                break
            taken[at] = Place(at, item_id, pin.rule_id)
            pinned.add(item_id)
    return [taken[at] for at in sorted(taken)]


def merged(others: Sequence[str], pinned: Sequence[Place], k: int) -> list[str]:
    """The answer's *k* ids: each pin at its place, *others* around them in their order; no gaps when they are few."""
    rest = iter([item_id for item_id in others if item_id not in {place.item_id for place in pinned}])
    found: list[str] = []
    for place in pinned:
        found += islice(rest, place.at - len(found))
        found.append(place.item_id)
    return [*found, *rest][:k]
