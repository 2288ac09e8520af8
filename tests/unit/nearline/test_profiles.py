"""Profiles: validation."""

from typing import Any

import orjson
import pytest

from nearline.errors import BadInput
from nearline.profiles import MAX_PROFILE_BYTES, Profile, decode_profile, encode_profile, profile_of
from nearline.signals import CONTEXT_KEYS, kept_context

WHOLE = Profile("GB", "phone", "newsletter", ("tea", "lamps"), {"tier": "gold", "orders": 3, "member": True})


def test_a_profile_comes_back_as_it_was_sent() -> None:
    assert decode_profile(encode_profile(WHOLE)) == WHOLE


def test_a_profile_may_say_nothing() -> None:
    assert decode_profile(b'{"v":1}') == Profile()
    assert (encode_profile(Profile()), Profile().context) == (b'{"v":1}', {})


def test_the_towers_read_every_declared_signal_of_it_and_nothing_else() -> None:
    assert WHOLE.context.keys() == set(CONTEXT_KEYS)
    assert kept_context(WHOLE.context) == WHOLE.context


def test_values_are_trimmed_and_interests_stand_once() -> None:
    profile = profile_of({"v": 1, "country": " GB ", "interests": ["tea", " tea", "lamps"]})
    assert (profile.country, profile.interests) == ("GB", ("tea", "lamps"))


@pytest.mark.parametrize(
    ("wrong", "field", "words"),
    [
        ({"contry": "GB"}, "contry", "did you mean 'country'"),
        ({"loyalty": 1}, "loyalty", "under 'attributes'"),
        ({"v": 2}, "v", "must be 1"),
        ({"country": 44}, "country", "must be a string, came int"),
        ({"referrer": "x" * 65}, "referrer", "65 characters; at most 64"),
        ({"interests": "tea"}, "interests", "list of strings, came str"),
        ({"interests": ["tea", 5]}, "interests", "must be a string"),
        ({"interests": ["tea", " "]}, "interests", "not blank"),
        ({"interests": list("abcdef")}, "interests", "6 entries; at most 5"),
        ({"attributes": [1]}, "attributes", "must be an object"),
        ({"attributes": {"tier": None}}, "attributes", "'tier' must be"),
        ({"attributes": {"tier": float("inf")}}, "attributes", "finite"),
        ({"attributes": {str(n): n for n in range(101)}}, "attributes", "at most 100"),
    ],
)
def test_a_bad_profile_is_refused_by_the_name_of_its_field(wrong: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(BadInput) as refused:
        profile_of({"v": 1, **wrong})
    assert refused.value.field == field
    assert words in str(refused.value)


def test_a_profile_has_a_largest_size() -> None:
    with pytest.raises(BadInput, match="bytes; at most"):
        decode_profile(orjson.dumps({"v": 1, "attributes": {"note": "x" * MAX_PROFILE_BYTES}}))
