"""What Gorse gives away, as profiles, items and events of ours; nothing is lost without being counted."""

import io
import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from nearline.adapters.gorse_dump import message_classes, read_dump
from nearline.cli.app import app
from nearline.errors import BadInput
from nearline.events import EVENT_TYPES, event_of
from nearline.gorse import Conversion, in_ms, type_rules
from nearline.items import item_of
from nearline.profiles import profile_of
from tests.support.ingest_door import Door
from tests.support.served import served

NOW_MS = 1_800_000_000_000
STAR = {"FeedbackType": "star", "UserId": "u", "ItemId": "i", "Value": 0.0, "Timestamp": "2024-05-01T10:00:00Z"}
LAMP = {
    "ItemId": "lamp",
    "IsHidden": False,
    "Categories": ["lighting", "retro"],
    "Timestamp": "2024-05-01T10:00:00.123456789Z",
    "Labels": {"title": "RED RETRO LAMP", "colour": ["red", "black"], "size": {"cm": 40}, "vector": [0.1, 0.2]},
    "Comment": "Warm light",
}


def conversion(*types: str, title: str = "") -> Conversion:
    return Conversion(type_rules(types), title)


def test_an_item_keeps_what_ours_has_a_place_for() -> None:
    convert = conversion()
    body = convert.item(LAMP)
    assert body == {
        "item_id": "lamp",
        "title": "RED RETRO LAMP",
        "description": "Warm light",
        "category": "lighting",
        "available": True,
        "listed_ms": 1_714_557_600_123,
        "attributes": {"categories": "lighting|retro", "colour": "red|black", "size.cm": 40},
    }
    item_of({name: value for name, value in body.items() if name != "item_id"} | {"v": 1})
    assert convert.counted["items' labels left out: 'vector' is not a text, number or boolean"] == 1
    assert any("several categories" in what for what in convert.counted)


@pytest.mark.parametrize(
    ("labels", "comment", "wanted", "title"),
    [
        ({"title": "A", "name": "B"}, "C", "", "A"),
        ({"name": "B"}, "C", "", "B"),
        ({"model": "D", "title": "A"}, "C", "model", "D"),
        ({"model": 3}, "C", "model", "C"),
        ({}, " C ", "", "C"),
        (None, "", "", "lamp"),
        (["a", "b"], "", "", "lamp"),
    ],
)
def test_an_items_title_is_a_label_its_comment_or_its_id(labels: Any, comment: str, wanted: str, title: str) -> None:
    body = conversion(title=wanted).item({"ItemId": "lamp", "Labels": labels, "Comment": comment})
    assert body["title"] == title


def test_a_hidden_item_is_not_available() -> None:
    assert conversion().item({**LAMP, "IsHidden": True})["available"] is False


def test_feedback_is_an_event_that_a_second_import_does_not_repeat() -> None:
    convert = conversion()
    event = convert.event(STAR)
    assert event is not None
    assert (event["type"], event["value"], event["time_ms"]) == ("like", 1.0, 1_714_557_600_000)
    assert convert.event({**STAR, "Timestamp": "2024-06-01T10:00:00Z"})["event_id"] == event["event_id"]  # type: ignore[index]
    others = [{**STAR, name: "other"} for name in ("UserId", "ItemId")] + [{**STAR, "FeedbackType": "like"}]
    ids = {found["event_id"] for one in others if (found := convert.event(one)) is not None}
    assert len(ids | {event["event_id"]}) == 4
    event_of({"v": 1, **event})


def test_every_type_of_ours_is_known_and_so_are_those_of_gorses_default_configuration() -> None:
    convert = conversion()
    found = [convert.event({**STAR, "FeedbackType": name}) for name in (*EVENT_TYPES, "read", "star")]
    assert [one and one["type"] for one in found] == [*EVENT_TYPES, "view", "like"]


def test_other_types_are_what_the_operator_says_or_are_left_out_and_counted() -> None:
    convert = conversion("watch=view", "rating>=4=like", "rating<2=dislike", "star=purchase")
    types = [
        found["type"] if (found := convert.event({**STAR, "FeedbackType": name, "Value": value})) else None
        for name, value in (("watch", 7.5), ("rating", 4.0), ("rating", 3.0), ("rating", 1.0), ("star", 0), ("boo", 0))
    ]
    assert types == ["view", "like", None, "dislike", "purchase", None]
    assert convert.counted == {
        "feedback left out: no --type for 'rating'": 1,
        "feedback left out: no --type for 'boo'": 1,
    }


@pytest.mark.parametrize("text", ["watch", "watch=", "watch=looked", "=view", "watch>=x=view", "watch>=3"])
def test_an_invalid_type_rule_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(BadInput, match=r"expected NAME=TYPE or NAME>=NUMBER=TYPE.*purchase"):
        type_rules([text])


def test_feedback_without_a_time_is_left_out_and_counted() -> None:
    convert = conversion()
    assert convert.event({**STAR, "Timestamp": "0001-01-01T00:00:00Z"}) is None
    assert convert.event({**STAR, "Timestamp": ""}) is None
    assert convert.counted["feedback left out: no time after 1980"] == 2


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("2024-05-01T10:00:00Z", 1_714_557_600_000),
        ("2024-05-01T12:00:00.5+02:00", 1_714_557_600_500),
        ("2024-05-01T10:00:00", 1_714_557_600_000),
        ("1999-12-31T23:59:59Z", None),
        ("soon", None),
        (None, None),
    ],
)
def test_times_are_utc_milliseconds(text: str | None, time_ms: int | None) -> None:
    assert in_ms(text) == time_ms


def test_a_users_labels_become_a_profile() -> None:
    convert = conversion()
    labels = {"country": "GB", "interests": ["tea", "tea", "lamps"], "tier": "gold", "age": 40, "tags": ["a", "b"]}
    told = convert.user({"UserId": "u", "Labels": labels, "Comment": "a note"})
    assert told == (
        "u",
        {
            "country": "GB",
            "interests": ["tea", "lamps"],
            "attributes": {"tier": "gold", "age": 40, "tags": "a|b"},
        },
    )
    profile_of({"v": 1, **told[1]})
    assert convert.counted["users' comments left out"] == 1
    assert convert.user({"UserId": "u", "Labels": ["a", "b", "c", "d", "e", "f"]}) == (
        "u",
        {"interests": ["a", "b", "c", "d", "e"]},
    )
    assert convert.user({"UserId": "u", "Labels": None}) is None
    assert convert.counted["users left out: their profiles are empty"] == 1


# --- the binary dump -------------------------------------------------------------------------------------------------


def frame(number: int, raw: bytes = b"") -> bytes:
    return struct.pack("<q", number) + raw


def dump() -> bytes:
    """As Gorse writes one: three parts, an end, and statistics that nobody reads."""
    made = message_classes()
    user = made["User"](UserId="u", Labels=json.dumps({"country": "GB"}).encode(), Comment="ü")
    item = made["Item"](ItemId="lamp", IsHidden=True, Categories=["a", "b"], Labels=b"null", Comment="Lamp")
    item.Timestamp.seconds, item.Timestamp.nanos = 1_714_557_600, 123_456_789
    star = made["Feedback"](FeedbackType="star", UserId="u", ItemId="lamp", Value=2.5, Labels=b"null")
    star.Timestamp.seconds = -62_135_596_800
    parts = b""
    for flag, messages in ((-1, [user]), (-2, [item, item]), (-3, [star])):
        parts += frame(flag) + b"".join(
            frame(len(message.SerializeToString()), message.SerializeToString()) for message in messages
        )
    return parts + frame(0) + b'{"Users":1}'


def test_a_dump_is_read_as_gorses_json_would_be() -> None:
    records = list(read_dump(io.BytesIO(dump())))
    assert [kind for kind, _ in records] == ["users", "items", "items", "feedback"]
    assert records[0][1] == {"UserId": "u", "Labels": {"country": "GB"}, "Comment": "ü"}
    item = records[1][1]
    assert (item["IsHidden"], item["Categories"], item["Labels"]) == (True, ["a", "b"], None)
    assert in_ms(item["Timestamp"]) == 1_714_557_600_123
    assert (records[3][1]["Value"], in_ms(records[3][1]["Timestamp"])) == (2.5, None)


def test_fields_that_gorse_has_and_we_do_not_use_are_skipped() -> None:
    """``namespace`` of an item, number 1; ``subscribe`` of a user, number 4."""
    raw = message_classes()["Item"](ItemId="lamp").SerializeToString() + b"\x0a\x02ns"
    ((_, record),) = read_dump(io.BytesIO(frame(-2) + frame(len(raw), raw) + frame(0)))
    assert record["ItemId"] == "lamp"


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "ends in the middle"),
        (dump()[:-60], "ends in the middle"),
        (b'{"error": "unauthorized"}', "neither the size of a record"),
        (frame(5, b"early"), "neither the size of a record"),
        (frame(-1) + frame(2, b"\xff\xff"), "not what Gorse writes"),
    ],
)
def test_a_file_that_is_not_a_gorse_dump_is_refused(raw: bytes, problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        list(read_dump(io.BytesIO(raw)))


# --- the command -----------------------------------------------------------------------------------------------------


def imported(source: str, url: str, folder: Path, *words: str) -> tuple[Result, Door]:
    """What ``nearline import gorse`` says, and the door that it called."""
    door = Door()
    with served(door.app) as ingest:
        environment = {"NEARLINE_INGEST": ingest, "NEARLINE_DATA": str(folder / "data")}
        result = CliRunner().invoke(app, ["import", "gorse", source.replace("URL", url), *words], env=environment)
    return result, door


async def gorse(scope: Any, receive: Any, send: Any) -> None:
    """Gorse's master, which wants its key."""
    asked = scope["path"], dict(scope["headers"]).get(b"x-api-key")
    status = 200 if asked == ("/api/dump", b"secret") else 401
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": dump() if status == 200 else b"unauthorized"})


def test_a_running_gorse_is_imported_and_every_loss_is_told(tmp_path: Path) -> None:
    (tmp_path / "gorse-key").write_text("secret\n")
    with served(gorse) as url:
        result, door = imported("URL/", url, tmp_path, "--key-file", str(tmp_path / "gorse-key"))
    assert result.exit_code == 0, result.output
    assert "read: 1 users of Gorse, 2 items of Gorse, 1 feedback of Gorse" in result.output
    assert "1 feedback left out: no time after 1980" in result.output
    assert [key for key, _ in door.changes] == [b"lamp", b"lamp"]
    assert json.loads(door.outbox.sent["users"][0][1] or b"{}")["country"] == "GB"


def test_a_gorse_that_does_not_let_us_in_is_said_to_want_its_key(tmp_path: Path) -> None:
    with served(gorse) as url:
        result, _ = imported("URL", url, tmp_path)
    assert "give its admin_api_key (--key-file, GORSE_API_KEY)" in str(result.exception)


def test_the_key_comes_from_a_file_or_the_environment_and_never_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GORSE_API_KEY", "secret")
    with served(gorse) as url:
        assert imported("URL", url, tmp_path)[0].exit_code == 0
        assert "No such option" in imported("URL", url, tmp_path, "--key", "secret")[0].output
        result, _ = imported("URL", url, tmp_path, "--key-file", str(tmp_path / "none"))
    assert "cannot read a key in" in str(result.exception)


def test_lines_of_json_are_imported(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text(json.dumps(LAMP) + "\n\n" + json.dumps({**LAMP, "ItemId": "x" * 200}))
    (tmp_path / "feedback.jsonl").write_text("\n".join(json.dumps({**STAR, "ItemId": f"i{n}"}) for n in range(700)))
    result, door = imported(str(tmp_path), "", tmp_path)
    assert result.exit_code == 1, "one was refused"
    assert (len(door.changes), len(door.clicks)) == (1, 700)
    assert "1 refused: item_id bad_id" in result.output


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("items.jsonl", "{", r"items\.jsonl:1 is not a JSON object"),
        ("items.jsonl", "[1]", r"items\.jsonl:1 is not a JSON object"),
        ("items.jsonl", '{"Title": "x"}', "items of Gorse.*ItemId"),
        ("other.txt", "", r"expected users\.jsonl"),
    ],
)
def test_a_file_that_is_not_gorses_is_refused_with_its_line(tmp_path: Path, file: str, text: str, problem: str) -> None:
    (tmp_path / file).write_text(text)
    result, _ = imported(str(tmp_path), "", tmp_path)
    assert re.search(problem, str(result.exception)), result.exception
