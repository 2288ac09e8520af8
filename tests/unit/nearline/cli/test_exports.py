"""Folders of Parquet: what an export holds, and that it comes back as it was."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from nearline.cli import parquet
from nearline.cli.exporting import export_events, export_items, export_users, said
from nearline.cli.importing import ImportOutcome, deliver
from nearline.errors import Misconfigured
from nearline.events import Event, encode_event, event_of
from nearline.items import Item, encode_item, item_of
from nearline.log import Record
from nearline.newest import Newest
from nearline.profiles import Profile, encode_profile, profile_of
from nearline.topics import CLICKS, ITEMS, USERS
from nearline.user_commands import Erase, Merge, Remove, encode_command
from nearline_client import AsyncClient
from tests.support.ingest_door import Door
from tests.support.served import served

T = 1_700_000_000_000
CONTEXT = {"country": "GB", "interests": ["tea", "lamps"], "device": 7, "page": {"number": 2}}
VIEW = Event("e-1", "u/1", "lamp", "view", T, 2.5, CONTEXT, request_id="r-1")
LAMP = Item(
    "RED RETRO LAMP", "Warm", "lighting", "en", 12.5, "Z", T, False, {"colour": "red", "watts": 40, "new": True}
)
PROFILE = Profile("GB", "phone", "", ("tea",), {"tier": "gold", "age": 40})


class Topic:
    """A topic as looks at it see it: records in batches of three, appended a second apart."""

    def __init__(self, name: str, *messages: tuple[str, bytes | None]) -> None:
        self.looks = 0
        self.records = [
            Record(name, 0, offset, T + 1_000 * offset, key.encode(), value)
            for offset, (key, value) in enumerate(messages)
        ]

    def look(self, topic: str, what: str) -> Iterator[list[Record]]:
        self.looks += 1
        for start in range(0, len(self.records), 3):
            yield self.records[start : start + 3]


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return list(parquet.rows_of(folder / name))


def sent(event: Event, **changes: Any) -> tuple[str, bytes]:
    event = replace(event, **changes)
    return event.user_id, encode_event(event)


# --- what an export holds --------------------------------------------------------------------------------------------


def test_an_event_comes_back_as_it_was(tmp_path: Path) -> None:
    events = [VIEW, Event("e-2", "u", "lamp", "purchase", T + 1)]
    export_events(tmp_path, Topic(CLICKS, *map(sent, events)).look)
    bodies = [parquet.event_of_row(row) for row in rows(tmp_path, parquet.INTERACTIONS)]
    assert [event_of({"v": 1, **body}) for body in bodies] == events


def test_erased_users_and_removed_events_are_not_exported(tmp_path: Path) -> None:
    """The commands come after the events, so one look would have written them."""
    topic = Topic(
        CLICKS,
        sent(VIEW, event_id="before", user_id="erased"),
        sent(VIEW, event_id="removed", user_id="u"),
        sent(VIEW, event_id="kept", user_id="u"),
        sent(VIEW, event_id="session", user_id="s"),
        ("erased", encode_command(Erase("c-1", "erased", T))),
        ("u", encode_command(Remove("c-2", "u", "removed", T))),
        ("s", encode_command(Merge("c-3", "s", "u", T))),
        sent(VIEW, event_id="session", user_id="u"),
        sent(VIEW, event_id="late duplicate", user_id="erased", time_ms=T + 3_999),
        sent(VIEW, event_id="new life", user_id="erased", time_ms=T + 9_000),
        sent(VIEW, event_id="removed", user_id="u"),
        sent(VIEW, event_id="removed", user_id="another"),
        sent(VIEW, event_id="test", user_id="u", synthetic=True),
        ("u", b'{"v": 1, "event_id": "bad"}'),
        ("u", None),
    )
    counted = export_events(tmp_path, topic.look)
    kept = [(row["user_id"], row["event_id"]) for row in rows(tmp_path, parquet.INTERACTIONS)]
    assert kept == [("u", "kept"), ("u", "session"), ("erased", "new life"), ("another", "removed")]
    assert counted == {
        "events": 4,
        "left out: to be forgotten": 5,
        "commands obeyed": 3,
        "left out: synthetic": 1,
        "left out: not valid": 2,
    }
    assert "4 events" in said(counted)


def test_the_newest_of_each_item_is_exported_once_and_none_that_is_gone(tmp_path: Path) -> None:
    old, new = encode_item(replace(LAMP, title="old")), encode_item(LAMP)
    messages = [
        ("lamp", old),
        ("gone", new),
        ("lamp", new),
        ("gone", None),
        ("back", None),
        ("back", new),
        ("bad", b"{"),
    ]
    counted = export_items(tmp_path, Topic(ITEMS, *messages).look)
    found = rows(tmp_path, parquet.ITEMS)
    assert [row["item_id"] for row in found] == ["lamp", "back"]
    assert {row["title"] for row in found} == {LAMP.title}
    assert counted == {"items": 2, "left out: not valid": 1}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_later_appended_record_is_exported_in_whatever_order_partitions_are_read(order: tuple[int, ...]) -> None:
    """Another client wrote to partition 5 what everybody else writes to partition 2."""
    first = Record(ITEMS, 2, 900, T, b"lamp", b"first")
    second = replace(first, partition=5, offset=3, append_ms=T + 1, value=b"second")
    third = replace(first, offset=901, append_ms=T + 2, value=b"third")
    for log, taken in (([first, second, third], [third]), ([first, second, replace(third, value=None)], [])):
        newest = Newest()
        newest.note([log[n] for n in order])
        assert newest.take([log[n] for n in order]) == taken
        assert newest.contested == {b"lamp"}


def test_an_item_that_changes_between_the_looks_is_exported_once() -> None:
    record = Record(ITEMS, 0, 5, T, b"lamp", b"x")
    newest = Newest()
    newest.note([record])
    older, newer = replace(record, offset=4), replace(record, offset=9)
    assert newest.take([older]) == []
    assert newest.take([newer, replace(record, offset=12)]) == [newer], "5 was compacted away meanwhile"
    newest.note([record])
    assert newest.take([replace(record, offset=9, value=None), replace(record, offset=12)]) == [], "it is gone now"


def test_an_item_comes_back_as_it_was(tmp_path: Path) -> None:
    """Attributes of one kind are columns, as training reads them; the others stay beside them."""
    strange = Item("t", attributes={"watts": "many", "item_id": "x", "huge": 2**60, "colour": "blue", "new": False})
    plain = Item("p", attributes={"watts": 60.5})
    items = {"lamp": LAMP, "strange": strange, "plain": plain, "bare": Item("b")}
    export_items(tmp_path, Topic(ITEMS, *((key, encode_item(item)) for key, item in items.items())).look)
    schema = pl.scan_parquet(tmp_path / parquet.ITEMS).collect_schema()
    assert (schema["colour"], schema["new"]) == (pl.String(), pl.Boolean())
    assert not {"watts", "huge"} & set(schema), "of two kinds, and too large for a column"
    bodies = [parquet.item_of_row(row) for row in rows(tmp_path, parquet.ITEMS)]
    back = {body.pop("item_id"): item_of({"v": 1, **body}) for body in bodies}
    assert back == items


def test_at_most_a_hundred_attributes_are_columns(tmp_path: Path) -> None:
    items = {f"i{n}": Item("t", attributes={f"a{n}": n, "common": 1}) for n in range(150)}
    export_items(tmp_path, Topic(ITEMS, *((key, encode_item(item)) for key, item in items.items())).look)
    columns = set(pl.scan_parquet(tmp_path / parquet.ITEMS).collect_schema())
    assert len(columns - set(parquet.ITEM_SCHEMA)) == 100 + 1
    assert "common" in columns
    bodies = [parquet.item_of_row(row) for row in rows(tmp_path, parquet.ITEMS)]
    assert {body["item_id"]: body["attributes"] for body in bodies} == {
        key: item.attributes for key, item in items.items()
    }


def test_a_profile_comes_back_as_it_was(tmp_path: Path) -> None:
    profiles = {"u/1": PROFILE, "u": Profile(interests=("a", "b")), "gone": None}
    messages = [(key, None if told is None else encode_profile(told)) for key, told in profiles.items()]
    assert export_users(tmp_path, Topic(USERS, ("gone", encode_profile(PROFILE)), *messages).look) == {"users": 2}
    back = dict(parquet.profile_of_row(row) for row in rows(tmp_path, parquet.USERS))
    assert {key: profile_of({"v": 1, **body}) for key, body in back.items()} == {"u/1": PROFILE, "u": profiles["u"]}


def test_an_export_is_read_by_training(tmp_path: Path) -> None:
    """``make train DATA=`` reads the folder as it is; torch is not needed to look."""
    from nearline.dataset_description import Description
    from nearline.table_events import declared_by_users, typed
    from nearline.table_items import read_items
    from nearline.tables import scan

    export_events(tmp_path, Topic(CLICKS, sent(VIEW)).look)
    export_items(tmp_path, Topic(ITEMS, ("lamp", encode_item(LAMP))).look)
    export_users(tmp_path, Topic(USERS, ("u/1", encode_profile(PROFILE))).look)
    about = Description()
    catalogue = read_items(tmp_path / parquet.ITEMS, about.items, None)
    assert catalogue.items["lamp"] == replace(LAMP, attributes={"colour": "red", "watts": 40.0, "new": True})
    assert set(catalogue.attributes) == {"colour", "watts", "new"}
    users = declared_by_users(scan(tmp_path / parquet.USERS), about.users, "users")
    frame = typed(scan(tmp_path / parquet.INTERACTIONS), about, "interactions", users).collect().to_dicts()
    assert len(frame) == 1
    assert frame[0]["interests"] == "tea|lamps"


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from (parquet.row_of_event(VIEW) for _ in range(parquet.ROWS_PER_GROUP + 1))
        raise OSError("the broker went away")

    file = tmp_path / "x.parquet"
    file.write_bytes(b"as it was")
    with pytest.raises(Exception, match="the broker went away"):
        parquet.write(file, broken(), parquet.EVENT_SCHEMA)
    assert file.read_bytes() == b"as it was"
    assert os.listdir(tmp_path) == ["x.parquet"]


def test_rows_keep_their_order_over_many_groups(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    made = (parquet.row_of_event(replace(VIEW, event_id=str(n))) for n in range(60_000))
    assert parquet.write(file, made, parquet.EVENT_SCHEMA) == 60_000
    assert parquet.count_of(file) == 60_000
    assert [row["event_id"] for row in parquet.rows_of(file)] == [str(n) for n in range(60_000)]


def test_an_empty_table_is_written_as_a_file(tmp_path: Path) -> None:
    assert parquet.write(tmp_path / "x.parquet", iter(()), parquet.USER_SCHEMA) == 0
    assert rows(tmp_path, "x.parquet") == []


def test_a_file_that_is_not_parquet_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    file.write_bytes(b"not it")
    for read in (parquet.count_of, lambda file: list(parquet.rows_of(file))):
        with pytest.raises(Misconfigured, match=r"x\.parquet cannot be read"):
            read(file)


# --- other people's files --------------------------------------------------------------------------------------------


def test_a_row_of_few_columns_is_a_click_with_an_id_of_its_own_making() -> None:
    row = {"user_id": 17850, "item_id": 22423, "time": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)}
    body = parquet.event_of_row(row)
    assert (body["user_id"], body["item_id"], body["type"], body["time_ms"]) == ("17850", "22423", "click", T)
    assert parquet.event_of_row(row) == body
    assert parquet.event_of_row({**row, "item_id": 1})["event_id"] != body["event_id"]
    event_of({"v": 1, **body})


@pytest.mark.parametrize(
    ("time", "unit"),
    [(T, "ms"), (T / 1000, "s"), (T * 1000, "us"), (T * 1_000_000, "ns"), (datetime(2023, 11, 14, 22, 13, 20), "s")],
)
def test_times_are_read_in_the_unit_that_is_told(time: Any, unit: str) -> None:
    assert parquet.event_of_row({"user_id": "u", "item_id": "i", "time": time}, unit)["time_ms"] == T


def test_invalid_numbers_are_left_out() -> None:
    nan = float("nan")
    assert parquet.event_of_row({"user_id": "u", "item_id": "i", "time": T, "value": nan})["value"] == 1.0
    body = parquet.item_of_row(
        {"item_id": "i", "title": "t", "price": nan, "watts": nan, "tags": ["a", "b"], "no": None}
    )
    assert (body["price"], body["attributes"]) == (None, {"tags": "a|b"})


def test_rows_go_through_the_door_and_each_refusal_is_counted_with_its_reason() -> None:
    door, outcomes = Door(), {}
    good = [{"event_id": f"e{n}", "user_id": "u", "item_id": "i", "type": "view", "time_ms": T} for n in range(1_200)]
    items = [{"item_id": "lamp", "title": "A lamp"}, {"item_id": None, "title": "x"}, {"item_id": "y", "title": " "}]
    users = [("u", {"country": "GB"}), ("v", {"country": 7})]

    async def story(url: str) -> None:
        async with AsyncClient(ingest=url) as client:
            outcomes["events"] = await deliver(client, "events", [*good, {**good[0], "type": "look"}])
            outcomes["items"] = await deliver(client, "items", items)
            outcomes["users"] = await deliver(client, "users", users)

    with served(door.app) as url:
        asyncio.run(story(url))
    assert outcomes["events"].accepted == len(door.clicks) == 1_200
    assert outcomes["events"].refused == {"refused: type unknown_type": 1}
    assert "'look'" in outcomes["events"].shown[0]
    assert outcomes["items"].accepted == 1
    assert outcomes["items"].refused == {"refused: item_id wrong_type": 1, "refused: title no_title": 1}
    assert (outcomes["users"].accepted, outcomes["users"].refused) == (1, {"refused: country wrong_type": 1})
    assert ImportOutcome().count == 0
