"""POST /events: accepted events are in Kafka; a refusal gives its reason and affects no other event."""

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nearline.errors import BadInput, Misconfigured
from nearline.events import EARLIEST_MS, EVENT_TYPES, MAX_EVENT_BYTES, Event, decode_event
from nearline.settings import load_settings
from services.ingest.app import bounds_of
from services.ingest.bodies import LEAST, Bounds
from services.ingest.clicks import DEVICE_TIME, AcceptedEvent, RefusedEvent, validate
from services.ingest.schemas import EventIn, EventResults, Problems
from services.ingest.sender_clock import correction_ms
from tests.support.ingest_door import CLICK, LAMP, NOW_MS, Door, in_pieces

pytestmark = pytest.mark.anyio
DAY_MS = 24 * 3600 * 1000


@pytest.fixture
def door() -> Door:
    return Door()


def in_log(door: Door) -> list[Event]:
    return [decode_event(value, append_ms=NOW_MS) for _, value in door.clicks]


async def test_one_event_is_in_the_log_under_its_user_when_it_is_answered(door: Door) -> None:
    answer = await door.send({**CLICK, "event_id": "c-1", "time_ms": NOW_MS - 5, "context": {"device": "phone"}})
    assert answer.status_code == 200
    assert answer.json() == {"accepted": 1, "refused": 0, "results": [{"status": "accepted", "event_id": "c-1"}]}
    (event,) = in_log(door)
    expected = Event("c-1", "u", "i", "click", NOW_MS - 5, context={"device": "phone"}, produced_ms=NOW_MS)
    assert event == expected
    assert door.clicks[0][0] == b"u"


async def test_an_event_on_an_item_that_is_not_listed_is_accepted_and_said(door: Door) -> None:
    await door.item("PUT", "lamp-1", LAMP)
    answer = await door.send([{**CLICK, "event_id": "a", "item_id": "lamp-1"}, {**CLICK, "event_id": "b"}])
    assert answer.status_code == 200
    warning = "item 'i' is not in the catalogue: the event counts for the user's vector once the item is there"
    assert answer.json()["results"] == [
        {"status": "accepted", "event_id": "a"},
        {"status": "accepted", "event_id": "b", "warnings": [warning]},
    ]
    EventResults.model_validate(answer.json())
    assert [event.event_id for event in in_log(door)] == ["a", "b"]


async def test_a_strict_sender_s_event_on_an_item_that_is_not_listed_is_refused(door: Door) -> None:
    await door.item("PUT", "lamp-1", LAMP)
    batch = [{**CLICK, "event_id": "a", "item_id": "lamp-1"}, {**CLICK, "event_id": "b"}]
    answer = await door.ask("POST", "/events?strict=true", batch)
    assert answer.status_code == 207
    refused = answer.json()["results"][1]
    assert (refused["field"], refused["reason"]) == ("item_id", "unknown_item")
    assert "item 'i' is not in the catalogue" in refused["problem"]
    assert [event.event_id for event in in_log(door)] == ["a"]


async def test_without_a_catalogue_no_item_is_called_unknown_but_strict_senders_wait_for_it(door: Door) -> None:
    assert "warnings" not in (await door.send(CLICK)).json()["results"][0]
    assert (await door.ask("POST", "/events?strict=true", CLICK)).status_code == 422
    door.is_read = False
    await door.item("PUT", "lamp-1", LAMP)
    assert "warnings" not in (await door.send(CLICK)).json()["results"][0]
    assert (await door.ask("POST", "/events?strict=true", CLICK)).status_code == 503


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("strict=yes", "strict must be true or false, came 'yes'"),
        ("stict=true", "unknown parameter 'stict'; did you mean 'strict'?"),
    ],
)
async def test_a_wrong_strict_is_refused_and_never_ignored(door: Door, query: str, problem: str) -> None:
    answer = await door.ask("POST", f"/events?{query}", CLICK)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["problem"] == problem
    assert not door.clicks


async def test_missing_ids_and_times_are_filled_in_and_returned(door: Door) -> None:
    results = (await door.send([CLICK, CLICK])).json()["results"]
    events = in_log(door)
    assert [event.event_id for event in events] == [result["event_id"] for result in results]
    assert len({event.event_id for event in events}) == 2
    assert {event.time_ms for event in events} == {NOW_MS}
    assert {event.produced_ms for event in events} == {NOW_MS}


async def test_the_door_says_itself_when_it_produced(door: Door) -> None:
    await door.send({**CLICK, "produced_ms": 5})
    assert in_log(door)[0].produced_ms == NOW_MS


async def test_a_bad_event_never_blocks_its_neighbours(door: Door) -> None:
    batch = [{**CLICK, "event_id": "a"}, {**CLICK, "event_id": "b", "itemid": "i"}, 7, {**CLICK, "event_id": "d"}]
    answer = await door.send(batch)
    assert answer.status_code == 207
    body = answer.json()
    assert (body["accepted"], body["refused"]) == (2, 2)
    assert [(one["status"], one["event_id"]) for one in body["results"]] == [
        ("accepted", "a"),
        ("refused", "b"),
        ("refused", None),
        ("accepted", "d"),
    ]
    assert body["results"][1]["field"] == "itemid"
    assert "did you mean 'item_id'?" in body["results"][1]["problem"]
    assert [event.event_id for event in in_log(door)] == ["a", "d"]
    EventResults.model_validate(body)


async def test_when_every_event_is_refused_so_is_the_request_and_the_log_is_not_asked(door: Door) -> None:
    door.outbox.down = True
    answer = await door.send([{}, {**CLICK, "user_id": ""}])
    assert answer.status_code == 422
    assert answer.json()["accepted"] == 0
    assert door.outbox.calls == []


REFUSALS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"user_id": ""}, "user_id", "bad_id", "1-128 UTF-8 bytes, came 0"),
    ({"user_id": "u" * 129}, "user_id", "bad_id", "came 129"),
    ({"item_id": "é" * 65}, "item_id", "bad_id", "came 130"),
    ({"event_id": None}, "event_id", "wrong_type", "must be a string, came NoneType"),
    ({"event_id": "a\nb"}, "event_id", "bad_id", "control characters"),
    ({"type": "buy"}, "type", "unknown_type", "one of view, click"),
    ({"type": ["click"]}, "type", "unknown_type", "one of view, click"),
    ({"time_ms": "now"}, "time_ms", "wrong_type", "integer of UTC milliseconds"),
    ({"time_ms": NOW_MS // 1000}, "time_ms", "impossible_time", "looks like seconds"),
    ({"value": "1"}, "value", "wrong_type", "must be a number"),
    ({"value": 1e13}, "value", "out_of_range", "within ±1e12"),
    ({"context": []}, "context", "wrong_type", "must be an object"),
    ({"request_id": 5}, "request_id", "wrong_type", "must be a string"),
    ({"synthetic": 1}, "synthetic", "wrong_type", "true or false"),
    ({"v": 2}, "v", "unknown_version", "v must be 1, came 2"),
    ({"usr_id": "u"}, "usr_id", "unknown_field", "did you mean 'user_id'?"),
    ({"shoe_size": 4}, "shoe_size", "unknown_field", "put your own fields under 'context'"),
]


@pytest.mark.parametrize(("change", "field", "reason", "words"), REFUSALS, ids=lambda case: str(case)[:40])
async def test_a_refusal_names_the_field_what_came_and_what_was_expected(
    door: Door, change: dict[str, Any], field: str, reason: str, words: str
) -> None:
    answer = await door.send({**CLICK, **change})
    (result,) = answer.json()["results"]
    assert (answer.status_code, result["field"], result["reason"]) == (422, field, reason)
    assert words in result["problem"]


@pytest.mark.parametrize("name", ["user_id", "item_id", "type"])
async def test_a_missing_required_field_is_named(door: Door, name: str) -> None:
    answer = await door.send({field: value for field, value in CLICK.items() if field != name})
    assert answer.json()["results"][0]["field"] == name
    assert "is missing" in answer.json()["results"][0]["problem"]


async def test_a_context_that_is_too_large_is_refused_here_and_not_by_the_job(door: Door) -> None:
    answer = await door.send([{**CLICK, "context": {"x": "y" * MAX_EVENT_BYTES}}])
    reasons = [result["reason"] for result in answer.json()["results"]]
    assert (answer.status_code, reasons) == (422, ["too_large"])


@pytest.mark.parametrize("depth", [101, 300, 990, 1_020, 5_000])
@pytest.mark.parametrize(
    "target", ["POST /events", "POST /items", "PUT /items/i", "PUT /users/u", "POST /users/u/merge"]
)
async def test_a_body_that_is_nested_too_deep_is_refused_on_every_route(door: Door, target: str, depth: int) -> None:
    method, path = target.split()
    for field in ("type", "context", "user_id", "item_id", "attributes", "events"):
        raw = b'{"user_id":"u","item_id":"i","title":"t","%s":%s%s}' % (field.encode(), b"[" * depth, b"]" * depth)
        answer = await door.ask(method, path, content=raw)
        assert (answer.status_code, answer.json()["detail"][0]["reason"]) == (422, "too_deep")


async def test_a_body_of_many_events_is_not_a_deep_one(door: Door) -> None:
    deep: dict[str, Any] = {}
    for _ in range(95):
        deep = {"d": [], "e": deep}
    assert (await door.send([{**CLICK, "context": deep}] * 50)).status_code == 200


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b"{", "not_json"),
        (b"\xff", "not_utf8"),
        (b'{"user_id": NaN}', "not_json"),
        (b'"click"', "wrong_type"),
        (b"null", "wrong_type"),
        (b"[]", "wrong_count"),
        (b"[" * 100_000, "too_deep"),
        (orjson.dumps([CLICK] * 501), "wrong_count"),
    ],
)
async def test_a_body_that_is_no_event_or_array_of_them_is_refused_whole(door: Door, body: bytes, reason: str) -> None:
    answer = await door.ask("POST", "/events", content=body)
    assert answer.status_code == 422
    assert Problems.model_validate(answer.json()).detail[0].reason == reason
    assert door.clicks == []


async def test_five_hundred_fit_into_one_request(door: Door) -> None:
    assert (await door.send([CLICK] * 500)).json()["accepted"] == 500
    assert len(door.clicks) == 500


async def test_equal_event_ids_are_both_accepted_since_they_are_one_event(door: Door) -> None:
    once = {**CLICK, "event_id": "same", "time_ms": NOW_MS}
    assert (await door.send([once, once])).status_code == 200
    assert (await door.send(once)).status_code == 200
    assert len(set(door.clicks)) == 1


async def test_ids_of_any_script_arrive_as_they_were_sent(door: Door) -> None:
    given = {"event_id": "событие/1", "user_id": "ユーザー 7", "item_id": "🛋 / a?b#c", "type": "like"}
    await door.send(given)
    (event,) = in_log(door)
    assert {name: getattr(event, name) for name in given} == given
    assert door.clicks[0][0] == "ユーザー 7".encode()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the first text takes seconds to set up
@given(
    st.dictionaries(
        st.sampled_from(["v", "event_id", "value", "context", "request_id", "synthetic", "traceparent", "produced_ms"]),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-(2**70), 2**70),
            st.floats(allow_nan=False, allow_infinity=False),
            st.text(max_size=140),
            st.dictionaries(
                st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3)
            ),
        ),
    ),
    st.sampled_from(EVENT_TYPES),
    st.integers(EARLIEST_MS - 10, 2**64 - 1),
    st.integers(-(10**9), 10**9),
    st.integers(-(2**53), 2**53),
)
def test_the_job_accepts_every_event_that_ingest_accepts(
    change: dict[str, Any], kind: str, time_ms: int, log_ahead_ms: int, behind_ms: int
) -> None:
    try:
        body = orjson.loads(orjson.dumps({**CLICK, "type": kind, "time_ms": time_ms, **change}))
    except TypeError:
        return  # no JSON can say this
    (verdict,) = validate([body], now_ms=NOW_MS, shift_ms=correction_ms(NOW_MS, NOW_MS - behind_ms))
    if isinstance(verdict, AcceptedEvent):
        event = decode_event(verdict.value, append_ms=NOW_MS + log_ahead_ms)
        assert (event.event_id, event.user_id.encode()) == (verdict.event_id, verdict.key)


# --- clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind_ms", [-7 * DAY_MS, -180_000, -2_000, 2_000, 240_000, 7 * DAY_MS])
async def test_a_devices_times_are_corrected_by_when_it_says_it_sent_them(door: Door, behind_ms: int) -> None:
    """The events keep their distances, and each the device's own time in its context."""
    happened = [NOW_MS - ago_ms for ago_ms in (5_000, 4_000, 0)]
    batch = [
        {**CLICK, "event_id": f"c-{n}", "time_ms": time_ms - behind_ms, "context": {"device": "phone"}}
        for n, time_ms in enumerate(happened)
    ]
    answer = await door.send(batch, params={"sent_ms": NOW_MS - behind_ms})
    assert answer.status_code == 200
    assert [event.time_ms for event in in_log(door)] == happened
    kept = [{"device": "phone", DEVICE_TIME: body["time_ms"]} for body in batch]
    assert [event.context for event in in_log(door)] == kept


@pytest.mark.parametrize("behind_ms", [-1_999, -500, 0, 300, 1_999])
async def test_a_clock_that_differs_by_less_than_two_seconds_is_not_corrected(door: Door, behind_ms: int) -> None:
    await door.send({**CLICK, "time_ms": NOW_MS - 60_000}, params={"sent_ms": NOW_MS - behind_ms})
    (event,) = in_log(door)
    assert (event.time_ms, event.context) == (NOW_MS - 60_000, {})


def test_a_correction_is_in_whole_seconds_so_that_the_networks_delay_does_not_count() -> None:
    delays_ms = (0, 40, 120, 350)
    assert {correction_ms(NOW_MS + delay_ms, NOW_MS - 180_000) for delay_ms in delays_ms} == {180_000}
    assert {correction_ms(NOW_MS + delay_ms, NOW_MS + 180_000) for delay_ms in delays_ms} == {-180_000}


@pytest.mark.parametrize("behind_ms", [-180_000, 0, 240_000])
async def test_an_event_that_is_sent_again_much_later_has_the_same_time(behind_ms: int) -> None:
    """A retry repeats the request's ``sent_ms`` and says how long it waited."""
    clock = [NOW_MS]
    door = Door(now_ms=lambda: clock[0])
    event = {**CLICK, "event_id": "c-1", "time_ms": NOW_MS - 700 - behind_ms}
    first = {"sent_ms": NOW_MS - behind_ms}
    await door.send(event, params=first)
    for waited_ms in (300, 45_000, 3_600_000):
        clock[0] = NOW_MS + waited_ms + 90  # the network's share
        await door.send(event, params=first | {"waited_ms": waited_ms})
    assert {event.time_ms for event in in_log(door)} == {NOW_MS - 700}
    assert len(door.clicks) == 4


async def test_an_event_without_a_time_happened_when_it_came_whatever_the_devices_clock_says(door: Door) -> None:
    await door.send(CLICK, params={"sent_ms": NOW_MS - 180_000})
    (event,) = in_log(door)
    assert (event.time_ms, event.context) == (NOW_MS, {})


async def test_an_event_that_is_ahead_is_accepted_and_has_its_append_time(door: Door) -> None:
    answer = await door.send({**CLICK, "time_ms": NOW_MS + 600_000})
    assert answer.status_code == 200
    assert in_log(door)[0].time_ms == NOW_MS


async def test_a_field_of_that_name_that_the_sender_set_is_kept(door: Door) -> None:
    event = {**CLICK, "time_ms": NOW_MS - 180_000, "context": {DEVICE_TIME: "mine"}}
    await door.send(event, params={"sent_ms": NOW_MS - 180_000})
    assert in_log(door)[0].context == {DEVICE_TIME: "mine"}


async def test_events_of_a_merge_are_corrected_likewise(door: Door) -> None:
    event = {**CLICK, "event_id": "c-1", "time_ms": NOW_MS - 180_000 - 40}
    answer = await door.ask("POST", "/users/u/merge", {"events": [event]}, params={"sent_ms": NOW_MS - 180_000})
    assert answer.status_code == 200
    assert in_log(door)[0].time_ms == NOW_MS - 40


@pytest.mark.parametrize(
    ("clock", "field"),
    [
        ({"sent_ms": "now"}, "sent_ms"),
        ({"sent_ms": ""}, "sent_ms"),
        ({"sent_ms": NOW_MS // 1000}, "sent_ms"),
        ({"sent_ms": NOW_MS * 10**9}, "sent_ms"),
        ({"sent_ms": NOW_MS, "waited_ms": -1}, "waited_ms"),
        ({"waited_ms": "1_000"}, "waited_ms"),
    ],
)
async def test_a_clock_in_another_unit_is_refused_and_no_event_is_moved(
    door: Door, clock: dict[str, Any], field: str
) -> None:
    answer = await door.send(CLICK, params=clock)
    assert (answer.status_code, answer.json()["detail"][0]["field"]) == (422, field)
    assert door.clicks == []


# --- the log is away -------------------------------------------------------------------------------------------------


async def test_while_kafka_is_down_requests_get_503_and_nothing_is_accepted(door: Door) -> None:
    door.outbox.down = True
    answer = await door.send([CLICK, {}])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert Problems.model_validate(answer.json()).detail[0].reason == "unavailable"
    assert "accepted" not in answer.json()
    door.outbox.down = False
    assert (await door.send(CLICK)).status_code == 200


async def test_an_event_that_only_the_log_refuses_is_the_callers_to_mend(door: Door) -> None:
    door.outbox.most_bytes = 50
    answer = await door.send(CLICK)
    assert (answer.status_code, answer.json()["detail"][0]["reason"]) == (422, "too_large")


# --- bounds ----------------------------------------------------------------------------------------------------------


async def test_beyond_what_is_held_in_flight_the_next_is_told_to_come_again_at_once() -> None:
    door = Door(Bounds(in_flight=3 * LEAST))
    door.outbox.held = asyncio.Event()
    waiting = [asyncio.create_task(door.send(CLICK)) for _ in range(3)]
    async with asyncio.timeout(5):
        while not door.outbox.calls:
            await asyncio.sleep(0)
    answer = await asyncio.wait_for(door.send(CLICK), 1)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    door.outbox.held.set()
    assert [one.status_code for one in await asyncio.gather(*waiting)] == [200] * 3
    assert (await door.send(CLICK)).status_code == 200
    assert len(door.clicks) == 4


async def test_a_refused_or_failed_request_gives_its_room_back() -> None:
    door = Door(Bounds(in_flight=LEAST))
    door.outbox.down = True
    for body in (CLICK, {}, 7):
        assert (await door.send(body)).status_code in (422, 503)
    door.outbox.down = False
    assert (await door.send(CLICK)).status_code == 200


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "in pieces"])
async def test_a_huge_body_is_refused_with_the_limit_before_it_is_held(announced: bool) -> None:
    door = Door(Bounds(body=10_000))
    pieces = [b"x" * 6_000] * 100
    content = b"".join(pieces) if announced else in_pieces(*pieces)
    answer = await door.ask("POST", "/events", content=content)
    assert answer.status_code == 413
    problem = answer.json()["detail"][0]["problem"]
    assert "at most 10,000 are accepted" in problem
    assert ("600,000" if announced else "12,000") in problem


async def test_a_body_that_arrives_in_pieces_is_read_whole(door: Door) -> None:
    raw = orjson.dumps(CLICK)
    answer = await door.ask("POST", "/events", content=in_pieces(*(raw[n : n + 7] for n in range(0, len(raw), 7))))
    assert answer.status_code == 200


async def test_a_large_body_is_counted_while_it_arrives() -> None:
    door = Door(Bounds(in_flight=2 * LEAST))
    answer = await door.ask("POST", "/events", content=in_pieces(*[b" " * LEAST] * 3))
    assert answer.status_code == 429


async def test_a_slow_client_loses_its_place_after_a_while() -> None:
    door = Door(Bounds(in_flight=LEAST, arrival_s=0.05))
    answer = await door.ask("POST", "/events", content=in_pieces(b"[", b"]", pause_s=5))
    assert (answer.status_code, answer.headers["connection"]) == (408, "close")
    assert (await door.send(CLICK)).status_code == 200


def test_bounds_that_can_never_hold_a_body_are_refused_at_the_start() -> None:
    given = {"NEARLINE_INGEST_BODY_MIB": "8", "NEARLINE_INGEST_IN_FLIGHT_MIB": "4"}
    with pytest.raises(Misconfigured, match="NEARLINE_INGEST_IN_FLIGHT_MIB=4 is less than NEARLINE_INGEST_BODY_MIB=8"):
        bounds_of(load_settings(given))
    assert bounds_of(load_settings({})) == Bounds()


# --- around the routes -----------------------------------------------------------------------------------------------


async def test_every_answer_names_its_request(door: Door) -> None:
    assert (await door.send(CLICK, headers={"x-request-id": "mine"})).headers["x-request-id"] == "mine"
    made = (await door.send({}, headers={"x-request-id": "x" * 200})).headers["x-request-id"]
    assert len(made) == 16


async def test_another_method_or_route_is_refused_in_the_same_words(door: Door) -> None:
    wrong_method = await door.ask("GET", "/events")
    assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "POST")
    for answer in (wrong_method, await door.ask("GET", "/nope")):
        assert Problems.model_validate(answer.json()).detail[0].reason == "no_such_route"


def test_the_documented_event_has_the_fields_of_the_real_one() -> None:
    accepted = {"v", *Event.__dataclass_fields__} - {"merged_from"}
    assert set(EventIn.model_fields) == accepted


def test_no_caller_can_say_that_an_event_came_by_a_merge() -> None:
    (verdict,) = validate([{**CLICK, "merged_from": ["s-1"]}], now_ms=NOW_MS)
    assert isinstance(verdict, RefusedEvent)
    assert verdict.problem.field == "merged_from"


def test_the_doors_reason_is_the_jobs() -> None:
    """One set of rules: what is refused here would be dead there, in the same words."""
    body = {"v": 1, "event_id": "e", "time_ms": 5, **CLICK}
    (verdict,) = validate([body], now_ms=NOW_MS)
    with pytest.raises(BadInput) as refused:
        decode_event(orjson.dumps(body), append_ms=NOW_MS)
    assert not isinstance(verdict, AcceptedEvent)
    assert (verdict.problem.reason, str(verdict.problem)) == (refused.value.reason, str(refused.value))
