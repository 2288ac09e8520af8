"""Signals: the declaration of what the towers read of items and users.

To add a signal, add its line to ``ITEM_SIGNALS`` or ``USER_SIGNALS`` with ``since`` one above ``VERSION``, raise
``VERSION`` to it, and add a test of its output. A tower keeps the declaration that it was trained with
(``Features.declaration``); ``served_signals`` decides whether this build can serve it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from nearline.errors import Misconfigured

VERSION = 2  # of the declaration: raise it with every change of a list below, or of a rule of nearline/features.py


class Kind(StrEnum):
    """How a signal becomes numbers, and what replaces a missing one."""

    ID = "id"  # the id's own hash, in the first slot; never missing
    TEXT = "text"  # words and pairs of neighbouring words, hashed; missing: no token
    WORDS = "words"  # words alone, hashed; missing: no token
    TRIGRAMS = "trigrams"  # the letters of the words, three by three, hashed; missing: no token
    CATEGORY = "category"  # the whole value, hashed; missing: no token
    CATEGORIES = "categories"  # each of several values, hashed; missing: no token
    ATTRIBUTES = (
        "attributes"  # name and value of each attribute, hashed; a number by its power of two; missing: no token
    )
    NUMBER = "number"  # log(1 + value), and 1 for present; missing: 0 and 0
    EVENTS = "events"  # the last events: item vector, age, type; missing: all masked


@dataclass(frozen=True, slots=True)
class Signal:
    """One input of a tower: at most *most* tokens *of* an item's field or a context's key.

    A tower is never served without a *required* signal; any other signal may be unknown to the tower, or gone from
    this build, and counts as missing. *since* is the declaration's version that added it.
    """

    name: str
    kind: Kind
    of: str
    most: int = 1
    required: bool = False
    since: int = 1


# In the order in which they fill an item's slots: the last ones are cut first.
ITEM_SIGNALS: tuple[Signal, ...] = (
    Signal("item_id", Kind.ID, "item_id", required=True),
    Signal("category", Kind.CATEGORY, "category"),
    Signal("brand", Kind.CATEGORY, "brand"),
    Signal("locale", Kind.CATEGORY, "locale", since=2),
    Signal("title", Kind.TEXT, "title", most=12, required=True),
    Signal("attributes", Kind.ATTRIBUTES, "attributes", most=10, since=2),
    Signal("description", Kind.WORDS, "description", most=12),
    Signal("title_trigrams", Kind.TRIGRAMS, "title", most=12),
    Signal("price", Kind.NUMBER, "price"),
)

# The newest value of each key counts; an event may have any of them under ``context``.
USER_SIGNALS: tuple[Signal, ...] = (
    Signal("events", Kind.EVENTS, "events", required=True),
    Signal("country", Kind.CATEGORY, "country", since=2),
    Signal("device", Kind.CATEGORY, "device", since=2),
    Signal("referrer", Kind.CATEGORY, "referrer", since=2),
    Signal("interests", Kind.CATEGORIES, "interests", most=5, since=2),
)

CONTEXT_KEYS: tuple[str, ...] = tuple(signal.of for signal in USER_SIGNALS if signal.kind is not Kind.EVENTS)
MAX_LETTERS = 64  # per value of the context
_SEVERAL = frozenset(signal.of for signal in USER_SIGNALS if signal.kind is Kind.CATEGORIES)
_MOST = {signal.of: signal.most for signal in USER_SIGNALS}
MAX_INTERESTS = _MOST["interests"]

Context = Mapping[str, Any]


def kept_context(context: Context) -> Context | None:
    """The declared signals in an event's free *context*; ``None`` if there are none.

    Values that are not text (for ``interests``: not a list of texts) are left out, long ones cut: a context may hold
    anything, and an unusual one must not invalidate the event.
    """
    if not context:
        return None
    found = {
        key: _several(key, context[key]) if key in _SEVERAL else _one(context[key])
        for key in CONTEXT_KEYS & context.keys()
    }
    return {key: found[key] for key in CONTEXT_KEYS if found.get(key)} or None


def _one(value: object) -> str:
    return value.strip()[:MAX_LETTERS] if isinstance(value, str) else ""


def _several(key: str, value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return list(dict.fromkeys(filter(None, map(_one, values))))[: _MOST[key]]


def newest_context(contexts: Sequence[Context | None]) -> Context:
    """The newest value of each declared key in *contexts*, which run oldest first."""
    merged: dict[str, Any] = {}
    for context in filter(None, contexts):
        merged |= context
    return merged


def as_plain(signals: Iterable[Signal]) -> list[dict[str, Any]]:
    """The signals as plain data for JSON."""
    return [{**asdict(signal), "kind": str(signal.kind)} for signal in signals]


def served_signals(
    tower: str, trained: Sequence[Mapping[str, Any]], built: Sequence[Signal], *, trained_version: int
) -> tuple[Signal, ...]:
    """The signals that a build with *built* gives to a tower trained with *trained*, in the tower's order.

    ``Misconfigured``, with both versions, if a required signal is missing on either side or a signal differs from the
    tower's. A new optional signal is left out; a removed optional one keeps its place and is missing for every item
    and user.
    """
    have = {signal.name: signal for signal in built}
    known = {str(plain["name"]): plain for plain in trained}
    both = f"the {tower} was trained with version {trained_version} of the features, this build has version {VERSION}"
    for name, plain in known.items():
        if name not in have and plain["required"]:
            raise Misconfigured(f"{both}: it requires the signal {name!r}, which this build lacks; {_MEND}")
        if name in have and _without_since(as_plain([have[name]])[0]) != _without_since(plain):
            raise Misconfigured(
                f"{both}: the signal {name!r} is {plain} there and {as_plain([have[name]])[0]} here; {_MEND}"
            )
    for signal in built:
        if signal.required and signal.name not in known:
            raise Misconfigured(
                f"{both}: this build requires the signal {signal.name!r}, which the tower lacks; {_MEND}"
            )
    return tuple(have[name] if name in have else _gone(plain) for name, plain in known.items())


def _gone(plain: Mapping[str, Any]) -> Signal:
    """A signal that this build no longer computes."""
    return Signal(**{**plain, "kind": Kind(plain["kind"])})


_MEND = "serve it with the build that it was trained with, or train the towers again (make train)"


def _without_since(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in plain.items() if name not in ("since", "required")}
