"""Small promises of the core: settings, spaces, topics, the item table, salvage."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearline.errors import BadAnswer, Misconfigured, SpaceMismatch, Unavailable
from nearline.events import Event, encode_event
from nearline.item_table import ItemTable
from nearline.item_vectors import ItemFields, ItemVector, encode_item_vector
from nearline.log import Record
from nearline.replay import load_recording, messages, shift_of
from nearline.salvage import salvage
from nearline.settings import load_settings
from nearline.space import Space
from nearline.topics import all_topics, item_vectors_topic, user_updates_topic
from nearline.user_commands import Erase, encode_command

SPACE = Space(1, 8)


def test_settings_have_defaults_for_one_machine() -> None:
    settings = load_settings({"PATH": "/bin"})
    assert settings.kafka == "127.0.0.1:9092"
    assert settings.store_url.startswith("lmdb:///")


def test_a_mistyped_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(Misconfigured, match=r"NEARLINE_KAFKAA; did you mean NEARLINE_KAFKA\?"):
        load_settings({"NEARLINE_KAFKAA": "x"})


@pytest.mark.parametrize(("name", "value"), [("SPACE", "zero"), ("SPACE", "0"), ("HISTORY_LENGTH", "501")])
def test_a_bad_value_is_refused_with_the_variable_and_what_it_means(name: str, value: str) -> None:
    with pytest.raises(Misconfigured, match=rf"NEARLINE_{name}='{value}'"):
        load_settings({f"NEARLINE_{name}": value})


def test_two_spaces_never_share_a_topic() -> None:
    for topic in (item_vectors_topic, user_updates_topic):
        assert topic(Space(1, 8)) != topic(Space(2, 8))


def test_topics_keyed_by_user_have_as_many_partitions_as_clicks() -> None:
    topics = {topic.name: topic for topic in all_topics(SPACE)}
    names = ["user-sequences", "users", "user-seen", user_updates_topic(SPACE), "exposures"]
    assert {topics[name].partitions for name in names} == {topics["clicks"].partitions}


def test_the_number_of_partitions_is_chosen_for_users_and_items_alike() -> None:
    topics = {topic.name: topic for topic in all_topics(SPACE, partitions=3)}
    names = ["clicks", "users", "user-sequences", "user-seen", "exposures", "items", f"item-vectors.{SPACE.number}"]
    assert {topics[name].partitions for name in names} == {3}
    assert topics["rules"].partitions == topics["api-keys"].partitions == 1, "these are read in the order of writes"


def test_every_topic_uses_the_logs_clock_and_dead_letters_can_hold_any_record() -> None:
    topics = {topic.name: topic for topic in all_topics(SPACE)}
    assert all(topic.config["message.timestamp.type"] == "LogAppendTime" for topic in topics.values())
    largest = int(topics["clicks"].config["max.message.bytes"])
    assert int(topics["clicks-dlq"].config["max.message.bytes"]) > 2 * largest


def vector(item_id: str, version: int, value: float = 1.0) -> ItemVector:
    return ItemVector(
        item_id, version, ItemFields(item_id), np.full(8, value, np.float32), np.full(8, value, np.float16), "d"
    )


@given(st.permutations([(item, version) for item in "abc" for version in (1, 2, 3)]))
def test_the_item_table_ends_with_the_newest_version_whatever_the_order(order: list[tuple[str, int]]) -> None:
    table = ItemTable(SPACE, keep_candidates=True)
    for item, version in order:
        table.put(vector(item, version, float(version)))
    for item in "abc":
        known = table.get(item)
        assert known is not None
        assert known.version == 3
        assert table.history[known.row, 0] == 3.0


def test_of_two_records_with_one_version_the_item_table_keeps_the_later() -> None:
    """Two changes of an item in one millisecond share a version; the log has them in their order."""
    table = ItemTable(SPACE)
    for value in (1.0, 2.0):
        assert table.put(vector("i", 7, value))
    assert table.history[table.row_of["i"], 0] == 2.0


def test_the_item_table_grows_and_reuses_the_rows_of_the_buried() -> None:
    table = ItemTable(SPACE)
    for n in range(3_000):
        table.put(vector(f"i{n}", 1, n % 7))
    row = table.row_of["i5"]
    assert table.apply(Record("t", 0, 0, 0, b"i5", None))
    assert "i5" not in table
    table.put(vector("new", 1, 9.0))
    assert table.row_of["new"] == row
    assert table.history[table.row_of["i2999"], 0] == 2999 % 7


def test_the_item_table_refuses_another_space_with_both_numbers() -> None:
    raw = encode_item_vector(vector("i", 1), Space(2, 8))
    with pytest.raises(SpaceMismatch, match=r"space 2.*space 1"):
        ItemTable(SPACE).apply(Record("t", 0, 0, 0, b"i", raw))


@pytest.mark.anyio
@pytest.mark.parametrize("poison", [set(), {0}, {7}, {3, 4}, set(range(10))])
async def test_salvage_loses_only_what_is_bad(poison: set[int]) -> None:
    calls: list[Sequence[int]] = []

    async def encode(part: Sequence[int]) -> list[int]:
        calls.append(part)
        if poison & set(part):
            raise BadAnswer("NaN")
        return [n * n for n in part]

    good, bad = await salvage(encode, list(range(10)))
    assert sorted(good) == [(n, n * n) for n in range(10) if n not in poison]
    assert {n for n, _ in bad} == poison
    assert all(calls.count([n]) == 3 for n in poison)


@pytest.mark.anyio
async def test_salvage_lets_an_outage_through() -> None:
    async def encode(part: Sequence[int]) -> list[int]:
        raise Unavailable("away")

    with pytest.raises(Unavailable):
        await salvage(encode, [1, 2])


def test_a_replay_ends_now_and_a_second_one_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(
        '{"v":1,"event_id":"a","user_id":"u","item_id":"i","type":"click","time_ms":1000000000000}\n'
        '{"v":1,"event_id":"b","user_id":"u","item_id":"i","type":"click","time_ms":1000000001000}\n'
    )
    recording = load_recording(file)
    first = shift_of(recording, tmp_path, now_ms=1_700_000_000_000)
    assert shift_of(recording, tmp_path, now_ms=1_800_000_000_000) == first
    *_, (key, value) = messages(recording.events, shift_ms=first)
    assert key == b"u"
    assert b"1700000000000" in value


def test_commands_of_a_recorded_log_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "clicks.jsonl"
    event = Event("a", "u", "i", "click", 1_000_000_000_000)
    file.write_bytes(encode_event(event) + b"\n" + encode_command(Erase("c", "u", 1_000_000_000_001)) + b"\n")
    assert load_recording(file).events == [event]


def test_replaying_nothing_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="expected a file of events"):
        load_recording(tmp_path / "missing")
