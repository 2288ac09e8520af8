"""Merchandising rules of a shop, as in the compacted topic ``rules`` (version 1).

A rule blocks, boosts, buries or pins items, named by ids or by a filter, always or within a time window. A scenario
bundles parameters and rules under a name that a request gives. A rule's key is its id, a scenario's is
``scenario:<name>``; an empty value deletes.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import orjson

from nearline.errors import BadInput
from nearline.events import check_version, load_object
from nearline.filters import Filter, parse
from nearline.ids import check_id

MAX_BYTES = 256 * 1024
MAX_ITEMS = 1_000  # ids in one rule
MAX_PINS = 50  # items in one pin
MAX_K = 500
MAX_FACTOR = 1_000.0
SCENARIO_PREFIX = "scenario:"


class Action(StrEnum):
    """What a rule does with its items."""

    BLOCK = "block"  # not in any answer
    BOOST = "boost"  # raise their scores
    BURY = "bury"  # lower their scores
    PIN = "pin"  # put them at a fixed position


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, for *items* or for the items that pass *filter*.

    A pin with items puts them, in order, at *position* (the first is 1) and the positions after it; one with a filter
    puts the best matching item there. A rule with a *scenario* applies only in it, and in scenarios that list the rule.
    """

    rule_id: str
    action: Action
    filter: Filter | None = None
    items: tuple[str, ...] = ()
    position: int | None = None  # of a pin
    factor: float | None = None  # of a boost (above 1) or of a bury (below 1)
    from_ms: int | None = None
    until_ms: int | None = None  # exclusive
    scenario: str | None = None

    def holds_at(self, now_ms: int) -> bool:
        """Whether *now_ms* is within its time window."""
        return (self.from_ms is None or self.from_ms <= now_ms) and (self.until_ms is None or now_ms < self.until_ms)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Default parameters for requests that name it, and additional rules that apply to them."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[str, ...] = ()


_RULE_FIELDS = frozenset({"v", *(f.name for f in fields(Rule))})
_SCENARIO_FIELDS = frozenset({"v", "scenario", "parameters", "rules"})
_SPECIAL = {"position": (Action.PIN,), "factor": (Action.BOOST, Action.BURY)}


def rule_key(rule_id: str) -> bytes:
    """The key of a rule in the topic."""
    return rule_id.encode()


def scenario_key(name: str) -> bytes:
    """The key of a scenario in the topic."""
    return f"{SCENARIO_PREFIX}{name}".encode()


def encode_rule(rule: Rule) -> bytes:
    """The record of *rule*; absent fields are left out."""
    body: dict[str, Any] = {"v": 1}
    for f in fields(Rule):
        value = getattr(rule, f.name)
        if value not in (None, ()):
            body[f.name] = value.expression if isinstance(value, Filter) else value
    return orjson.dumps(body)


def encode_scenario(scenario: Scenario) -> bytes:
    """The record of *scenario*."""
    body = {"v": 1, "scenario": scenario.name, "parameters": dict(scenario.parameters), "rules": scenario.rules}
    return orjson.dumps(body)


def decode(key: str, raw: bytes) -> Rule | Scenario:
    """The rule or scenario in *raw*; ``BadInput`` if it is neither, or its id does not match *key*."""
    body = load_object(raw, MAX_BYTES)
    check_version(body)
    found: Rule | Scenario = scenario_of(body) if key.startswith(SCENARIO_PREFIX) else rule_of(body)
    named = found.rule_id if isinstance(found, Rule) else SCENARIO_PREFIX + found.name
    if named != key:
        raise BadInput("bad_key", f"the record of {key!r:.80} holds {named!r:.80}")
    return found


def rule_of(body: Mapping[str, Any]) -> Rule:
    """The rule in *body*, with or without a version; ``BadInput`` names the field and what is expected."""
    _known("rule", body, _RULE_FIELDS)
    for name in ("rule_id", "action"):
        if name not in body:
            raise BadInput("missing_field", f"a rule needs {name!r}; came {', '.join(map(repr, sorted(body)))}"[:400])
    rule = Rule(
        rule_id=_rule_id(body["rule_id"]),
        action=_action(body["action"]),
        filter=_filter("filter", body.get("filter")),
        items=_ids("items", body.get("items"), MAX_ITEMS),
        position=_integer("position", body.get("position"), 1, MAX_K),
        factor=_number("factor", body.get("factor"), 0.0, MAX_FACTOR),
        from_ms=_integer("from_ms", body.get("from_ms"), 0),
        until_ms=_integer("until_ms", body.get("until_ms"), 0),
        scenario=None if body.get("scenario") is None else _name(body["scenario"]),
    )
    _check(rule)
    return rule


def _check(rule: Rule) -> None:
    """Refuse a rule whose fields contradict each other."""
    if (rule.filter is None) == (not rule.items):
        raise BadInput("no_items", "a rule needs either 'filter' or 'items'")
    for name, actions in _SPECIAL.items():
        given = getattr(rule, name) is not None
        if given != (rule.action in actions):
            what = f"only {' and '.join(actions)} have" if given else f"{rule.action} needs"
            raise BadInput("wrong_field", f"{what} {name!r}")
    if rule.factor is not None and (rule.factor <= 1.0) is (rule.action is Action.BOOST):
        side = "above 1" if rule.action is Action.BOOST else "between 0 and 1"
        raise BadInput("out_of_range", f"the factor of a {rule.action} is {side}, came {rule.factor:g}")
    if rule.action is Action.BURY and not rule.factor:
        raise BadInput("out_of_range", "the factor of a bury is above 0; to exclude items, block them")
    if rule.action is Action.PIN and len(rule.items) > MAX_PINS:
        raise BadInput("too_large", f"a pin has at most {MAX_PINS} items, came {len(rule.items):,}")
    if rule.from_ms is not None and rule.until_ms is not None and rule.until_ms <= rule.from_ms:
        raise BadInput("empty_window", f"until_ms {rule.until_ms} is not after from_ms {rule.from_ms}")


def scenario_of(body: Mapping[str, Any]) -> Scenario:
    """The scenario in *body*, with or without a version; ``BadInput`` names the field and what is expected."""
    _known("scenario", body, _SCENARIO_FIELDS)
    if "scenario" not in body:
        raise BadInput("missing_field", f"a scenario needs its name under 'scenario'; came {sorted(body)}"[:400])
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise BadInput("wrong_type", f"parameters must be an object, came {parameters!r:.80}")
    _known("parameter", parameters, frozenset(PARAMETERS))
    checked = {name: PARAMETERS[name](f"parameters.{name}", value) for name, value in parameters.items()}
    name = _name(body["scenario"])
    return Scenario(name, MappingProxyType(checked), _ids("rules", body.get("rules"), MAX_ITEMS))


def _known(what: str, body: Mapping[str, Any], known: frozenset[str]) -> None:
    """Refuse an unknown field: typos are not stored."""
    for name in body:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            guess = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known - {'v'}))}"
            raise BadInput("unknown_field", f"a {what} has no {name!r:.80}; {guess}")


def _rule_id(value: object) -> str:
    rule_id = check_id("rule_id", value)
    if rule_id.startswith(SCENARIO_PREFIX):
        raise BadInput("bad_id", f"a rule_id must not begin with {SCENARIO_PREFIX!r}, came {rule_id!r:.80}")
    return rule_id


def _name(value: object) -> str:
    name = check_id("scenario", value)
    check_id("scenario", SCENARIO_PREFIX + name)
    return name


def _action(value: object) -> Action:
    if not isinstance(value, str) or value not in set(Action):
        near = difflib.get_close_matches(str(value), list(Action), n=1)
        guess = f"; did you mean {str(near[0])!r}?" if near else ""
        raise BadInput("unknown_action", f"action must be one of {', '.join(Action)}, came {value!r:.80}{guess}")
    return Action(value)


def _filter(name: str, value: object) -> Filter | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadInput("wrong_type", f"{name} must be an expression in a string, came {value!r:.80}")
    return parse(value, is_stored=True)


def _ids(name: str, value: object, most: int) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise BadInput("wrong_type", f"{name} must be a list of ids, came {value!r:.80}")
    if len(value) > most:
        raise BadInput("too_large", f"{name} has {len(value):,} ids; at most {most:,} are accepted")
    return tuple(dict.fromkeys(check_id(f"{name}[{at}]", one) for at, one in enumerate(value)))


def _integer(name: str, value: object, least: int, most: int | None = None) -> int | None:
    if value is None:
        return None
    if type(value) is not int or value < least or (most is not None and value > most):
        limits = f"from {least}" + ("" if most is None else f" to {most}")
        raise BadInput("out_of_range", f"{name} must be an integer {limits}, came {value!r:.80}")
    return value


def _number(name: str, value: object, least: float, most: float) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value) or not least <= value <= most:  # type: ignore[arg-type,operator]
        raise BadInput("out_of_range", f"{name} must be a number from {least:g} to {most:g}, came {value!r:.80}")
    return float(value)  # type: ignore[arg-type]


def _share(name: str, value: object) -> object:
    return _number(name, value, 0.0, 1.0)


def _expression(name: str, value: object) -> object:
    wanted = _filter(name, value)
    return None if wanted is None else wanted.expression


def _one_of(*words: str) -> Callable[[str, object], object]:
    def check(name: str, value: object) -> object:
        if value not in words:
            raise BadInput("out_of_range", f"{name} must be one of {', '.join(words)}, came {value!r:.80}")
        return value

    return check


# The parameters that a scenario may give; a test compares them with the request's declaration.
PARAMETERS: Mapping[str, Callable[[str, object], object]] = {
    "k": lambda name, value: _integer(name, value, 1, MAX_K),
    "filter": _expression,
    "exclude_seen": _one_of("all", "purchase", "none"),
    "diversity": _share,
    "popularity_discount": _share,
    "max_per_category": lambda name, value: _integer(name, value, 1, MAX_K),
    "explore": _share,
}
