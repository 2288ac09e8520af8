"""Converts Gorse's users, items and feedback into profiles, items and events; every loss is counted.

Gorse (checked at 5404aef, v0.5.11) exports its data in two forms with the same field names: ``GET /api/dump`` of its
master (nearline/adapters/gorse_dump.py), and JSON lines from ``GET /api/bulk/users|items|feedback``. Labels are any
JSON. Operators choose the types of feedback; there is one feedback per user, item and type.
"""

import hashlib
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nearline.errors import BadInput
from nearline.events import EARLIEST_MS, EVENT_TYPES
from nearline.items import MAX_ATTRIBUTES, MAX_TEXT, MAX_TITLE
from nearline.signals import MAX_INTERESTS, MAX_LETTERS

# Our own names, and those of Gorse's default configuration.
DEFAULT_TYPES = (*(f"{name}={name}" for name in EVENT_TYPES), "read=view", "star=like")
SEVERAL = "|"  # separates several values of an attribute, as training reads them
_RULE = re.compile(r"([^<>=]+)(?:(>=|<=|>|<)(-?\d+(?:\.\d+)?))?=(\w+)")
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_TITLES = ("title", "name")
_SIGNALS = ("country", "device", "referrer")
Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TypeRule:
    """Maps feedback of Gorse's type *name*, if its value compares with *bound* by *sign*, to events of *type*."""

    name: str
    type: str
    sign: str = ""
    bound: float = 0.0

    def fits(self, name: str, value: float) -> bool:
        """Whether the rule applies to feedback of type *name* with *value*."""
        return self.name == name and (not self.sign or _COMPARE[self.sign](value, self.bound))


def type_rules(told: Iterable[str]) -> tuple[TypeRule, ...]:
    """The rules in *told* (``watch=view``, ``rating>=4=like``), then the defaults; ``BadInput`` for a malformed one."""
    return tuple(map(_type_rule, (*told, *DEFAULT_TYPES)))


def _type_rule(text: str) -> TypeRule:
    found = _RULE.fullmatch(text.strip())
    if found is None or found[4] not in EVENT_TYPES:
        expected = f"expected NAME=TYPE or NAME>=NUMBER=TYPE with TYPE one of {', '.join(EVENT_TYPES)}"
        raise BadInput("bad_type_rule", f"{expected}, came {text!r:.80}", field="type")
    name, sign, bound, kind = found.groups()
    return TypeRule(name.strip(), kind, sign or "", float(bound or 0))


@dataclass
class Conversion:
    """Turns Gorse's records into bodies of our API; ``counted`` counts what was left out or changed, by reason."""

    rules: tuple[TypeRule, ...]
    title: str = ""  # the label with an item's title; default: title, name, the comment, the id
    counted: Counter[str] = field(default_factory=Counter)

    def user(self, user: Mapping[str, Any]) -> tuple[str, Body] | None:
        """The id and profile of a user; ``None`` if the profile would be empty: Nearline needs no record for that."""
        labels = user.get("Labels")
        told = dict(labels) if isinstance(labels, dict) else {"interests": labels} if labels else {}
        signals: Body = {name: told.pop(name) for name in _SIGNALS if _is_signal(told.get(name))}
        interests = self._interests(told.pop("interests", None))
        attributes = self._attributes(told, "users' labels")
        self._count("users' comments left out", bool(user.get("Comment")))
        profile = signals | _given(interests=interests, attributes=attributes)
        self._count("users left out: their profiles are empty", not profile)
        return (user["UserId"], profile) if profile else None

    def item(self, item: Mapping[str, Any]) -> Body:
        """The item; of several categories the first is the item's, and all are an attribute."""
        labels = item.get("Labels")
        told = dict(labels) if isinstance(labels, dict) else {"labels": labels} if labels else {}
        comment = item.get("Comment") or ""
        title = self._title(item, told, comment)
        categories = [one for one in item.get("Categories") or [] if one]
        attributes = self._attributes(told, "items' labels")
        if len(categories) > 1:
            attributes = {"categories": SEVERAL.join(categories)} | attributes
            self._count("items with several categories: the first is the category, all are the attribute categories")
        body = {"item_id": item["ItemId"], "title": title[:MAX_TITLE], "available": not item.get("IsHidden", False)}
        return body | _given(
            description=comment[:MAX_TEXT] if comment != title else None,
            category=categories[0][:MAX_TITLE] if categories else None,
            listed_ms=self._listed(item.get("Timestamp")),
            attributes=dict(list(attributes.items())[:MAX_ATTRIBUTES]),
        )

    def event(self, feedback: Mapping[str, Any]) -> Body | None:
        """The event of *feedback*; ``None`` if no rule maps its type, or it has no time.

        Its id is derived from Gorse's key (type, user, item), so that importing it twice changes nothing.
        """
        name, value = str(feedback.get("FeedbackType", "")), float(feedback.get("Value") or 0.0)
        rule = next((rule for rule in self.rules if rule.fits(name, value)), None)
        time_ms = in_ms(feedback.get("Timestamp"))
        if rule is None:
            self._count(f"feedback left out: no --type for {name!r:.60}")
            return None
        if time_ms is None:
            self._count("feedback left out: no time after 1980")
            return None
        self._count("comments or labels of feedback left out", bool(feedback.get("Comment") or feedback.get("Labels")))
        key = (name, feedback["UserId"], feedback["ItemId"])
        return {
            "event_id": "gorse-" + hashlib.sha256("\0".join(map(str, key)).encode()).hexdigest()[:32],
            "user_id": feedback["UserId"],
            "item_id": feedback["ItemId"],
            "type": rule.type,
            "time_ms": time_ms,
            "value": value or 1.0,
        }

    def _title(self, item: Mapping[str, Any], labels: Body, comment: str) -> str:
        for name in (self.title,) if self.title else _TITLES:
            if isinstance(labels.get(name), str) and labels[name].strip():
                return str(labels.pop(name)).strip()
        self._count("items titled by their id: no label or comment has a title", not comment.strip())
        return comment.strip() or str(item["ItemId"])

    def _listed(self, timestamp: object) -> int | None:
        listed_ms = in_ms(timestamp)
        self._count("items without a time after 1980", listed_ms is None)
        return listed_ms

    def _interests(self, told: object) -> list[str]:
        several = told if isinstance(told, list) else [told] if told else []
        texts = list(dict.fromkeys(str(one).strip() for one in several if _is_signal(one)))
        self._count(
            f"users' interests left out: more than {MAX_INTERESTS}, or not a short text", len(texts) < len(several)
        )
        return texts[:MAX_INTERESTS]

    def _attributes(self, labels: Mapping[str, Any], whose: str) -> Body:
        """Labels as attributes: several texts become one, an object's fields get dotted names; vectors are left out."""
        kept: Body = {}
        for name, value in _flat(labels):
            if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
                kept[name] = SEVERAL.join(value)
            elif isinstance(value, str | int | float) and value == value:
                kept[name] = value
            else:
                self._count(f"{whose} left out: {name!r:.60} is not a text, number or boolean", value is not None)
        return kept

    def _count(self, what: str, happened: bool = True) -> None:
        if happened:
            self.counted[what] += 1


def in_ms(timestamp: object) -> int | None:
    """Gorse's time in UTC milliseconds; ``None`` if it is not after 1980, such as Gorse's value for no time."""
    try:
        parsed = datetime.fromisoformat(str(timestamp).strip())
    except ValueError:
        return None
    if parsed.year < 2000:
        return None
    time_ms = round((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)
    return time_ms if time_ms >= EARLIEST_MS else None


def _flat(labels: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in labels.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_signal(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value.strip()) <= MAX_LETTERS


def _given(**values: Any) -> Body:
    return {name: value for name, value in values.items() if value not in (None, [], {})}
