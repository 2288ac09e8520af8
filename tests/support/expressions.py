"""Filters beside what they mean, item by item and without columns: the second opinion on their answers."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st

Fields = Mapping[str, Any]  # as Shown's, as a dict
Meaning = tuple[str, Callable[[Fields], bool]]  # an expression, and whether an item passes it

NAMES = ("colour", "size", "two words", "a.b", 'in "quotes"', "not", "Ünï")
TEXTS = ("", "a", "A", "b c", 'q"uo\\te')
NUMBERS = (0, 1, 1.0, -2.5, 20, 1e12)
VALUES = st.sampled_from(TEXTS) | st.sampled_from(NUMBERS) | st.booleans()
SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}

FIELDS = st.fixed_dictionaries(
    {
        "category": st.sampled_from(TEXTS),
        "locale": st.sampled_from(TEXTS),
        "brand": st.sampled_from(TEXTS),
        "price": st.none() | st.sampled_from([0.0, 1.0, 20.0, 1e12]),
        "listed_ms": st.none() | st.integers(1, 3),
        "attributes": st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4),
    }
)


def written(value: Any) -> str:
    """*value* as the language writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def of(name: str) -> tuple[str, Callable[[Fields], Any]]:
    """An attribute's name as the language writes it, and how to read it."""
    plain = name.isidentifier() and name.isascii()
    return f"attributes.{name if plain else written(name)}", lambda item: item["attributes"].get(name)


def kind(value: Any) -> str:
    if isinstance(value, bool):
        return "truth"
    return "text" if isinstance(value, str) else "number"


def equal(one: Any, other: Any) -> bool:
    return one is not None and kind(one) == kind(other) and one == other


def is_under(value: Any, sign: str, bound: float) -> bool:
    return value is not None and kind(value) == "number" and bool(SIGNS[sign](value, bound))


FIELD = st.sampled_from(["category", "locale", "brand"]).map(
    lambda name: (name, lambda item: item[name], st.sampled_from(TEXTS))
)
AMOUNT = st.sampled_from(["price", "listed_ms"]).map(
    lambda name: (name, lambda item: item[name], st.sampled_from(NUMBERS))
)
ATTRIBUTE = st.sampled_from(NAMES).map(lambda name: (*of(name), VALUES))


@st.composite
def comparisons(draw: st.DrawFn) -> Meaning:
    """One comparison of one field."""
    name, read, values = draw(FIELD | AMOUNT | ATTRIBUTE | ATTRIBUTE)
    kinds = ["=", "!=", "in", "not in", "is missing", "is not missing"]
    how = draw(st.sampled_from(kinds + list(SIGNS) if name not in ("category", "locale", "brand") else kinds))
    if how in SIGNS:
        bound = draw(st.sampled_from(NUMBERS))
        return f"{name} {how} {bound!r}", lambda item: is_under(read(item), how, bound)
    if how in ("=", "!="):
        value = draw(values)
        return f"{name} {how} {written(value)}", lambda item: equal(read(item), value) == (how == "=")
    if how in ("in", "not in"):
        several = draw(st.lists(values, min_size=1, max_size=4))
        text = f"{name} {how} ({', '.join(map(written, several))})"
        return text, lambda item: any(equal(read(item), value) for value in several) == (how == "in")
    return f"{name} {how}", lambda item: (read(item) is None or read(item) == "") == (how == "is missing")


def _joined(word: str, parts: list[Meaning]) -> Meaning:
    every = all if word == "and" else any
    return f" {word} ".join(f"({text})" for text, _ in parts), lambda item: every(passes(item) for _, passes in parts)


def _negated(part: Meaning) -> Meaning:
    text, passes = part
    return f"not ({text})", lambda item: not passes(item)


FILTERS: st.SearchStrategy[Meaning] = st.recursive(
    comparisons(),
    lambda parts: (
        parts.map(_negated)
        | st.builds(_joined, st.sampled_from(["and", "or"]), st.lists(parts, min_size=2, max_size=3))
    ),
    max_leaves=5,
)
