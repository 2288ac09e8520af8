"""Profiles: a shop's data about a user, apart from events, as in the topic ``users`` (version 1).

The key is the user's id; a null value deletes the profile. Country, device, referrer and interests are signals
(nearline/signals.py) and become the oldest part of the user's context; ``attributes`` are stored and shown, but no
tower reads them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import orjson

from nearline.errors import BadInput
from nearline.events import check_version, load_object, refuse_unknown
from nearline.items import Attribute
from nearline.signals import MAX_INTERESTS, MAX_LETTERS, Context

MAX_PROFILE_BYTES = 64 * 1024
MAX_ATTRIBUTES = 100


@dataclass(frozen=True, slots=True)
class Profile:
    """One valid profile; the record's key is its user. Empty fields were not given."""

    country: str = ""
    device: str = ""
    referrer: str = ""
    interests: tuple[str, ...] = ()
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    @property
    def context(self) -> Context:
        """Its signals, in the form of an event's kept context; empty if it has none."""
        told = {"country": self.country, "device": self.device, "referrer": self.referrer}
        several = {"interests": list(self.interests)} if self.interests else {}
        return {name: value for name, value in told.items() if value} | several


_FIELDS = frozenset({"v", *(f.name for f in fields(Profile))})


def encode_profile(profile: Profile) -> bytes:
    """The profile as producers write it; empty fields are left out."""
    attributes = {"attributes": profile.attributes} if profile.attributes else {}
    return orjson.dumps({"v": 1, **profile.context, **attributes})


def decode_profile(raw: bytes) -> Profile:
    """The profile in *raw*; ``BadInput`` with the reason if it is invalid. (A null value is a deletion.)"""
    return profile_of(load_object(raw, MAX_PROFILE_BYTES))


def profile_of(body: Mapping[str, Any]) -> Profile:
    """The profile in the JSON object *body*; ``BadInput`` with field and reason if it is invalid.

    An event's invalid context is dropped to keep the event; a profile is refused instead.
    """
    if not body.keys() <= _FIELDS:
        refuse_unknown(body, _FIELDS, hint="put your own fields under 'attributes'")
    check_version(body)
    return Profile(
        country=_text("country", body.get("country")),
        device=_text("device", body.get("device")),
        referrer=_text("referrer", body.get("referrer")),
        interests=_interests(body.get("interests")),
        attributes=_attributes(body.get("attributes")),
    )


def _text(name: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        came = f"{type(value).__name__}: {value!r:.80}"
        raise BadInput("wrong_type", f"{name} must be a string, came {came}", field=name)
    if len(value.strip()) > MAX_LETTERS:
        most = f"at most {MAX_LETTERS} are accepted"
        raise BadInput("too_large", f"{name} has {len(value.strip()):,} characters; {most}", field=name)
    return value.strip()


def _interests(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        came = f"{type(value).__name__}: {value!r:.80}"
        raise BadInput("wrong_type", f"interests must be a list of strings, came {came}", field="interests")
    texts = tuple(dict.fromkeys(_interest(each) for each in value))
    if len(texts) > MAX_INTERESTS:
        most = f"at most {MAX_INTERESTS} are read"
        raise BadInput("too_many", f"interests has {len(texts):,} entries; {most}", field="interests")
    return texts


def _interest(value: object) -> str:
    text = _text("interests", value)
    if not text:
        raise BadInput(
            "wrong_type", f"an interest must be a string that is not blank, came {value!r}", field="interests"
        )
    return text


def _attributes(value: object) -> Mapping[str, Attribute]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_ATTRIBUTES:
        expected = f"attributes must be an object of at most {MAX_ATTRIBUTES}"
        raise BadInput("wrong_type", f"{expected}, came {value!r:.80}", field="attributes")
    for name, attribute in value.items():
        if not isinstance(attribute, str | int | float) or not math.isfinite(_number(attribute)):
            expected = f"attribute {name!r:.80} must be a finite number, string or bool"
            raise BadInput("wrong_type", f"{expected}, came {attribute!r:.80}", field="attributes")
    return value


def _number(attribute: str | float) -> float:
    return attribute if isinstance(attribute, float) else 0.0
