"""A shop's own tables become requests that ingest accepts."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from nearline.cli.folders import FolderReport, parts_of
from nearline.errors import BadInput, Misconfigured, NearlineError
from nearline.events import decode_event
from nearline.items import decode_item
from nearline.tables import scan
from tools.tea_shop import FOLDER, write

NAMES = """
[interactions]
file = "visits.csv"
user_id = "customer"
item_id = "sku"
time = "at"
type = "what"
types = { bought = "purchase" }
filter = { shop = ["web"] }
[items]
file = "products.csv"
item_id = "sku"
title = "name"
separator = "/"
[users]
file = "people.csv"
user_id = "customer"
interests = "likes"
separator = "/"
"""
VISITS = """customer,sku,what,at,shop
007,0012,bought,2026-06-01 10:00:00,web
007,0013,,2026-06-01T10:00:01,web
8,1,view,,street
"""
PRODUCTS = """sku;name;price;flavours;organic;grams;added
0012;1984;3,5;floral/ malty;true;50;2026-01-02
0013;;4;;false;;
"""


def shop(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        suffix = ".toml" if name == "dataset" else ".csv"
        (folder / f"{name}{suffix}").write_text(text)
    return folder


def bodies(folder: Path, door: str, **options: Any) -> list[Any]:
    (found,) = (part for part in parts_of(folder, None, **options) if part[0] == door)
    read = list(found[1])
    assert found[2] == len(read)
    return read


def test_columns_types_times_and_filters_are_what_the_description_says(tmp_path: Path) -> None:
    first, second = bodies(
        shop(tmp_path, dataset=NAMES, visits=VISITS, products="sku,name\n0012,A\n", people="customer,likes\n7,\n"),
        "events",
    )
    assert (first["user_id"], first["item_id"], first["type"]) == ("007", "0012", "purchase")
    assert first["time_ms"] == 1_780_308_000_000
    assert (second["type"], second["time_ms"]) == ("click", 1_780_308_001_000)
    assert first["event_id"] != second["event_id"]
    again = bodies(tmp_path, "events")
    assert [one["event_id"] for one in again] == [first["event_id"], second["event_id"]]


def test_an_item_keeps_its_texts_as_they_stand_and_its_other_columns_as_attributes(tmp_path: Path) -> None:
    toml = NAMES.replace('title = "name"', 'title = "name"\nlisted_ms = "added"')
    first, second = bodies(
        shop(tmp_path, dataset=toml, visits=VISITS, products=PRODUCTS, people="customer,likes\n1,\n"), "items"
    )
    assert first == {
        "item_id": "0012",
        "title": "1984",
        "listed_ms": 1_767_312_000_000,
        "attributes": {"flavours": "floral|malty", "organic": True, "grams": 50},
    }
    assert second["title"] == "0013", "an item without a title is called by its id"
    assert second["attributes"] == {"organic": False}


def test_interests_are_several_values_and_further_columns_are_a_users_attributes(tmp_path: Path) -> None:
    people = "customer,likes,country,tier\n007,green/ white,DE,gold\n8,,,\n"
    shop(tmp_path, dataset=NAMES, visits=VISITS, products="sku,name\n1,A\n", people=people)
    assert bodies(tmp_path, "users") == [
        ("007", {"country": "DE", "interests": ["green", "white"], "attributes": {"tier": "gold"}}),
        ("8", {}),
    ]


def test_an_event_without_a_time_is_counted_and_not_sent(tmp_path: Path) -> None:
    """At the door it would become the time of the import."""
    visits = "user_id,item_id,time\nu,i,1700000000\nu,i,\n"
    shop(tmp_path, interactions=visits)
    reports: list[FolderReport] = []
    (good,) = bodies(tmp_path, "events", unit="s", reports=reports)
    assert good["time_ms"] == 1_700_000_000_000
    assert reports[0].counted["rows dropped: no time"] == 1
    assert reports[0].shown["rows dropped: no time"] == ["interactions.csv row 2"]
    assert reports[0].lost == 1


def test_numbers_are_read_in_the_unit_that_was_given_or_described(tmp_path: Path) -> None:
    shop(tmp_path, interactions="user_id,item_id,time\nu,i,1700000000\n", dataset='[interactions]\ntime_unit = "s"\n')
    assert bodies(tmp_path, "events")[0]["time_ms"] == 1_700_000_000_000
    with pytest.raises(BadInput, match=r"it looks like seconds: set \[interactions\] time_unit = 's'"):
        bodies(tmp_path, "events", unit="ms")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "nothing to import"),
        ({"interactions": "user_id,item,time\nu,i,1\n"}, "no column 'item_id' (did you mean 'item'?)"),
        ({"interactions": "user_id,item_id,time\nu,i,soon\n"}, "none of 1 rows is left: 1 rows dropped: no time"),
        ({"dataset": '[items]\nfile = "product.csv"', "products": "a\n1\n"}, "did you mean 'products.csv'?"),
        ({"items": "item_id\n1\n", "dataset": '[items]\nattributes = ["colour"]'}, "no column 'colour'"),
        (
            {"interactions": "user_id,item_id,time\nu,i,1\n", "dataset": "[interactions]\nfilter = {split = [1]}"},
            "'split'",
        ),
    ],
)
def test_an_inconsistent_folder_is_refused_before_anything_is_sent(
    tmp_path: Path, files: dict[str, str], told: str
) -> None:
    with pytest.raises(NearlineError) as refused:
        parts_of(shop(tmp_path, **files), None)
    assert told in str(refused.value)


def test_a_folder_of_both_formats_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(Misconfigured, match="Parquet and CSV"):
        scan(tmp_path)


def test_a_number_that_is_whole_at_first_may_have_a_fraction_later(tmp_path: Path) -> None:
    rows = "".join(f"{number},1\n" for number in range(20_000))
    shop(tmp_path, items=f"item_id,grams\n{rows}x,1.5\n")
    assert bodies(tmp_path, "items")[-1]["attributes"] == {"grams": 1.5}


# --- the invented shop -----------------------------------------------------------------------------------------------


def test_the_tea_shop_is_what_its_program_writes(tmp_path: Path) -> None:
    write(tmp_path)
    for file in sorted(tmp_path.iterdir()):
        assert file.read_bytes() == (FOLDER / file.name).read_bytes(), f"{file.name}: run python3 -m tools.tea_shop"


def test_all_of_the_tea_shop_is_taken() -> None:
    import orjson

    now_ms = 1_800_000_000_000
    parts = {door: list(bodies) for door, bodies, _ in parts_of(FOLDER, None)}
    assert {door: len(all_of) for door, all_of in parts.items()} == {"items": 144, "users": 400, "events": 6_984}
    for event in parts["events"]:
        decode_event(orjson.dumps({"v": 1, **event}), append_ms=now_ms)
    for item in parts["items"]:
        decode_item(orjson.dumps({"v": 1, **{name: value for name, value in item.items() if name != "item_id"}}))
    assert len({event["event_id"] for event in parts["events"]}) == 6_984
