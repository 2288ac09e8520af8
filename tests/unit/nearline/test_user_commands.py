"""Commands in clicks: what passes, what is refused and why, and that events are not taken for them."""

import orjson
import pytest

from nearline.errors import BadInput
from nearline.events import Event, encode_event
from nearline.log import Record
from nearline.topics import CLICKS
from nearline.user_commands import (
    OUTSIDE_TRANSACTION,
    Adopt,
    Command,
    Erase,
    Merge,
    Remove,
    decode_entry,
    encode_command,
    is_to_look_up,
)

NOW_MS = 1_732_100_000_000
COMMANDS: list[Command] = [
    Erase("c-1", "zoë ☕", NOW_MS),
    Remove("c-2", "u", "e-1", NOW_MS),
    Merge("c-3", "session", "u", NOW_MS + 2_000),
    Adopt("c-4", "u", bytes(range(256)), ("s", "t"), NOW_MS),
]
MERGE = {"v": 1, "command": "merge", "command_id": "c", "user_id": "s", "into": "u", "time_ms": NOW_MS}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_comes_back_as_it_was_sent(command: Command) -> None:
    assert decode_entry(encode_command(command), append_ms=NOW_MS) == command


def test_an_event_beside_commands_is_still_an_event() -> None:
    event = Event("e-1", "u", "i", "click", NOW_MS)
    assert decode_entry(encode_event(event), append_ms=NOW_MS) == event


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"command": "forget"}, "unknown_command", "command"),
        ({"command": None}, "unknown_command", "command"),
        ({"command": ["erase"]}, "unknown_command", "command"),
        ({"inot": "u"}, "unknown_field", "inot"),
        ({"command": "erase"}, "unknown_field", "into"),
        ({"into": 7}, "wrong_type", "into"),
        ({"into": ""}, "bad_id", "into"),
        ({"into": "s"}, "same_user", "into"),
        ({"command_id": "x" * 129}, "bad_id", "command_id"),
        ({"time_ms": NOW_MS // 1000}, "impossible_time", "time_ms"),
        ({"v": 2}, "unknown_version", "v"),
        ({"command": "adopt"}, "unknown_field", "into"),
    ],
)
def test_a_bad_command_is_refused_with_its_field(change: dict[str, object], reason: str, field: str) -> None:
    with pytest.raises(BadInput) as refused:
        decode_entry(orjson.dumps(MERGE | change), append_ms=NOW_MS)
    assert (refused.value.reason, refused.value.field) == (reason, field)


def test_a_command_of_a_clock_that_is_ahead_is_obeyed_at_its_append_time() -> None:
    ahead = Erase("c-1", "u", NOW_MS + 180_000)
    assert decode_entry(encode_command(ahead), append_ms=NOW_MS) == Erase("c-1", "u", NOW_MS)


@pytest.mark.parametrize("name", ["command_id", "user_id", "into", "time_ms"])
def test_a_command_needs_all_its_fields(name: str) -> None:
    short = {field: value for field, value in MERGE.items() if field != name}
    with pytest.raises(BadInput, match=name) as refused:
        decode_entry(orjson.dumps(short), append_ms=NOW_MS)
    assert refused.value.reason == "missing_field"


@pytest.mark.parametrize(
    ("change", "field"), [({"seen": "?"}, "seen"), ({"seen": 7}, "seen"), ({"merged_from": "s"}, "merged_from")]
)
def test_an_adopt_command_needs_bytes_and_its_origin(change: dict[str, object], field: str) -> None:
    body = orjson.loads(encode_command(Adopt("c", "u", b"1", ("s",), NOW_MS)))
    with pytest.raises(BadInput) as refused:
        decode_entry(orjson.dumps(body | change), append_ms=NOW_MS)
    assert refused.value.field == field


def in_log(value: bytes | None, topic: str = CLICKS, headers: tuple[tuple[str, bytes], ...] = ()) -> Record:
    return Record(topic, 0, 7, NOW_MS, b"u", value, headers)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_a_command_is_looked_up_unless_it_says_that_no_transaction_wrote_it(command: Command) -> None:
    assert is_to_look_up(in_log(encode_command(command)))
    assert not is_to_look_up(in_log(encode_command(command), headers=(("x", b""), OUTSIDE_TRANSACTION)))


@pytest.mark.parametrize(
    "record",
    [
        in_log(None),
        in_log(b'not JSON "command"'),
        in_log(encode_event(Event("e", "u", "i", "click", NOW_MS, context={"place": "command"}))),
        in_log(encode_command(COMMANDS[0]), topic="exposures"),
    ],
    ids=["a tombstone", "no JSON", "a click with the word", "another topic"],
)
def test_nothing_else_is_looked_up(record: Record) -> None:
    """Each look-up is a request to the log."""
    assert not is_to_look_up(record)
