"""The user routes: a profile is in Kafka when its PUT is answered; erasures keep their place among events."""

import asyncio
from typing import Any

import pytest

from nearline.errors import BadInput
from nearline.events import Event
from nearline.log import Record
from nearline.profiles import MAX_PROFILE_BYTES, Profile, decode_profile
from nearline.topics import CLICKS, USERS
from nearline.user_commands import OUTSIDE_TRANSACTION, Entry, Erase, Merge, Remove, decode_entry
from nearline.versions import version_of
from services.ingest.schemas import Erased, EventRemoved, MergeResults, Problems, ProfileAnswer
from services.ingest.user_editor import user_and_event
from tests.support.fakes import appended
from tests.support.ingest_door import CLICK, NOW_MS, Door

pytestmark = pytest.mark.anyio
GOLD = {"country": "GB", "interests": ["tea", "lamps"], "attributes": {"tier": "gold"}}


@pytest.fixture
def door() -> Door:
    return Door()


def in_log(door: Door) -> list[tuple[str, Entry]]:
    """The entries of ``clicks`` with their keys."""
    return [(key.decode(), decode_entry(value, append_ms=NOW_MS)) for key, value in door.clicks]


async def test_a_profile_is_in_the_log_and_readable_when_its_put_is_answered(door: Door) -> None:
    answer = await door.user("PUT", "ü/1", GOLD)
    assert (answer.status_code, answer.headers["etag"]) == (200, f'"{appended(0).version}"')
    assert ProfileAnswer.model_validate(answer.json()).profile.interests == ["tea", "lamps"]
    assert (await door.user("GET", "ü/1")).json() == answer.json()
    ((key, value),) = door.told
    assert (key.decode(), decode_profile(value or b"")) == (
        "ü/1",
        Profile("GB", "", "", ("tea", "lamps"), {"tier": "gold"}),
    )
    assert door.clicks == []


async def test_a_put_replaces_the_profile_as_a_whole(door: Door) -> None:
    await door.user("PUT", "u", GOLD)
    assert (await door.user("PUT", "u", {"device": "phone"})).json()["version"] == appended(1).version
    profile = (await door.user("GET", "u")).json()["profile"]
    assert profile == {"country": "", "device": "phone", "referrer": "", "interests": [], "attributes": {}}


async def test_a_profile_that_another_process_told_is_read_too(door: Door) -> None:
    door.profiles.apply([Record(USERS, 0, 7, NOW_MS, b"u", b'{"v":1,"country":"SE"}')])
    answer = (await door.user("GET", "u")).json()
    assert (answer["version"], answer["profile"]["country"]) == (version_of(NOW_MS, 0), "SE")


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"contry": "GB"}, "contry", "did you mean 'country'"),
        ({"interests": ["a", ""]}, "interests", "not blank"),
        ({"country": 7}, "country", "must be a string"),
        ({"attributes": {"note": "x" * MAX_PROFILE_BYTES}}, "attributes", "bytes; at most"),
        ([GOLD], "", "must be a JSON object"),
    ],
)
async def test_a_bad_profile_is_refused_by_its_field_and_changes_nothing(
    door: Door, body: Any, field: str, words: str
) -> None:
    answer = await door.user("PUT", "u", body)
    assert answer.status_code == 422
    (problem,) = Problems.model_validate(answer.json()).detail
    assert problem.field == field
    assert words in problem.problem
    assert door.told == []


async def test_an_unknown_profile_is_404_and_503_until_the_topic_was_read(door: Door) -> None:
    assert (await door.user("GET", "u")).json()["detail"][0]["reason"] == "no_profile"
    assert (await door.user("GET", "u")).status_code == 404
    door.is_read = False
    assert (await door.user("GET", "u")).status_code == 503
    assert (await door.user("PUT", "u", GOLD)).status_code == 200


async def test_to_forget_a_user_is_a_command_among_the_events_and_takes_the_profile(door: Door) -> None:
    await door.user("PUT", "u", GOLD)
    await door.send(CLICK)
    answer = await door.user("DELETE", "u")
    assert answer.status_code == 200
    erased = Erased.model_validate(answer.json())
    assert in_log(door)[-1] == ("u", Erase(erased.command_id, "u", NOW_MS))
    assert door.told[-1] == (b"u", None)
    assert (await door.user("GET", "u")).status_code == 404


async def test_an_unknown_user_is_forgotten_all_the_same(door: Door) -> None:
    assert (await door.user("DELETE", "nobody")).status_code == 200
    assert [type(entry) for _, entry in in_log(door)] == [Erase]


async def test_an_erasure_is_answered_only_when_the_log_has_all_of_it(door: Door) -> None:
    door.outbox.held = asyncio.Event()
    asked = asyncio.create_task(door.user("DELETE", "u"))
    async with asyncio.timeout(5):
        while not door.outbox.calls:
            await asyncio.sleep(0)
    assert not asked.done()
    door.outbox.held.set()
    assert (await asked).status_code == 200
    door.outbox.down = True
    answer = await door.user("DELETE", "u")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_commands_say_that_no_transaction_wrote_them(door: Door) -> None:
    """So the job takes them at once, whatever transactions of others are open."""
    await door.send(CLICK)
    await door.user("DELETE", "u")
    await door.user("DELETE", "u", more="/events/c-1")
    await merge(door, {"session_id": "s-1"})
    assert door.outbox.headers[CLICKS] == [(), *[(OUTSIDE_TRANSACTION,)] * 3]


async def test_one_event_is_forgotten_by_a_command_of_its_own(door: Door) -> None:
    answer = await door.user("DELETE", "u", more="/events/c-1")
    removed = EventRemoved.model_validate(answer.json())
    assert in_log(door) == [("u", Remove(removed.command_id, "u", "c-1", NOW_MS))]
    assert door.told == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/users/u/events/c-1", Remove),
        ("/users/a%2Fb/events/c%2F1", Remove),
        ("/users/u/events/a%2Fevents%2Fb", Remove),
        ("/users/a%2Fevents%2Fb", Erase),
        ("/users/a%2Fevents%2Fb/events/c-1", Remove),
    ],
)
async def test_an_escaped_slash_belongs_to_the_id(door: Door, path: str, expected: type) -> None:
    """What looks like an event of a user after decoding must not be told from the user it is by chance."""
    answer = await door.ask("DELETE", path)
    assert answer.status_code == 200
    ((key, entry),) = in_log(door)
    assert isinstance(entry, expected)
    user, _, event = path.removeprefix("/users/").partition("/events/")
    assert key == answer.json()["user_id"] == user.replace("%2F", "/")
    if isinstance(entry, Remove):
        assert entry.event_id == event.replace("%2F", "/")


async def test_an_address_that_can_be_read_in_two_ways_is_refused(door: Door) -> None:
    answer = await door.ask("DELETE", "/users/a/events/b/events/c")
    assert (answer.status_code, answer.json()["detail"][0]["reason"]) == (422, "bad_id")
    assert door.clicks == []


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/users/", "user_id"),
        ("/users/" + "x" * 129, "user_id"),
        ("/users/a%00", "user_id"),
        ("/users/a%FF", "user_id"),
        ("/users/u/events/", "event_id"),
        ("/users/u/events/%FF", "event_id"),
        ("/users/%0A/events/c-1", "user_id"),
        ("/users/u/events/" + "x" * 129, "event_id"),
    ],
)
async def test_an_invalid_id_erases_nobody(door: Door, path: str, field: str) -> None:
    answer = await door.ask("DELETE", path)
    assert (answer.status_code, answer.json()["detail"][0]["field"]) == (422, field)
    assert (door.clicks, door.told) == ([], [])


def test_a_decoded_path_is_split_as_well_as_it_can_be() -> None:
    assert user_and_event(b"/users/a/events/b") == ("a", "b")
    assert user_and_event(b"/users/a") is None
    with pytest.raises(BadInput, match="%2F"):
        user_and_event(b"/users/a/events/b/events/c")


async def merge(door: Door, body: Any, user_id: str = "u") -> tuple[int, dict[str, Any]]:
    answer = await door.user("POST", user_id, body, more="/merge")
    return answer.status_code, answer.json()


async def test_a_session_becomes_the_users_by_a_command_among_its_own_events(door: Door) -> None:
    status, body = await merge(door, {"session_id": "s-1"})
    merged = MergeResults.model_validate(body)
    assert (status, merged.accepted, merged.session_id) == (200, 0, "s-1")
    assert in_log(door) == [("s-1", Merge(merged.command_id or "", "s-1", "u", NOW_MS))]
    assert door.told == [(b"s-1", None)]  # whatever was told of the session is not told of anybody any more


async def test_events_of_a_session_become_the_users_own(door: Door) -> None:
    events = [
        {**CLICK, "event_id": "a", "user_id": "s-1", "time_ms": NOW_MS - 9},
        {"event_id": "b", "item_id": "j", "type": "purchase"},
        {**CLICK, "event_id": "c", "user_id": "u"},
    ]
    status, body = await merge(door, {"session_id": "s-1", "events": events})
    assert (status, body["accepted"], body["refused"]) == (200, 3, 0)
    kept = [(key, entry) for key, entry in in_log(door) if isinstance(entry, Event)]
    assert [(key, entry.user_id, entry.event_id) for key, entry in kept] == [("u", "u", each) for each in "abc"]
    assert kept[0][1].time_ms == NOW_MS - 9
    assert kept[1][1].type == "purchase"
    assert sum(isinstance(entry, Merge) for _, entry in in_log(door)) == 1


async def test_events_alone_are_merged_without_a_command(door: Door) -> None:
    status, body = await merge(door, {"events": [{**CLICK, "event_id": "a"}]})
    assert (status, body["command_id"], body["session_id"]) == (200, None, None)
    assert len(door.clicks) == 1
    assert door.told == []


async def test_a_bad_event_is_reported_and_the_others_are_merged(door: Door) -> None:
    events = [
        {**CLICK, "event_id": "a", "user_id": "somebody-else"},
        {"item_id": "i", "type": "click"},
        {"event_id": "b", "item_id": "i", "type": "clik"},
        7,
        {"event_id": "c", "item_id": "i", "type": "click"},
    ]
    status, body = await merge(door, {"session_id": "s-1", "events": events})
    assert (status, body["accepted"], body["refused"]) == (207, 1, 4)
    problems = [(one.get("field"), one.get("reason")) for one in body["results"]]
    assert problems[:2] == [("user_id", "other_user"), ("event_id", "missing_field")]
    assert problems[2:] == [("type", "unknown_type"), ("", "not_an_object"), (None, None)]
    assert (await merge(door, {"events": events[:1]}))[0] == 422


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "", "needs session_id, events, or both"),
        ({"events": []}, "", "needs session_id, events, or both"),
        ({"sesion_id": "s"}, "sesion_id", "did you mean 'session_id'"),
        ({"session_id": "u"}, "session_id", "the user's own id"),
        ({"session_id": 5}, "session_id", "must be a string"),
        ({"session_id": ""}, "session_id", "1-128"),
        ({"events": {"event_id": "a"}}, "events", "must be an array"),
        ({"events": [{}] * 501}, "events", "501 entries"),
        ([], "", "must be a JSON object"),
    ],
)
async def test_a_merge_that_makes_no_sense_is_refused_whole(door: Door, body: Any, field: str, words: str) -> None:
    status, answer = await merge(door, body)
    assert status == 422
    (problem,) = Problems.model_validate(answer).detail
    assert problem.field == field
    assert words in problem.problem
    assert (door.clicks, door.told) == ([], [])


async def test_a_command_sent_as_an_event_is_refused(door: Door) -> None:
    """A key that stands in a page may send events, and must not be able to have anybody forgotten by one."""
    command = {"v": 1, "command": "erase", "command_id": "c", "user_id": "u", "time_ms": NOW_MS}
    for answer in (await door.send(command), await door.send([{**CLICK, **command}])):
        assert answer.status_code == 422
        assert answer.json()["results"][0]["field"] == "command"
    assert CLICKS not in door.outbox.sent


async def test_a_concurrent_put_and_erasure_are_logged_in_the_order_of_their_responses(door: Door) -> None:
    door.outbox.held = asyncio.Event()
    put = asyncio.create_task(door.user("PUT", "u", GOLD))
    async with asyncio.timeout(5):
        while not door.outbox.calls:
            await asyncio.sleep(0)
    erased = asyncio.create_task(door.user("DELETE", "u"))
    await asyncio.sleep(0.01)
    door.outbox.held.set()
    assert [(await put).status_code, (await erased).status_code] == [200, 200]
    assert [value is None for _, value in door.told] == [False, True]
    assert (await door.user("GET", "u")).status_code == 404
