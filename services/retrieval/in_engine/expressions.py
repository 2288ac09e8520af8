"""Translates filters to an engine's expressions, and items to the columns that these compare.

The engine must select exactly the items that the filter means (docs/filters.md), but engines differ in comparisons with
a missing field, and in whether ``1`` equals ``"1"``. So equality does not depend on the engine: each value, with its
field and type, becomes a *fact*, a hash, and an item passes if it has the fact. ``not`` is only applied to facts; a
negated comparison of numbers becomes the opposite comparison. An expression contains only our own words, numbers and
hashes, never text from a request.
"""

import operator
from collections.abc import Iterator

import orjson

from nearline.filters import (
    ATTRIBUTE,
    NUMBERS,
    TEXTS,
    AllOf,
    AnyOf,
    Compared,
    Filter,
    Missing,
    Node,
    Not,
    Same,
    Value,
)
from nearline.hashing import hash64
from nearline.item_vectors import ItemFields
from nearline.items import Attribute

_SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_PRESENT, _A_NUMBER = "present", "a number"


def facts_of(shown: ItemFields) -> tuple[int, ...]:
    """The item's facts: its values, which fields are present, and which are numbers; hashes below 2**63."""
    return tuple(sorted({fact for name, value in _fields(shown) for fact in _facts(name, value)}))


def numbers_of(shown: ItemFields) -> dict[str, float]:
    """The numeric attributes, under names that need no quotes in an expression."""
    return {_key(ATTRIBUTE + name): float(value) for name, value in shown.attributes.items() if _is_number(value)}


def translate(wanted: Filter | None) -> str:
    """The engine's expression for the filter *wanted*; ``""`` for no filter."""
    return "" if wanted is None else _expression(wanted.node, True)


def both(*expressions: str) -> str:
    """The conjunction of *expressions*; empty ones are ignored."""
    return " and ".join(f"({expression})" for expression in expressions if expression)


def excluding(item_hashes: list[int]) -> str:
    """The expression for all items except those with these hashes (signed, as the engine stores them)."""
    return f"item_hash not in {item_hashes}" if item_hashes else ""


def passes(node: Node, shown: ItemFields) -> bool:
    """Whether an item passes *node*, evaluated here: for the few items that a replica has in memory."""
    match node:
        case Not(part):
            return not passes(part, shown)
        case AllOf(parts):
            return all(passes(part, shown) for part in parts)
        case AnyOf(parts):
            return any(passes(part, shown) for part in parts)
    value = _value(shown, node.name)
    match node:
        case Same(_, values):
            return any(_alike(value, each) for each in values)
        case Missing():
            return value is None or value == ""
        case Compared(_, sign, bound):
            return value is not None and _is_number(value) and _SIGNS[sign](float(value), bound)


def _expression(node: Node, wanted: bool) -> str:
    """*node*, or its opposite unless *wanted*."""
    match node:
        case Not(part):
            return _expression(part, not wanted)
        case AllOf(parts):
            return _joined(parts, "and" if wanted else "or", wanted)
        case AnyOf(parts):
            return _joined(parts, "or" if wanted else "and", wanted)
        case Same(name, values):
            return _has([_fact(name, value) for value in values], wanted)
        case Missing(name):
            return _has([_fact(_PRESENT, name)], not wanted)
        case Compared(name, sign, bound):
            return _compared(name, sign, bound) if wanted else _not_compared(name, sign, bound)


def _joined(parts: tuple[Node, ...], word: str, wanted: bool) -> str:
    return "(" + f" {word} ".join(_expression(part, wanted) for part in parts) + ")"


def _has(facts: list[int], wanted: bool) -> str:
    return f"{'' if wanted else 'not '}array_contains_any(facts, {facts})"


def _compared(name: str, sign: str, bound: float) -> str:
    column = name if name in NUMBERS else f'numbers["{_key(name)}"]'
    return f"{column} {sign} {bound!r}"


def _not_compared(name: str, sign: str, bound: float) -> str:
    kind = _PRESENT if name in NUMBERS else _A_NUMBER
    return f"({_has([_fact(kind, name)], False)} or {_compared(name, _OPPOSITE[sign], bound)})"


def _fields(shown: ItemFields) -> Iterator[tuple[str, Attribute | None]]:
    for name in (*TEXTS, *NUMBERS):
        yield name, getattr(shown, name)
    for name, value in shown.attributes.items():
        yield ATTRIBUTE + name, value


def _facts(name: str, value: Attribute | None) -> Iterator[int]:
    if value is None:
        return
    yield _fact(name, value)
    if value != "":
        yield _fact(_PRESENT, name)
    if _is_number(value):
        yield _fact(_A_NUMBER, name)


def _fact(name: str, value: Value | int) -> int:
    """The hash of *value* in *name*; 1 and 1.0 have the same hash, 1 and true do not."""
    return hash64(orjson.dumps([name, _plain(value)]).decode()) >> 1


def _plain(value: Value | int) -> Value:
    return float(value) + 0.0 if _is_number(value) else value  # + 0.0: there is one zero


def _key(name: str) -> str:
    return f"n{hash64(name):016x}"


def _value(shown: ItemFields, name: str) -> Attribute | None:
    if name.startswith(ATTRIBUTE):
        return shown.attributes.get(name.removeprefix(ATTRIBUTE))
    value: Attribute | None = getattr(shown, name)
    return value


def _alike(value: Attribute | None, other: Value) -> bool:
    if value is None or _is_number(value) != _is_number(other) or isinstance(value, str) != isinstance(other, str):
        return False
    return _plain(value) == other


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
