"""Events: validation, and the messages of refusals."""

import json

import orjson
import pytest

from nearline.errors import BadInput
from nearline.events import EVENT_TYPES, MAX_AHEAD_MS, MAX_EVENT_BYTES, Event, decode_event, encode_event

NOW_MS = 1_732_100_000_000
GOOD = {"v": 1, "event_id": "e1", "user_id": "u1", "item_id": "i1", "type": "click", "time_ms": NOW_MS}


def changed(**fields: object) -> bytes:
    return orjson.dumps({**GOOD, **fields})


def without(name: str) -> bytes:
    return orjson.dumps({key: value for key, value in GOOD.items() if key != name})


def test_an_event_comes_back_as_it_was_sent() -> None:
    event = Event("e", "u", "i", "purchase", NOW_MS, 2.5, {"device": "phone"}, NOW_MS, "r", "00-ab", True)
    assert decode_event(encode_event(event), append_ms=NOW_MS) == event


def test_optional_fields_have_defaults() -> None:
    event = decode_event(orjson.dumps(GOOD), append_ms=NOW_MS)
    assert (event.value, event.context, event.synthetic, event.request_id) == (1.0, {}, False, None)


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_every_type_is_accepted(kind: str) -> None:
    assert decode_event(changed(type=kind), append_ms=NOW_MS).type == kind


BAD = [
    (None, "empty", "null or empty"),
    (b"", "empty", "null or empty"),
    (b"\xff\xfe{}", "not_utf8", "byte 0"),
    (b"click", "not_json", "not JSON"),
    (b"[" * 5_000 + b"]" * 5_000, "too_deep", "nested"),
    (b'{"v":1,"value":NaN}', "not_json", "not JSON"),
    (json.dumps({**GOOD, "item_id": "\ud800"}).encode(), "not_json", "surrogate"),
    (b"[1, 2]", "not_an_object", "JSON object"),
    (
        b'{"v":1,"event_id":"e","user_id":"u","item_id":"i","type":"click","time_ms":%d}' % 10**30,
        "wrong_type",
        "integer",
    ),
    (changed(context={"pad": "x" * MAX_EVENT_BYTES}), "too_large", "65,536"),
    *((without(name), "missing_field", repr(name)) for name in GOOD),
    (changed(userid="u"), "unknown_field", "did you mean 'user_id'"),
    (changed(zzz=1), "unknown_field", "under 'context'"),
    (changed(v=2), "unknown_version", "must be 1"),
    (changed(v=True), "unknown_version", "must be 1"),
    (changed(user_id=7), "wrong_type", "user_id must be a string"),
    (changed(user_id=""), "bad_id", "1-128"),
    (changed(user_id="x" * 129), "bad_id", "129"),
    (changed(item_id="a\x07b"), "bad_id", "control"),
    (changed(user_id=".."), "bad_id", "out of a path"),
    (changed(item_id="."), "bad_id", "out of a path"),
    (changed(time_ms="now"), "wrong_type", "integer"),
    (changed(time_ms=1.5), "wrong_type", "integer"),
    (changed(time_ms=True), "wrong_type", "integer"),
    (changed(time_ms=NOW_MS // 1000), "impossible_time", "looks like seconds"),
    (changed(time_ms=300_000_000_000), "impossible_time", "before 1980-01-01; expected"),
    (changed(time_ms=-5), "impossible_time", "before 1980"),
    (changed(type="buy"), "unknown_type", "must be one of"),
    (changed(type=["click"]), "unknown_type", "must be one of"),
    (changed(value="1"), "wrong_type", "value must be a number"),
    (changed(value=1e300), "out_of_range", "±1e12"),
    (changed(context=[]), "wrong_type", "context must be an object"),
    (changed(synthetic="yes"), "wrong_type", "true or false"),
    (changed(request_id=5), "wrong_type", "request_id"),
    (changed(produced_ms="x"), "wrong_type", "produced_ms"),
]


@pytest.mark.parametrize(("raw", "reason", "words"), BAD)
def test_bad_input_is_refused_with_a_reason_that_helps(raw: bytes | None, reason: str, words: str) -> None:
    with pytest.raises(BadInput) as refused:
        decode_event(raw, append_ms=NOW_MS)
    assert refused.value.reason == reason
    assert words in str(refused.value)
    assert len(str(refused.value)) < 1_000


@pytest.mark.parametrize("ahead_ms", [2_001, 180_000, 86_400_000, 999 * NOW_MS])
def test_an_event_that_is_ahead_of_the_log_has_its_append_time(ahead_ms: int) -> None:
    told = orjson.dumps({**GOOD, "time_ms": NOW_MS + ahead_ms, "context": {"device": "phone"}, "value": 2.0})
    assert decode_event(told, append_ms=NOW_MS) == Event(
        "e1", "u1", "i1", "click", NOW_MS, 2.0, context={"device": "phone"}
    )


def test_clocks_that_differ_by_two_seconds_keep_the_order_of_their_events() -> None:
    times = [NOW_MS - 1, NOW_MS, NOW_MS + 1, NOW_MS + MAX_AHEAD_MS]
    assert [decode_event(changed(time_ms=time_ms), append_ms=NOW_MS).time_ms for time_ms in times] == times


def test_ids_may_be_any_language() -> None:
    assert decode_event(changed(user_id="Ωmega-用户-🙂"), append_ms=NOW_MS).user_id == "Ωmega-用户-🙂"


@pytest.mark.parametrize("depth", [300, 990, 1_020, 5_000])
@pytest.mark.parametrize("name", ["type", "user_id", "time_ms", "value", "context"])
def test_an_event_that_is_nested_too_deep_is_invalid_and_no_failure_of_the_job(name: str, depth: int) -> None:
    """Its message would show the value, and to print a value that is nested so deep fails."""
    raw = b'{"v":1,"event_id":"e","user_id":"u","item_id":"i","type":"click","time_ms":1800000000000,"%s":%s%s}'
    with pytest.raises(BadInput) as refused:
        decode_event(raw % (name.encode(), b"[" * depth, b"]" * depth), append_ms=1_800_000_000_000)
    assert refused.value.reason == "too_deep"
