"""Data sets: what can be read, what is refused and how it says so, what is dropped and counted, in memory or not."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from nearline.dataset_description import Description
from nearline.errors import BadInput, Misconfigured, NearlineError
from nearline.features import Features
from nearline.items import decode_item, encode_item
from nearline.table_events import kept_rows, survey, typed
from nearline.tables import scan
from training.data.dataset import Dataset, load_dataset
from training.data.examples import make_batch
from training.data.log import Log
from training.data.log_building import build_log, part_of, read_notes
from training.data.splits import LeaveOneOut, TimeSplit

REPOSITORY = Path(__file__).parents[2]
DAY_MS = 86_400_000
START_MS = 1_700_000_000_000
Columns = Mapping[str, list[Any]]


def events(users: int = 4, days: int = 6) -> dict[str, list[Any]]:
    """Every user meets three items in turn, one a day."""
    rows = [
        (f"u{user}", f"i{(user + day) % 3}", START_MS + day * DAY_MS) for user in range(users) for day in range(days)
    ]
    return {"user_id": [r[0] for r in rows], "item_id": [r[1] for r in rows], "time": [r[2] for r in rows]}


def write(
    folder: Path,
    interactions: Columns | pl.DataFrame | None = None,
    items: Columns | pl.DataFrame | None = None,
    users: Columns | None = None,
    toml: str | None = None,
) -> Path:
    folder.mkdir(exist_ok=True)
    tables = {"interactions": events() if interactions is None else interactions, "items": items, "users": users}
    for name, table in tables.items():
        if table is not None:
            pl.DataFrame(table, strict=False).write_parquet(folder / f"{name}.parquet")
    if toml is not None:
        (folder / "dataset.toml").write_text(toml)
    return folder


def with_rows(*rows: tuple[Any, Any, Any]) -> dict[str, list[Any]]:
    base = events()
    for row in rows:
        for name, value in zip(("user_id", "item_id", "time"), row, strict=True):
            base[name].append(value)
    return base


# What can be read


def test_only_interactions_are_needed(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path / "shop"))
    assert (data.name, data.rows, len(data.log), data.log.users) == ("shop", 24, 24, 4)
    assert {item_id: item.title for item_id, item in data.items.items()} == {"i0": "i0", "i1": "i1", "i2": "i2"}
    assert set(data.log.kind.tolist()) == {2}  # a click
    assert data.log.value.tolist() == [1.0] * 24
    assert isinstance(data.split, TimeSplit)
    assert data.counted == {"items that only the interactions name: the id is their title": 3}


def test_every_column_of_the_catalogue_reaches_its_item(tmp_path: Path) -> None:
    catalogue: Columns = {
        "item_id": ["i0", "i1"],
        "title": ["Lamp", "Mug"],
        "description": ["warm", None],
        "category": ["light", None],
        "locale": ["en", None],
        "price": [9.5, None],
        "brand": ["Lux", None],
        "watts": [40, None],
        "colours": [["red", "blue"], []],
        "new": [True, None],
        "weight": [1.5, float("nan")],
    }
    lamp, mug, missing = load_dataset(write(tmp_path / "shop", items=catalogue)).items.values()
    assert (lamp.title, lamp.description, lamp.category, lamp.locale) == ("Lamp", "warm", "light", "en")
    assert (lamp.price, lamp.brand) == (9.5, "Lux")
    assert lamp.attributes == {"watts": 40, "colours": "red|blue", "new": True, "weight": 1.5}
    assert (mug.price, mug.attributes) == (None, {})
    assert missing.title == "i2"


def test_a_description_maps_columns_units_types_and_filters(tmp_path: Path) -> None:
    raw: Columns = {
        "customer": [1, 1, 1, 2],
        "sku": ["a", "b", "c", "a"],
        "at": [1_700_000_000, 1_700_000_000, 1_700_000_060, 1_700_000_000],
        "pos": [1, 0, 2, 0],
        "what": ["buy", "click", "click", "buy"],
        "part": ["train", "train", "train", "test"],
        "land": ["fr", "fr", "fr", "fr"],
    }
    toml = """
        joint = false
        [interactions]
        user_id = "customer"
        item_id = "sku"
        time = "at"
        time_unit = "s"
        order = "pos"
        type = "what"
        types = { buy = "purchase" }
        filter = { part = ["train"] }
        country = "land"
        [split]
        kind = "leave-one-out"
        [recipe]
        epochs = 3
    """
    data = load_dataset(write(tmp_path / "shop", raw, toml=toml))
    assert [data.log.item_ids[item] for item in data.log.item] == ["b", "a", "c"]
    assert data.log.kind.tolist() == [2, 4, 2]
    assert data.log.time_ms.tolist() == [1_700_000_000_000, 1_700_000_000_000, 1_700_000_060_000]
    assert data.log.contexts[data.log.context[0]] == {"country": "fr"}
    assert isinstance(data.split, LeaveOneOut)
    assert data.recipe == {"epochs": 3}
    assert data.counted["rows left out by the filter"] == 1


def test_user_columns_are_joined_and_event_columns_win(tmp_path: Path) -> None:
    raw: Columns = {**events(users=2, days=2), "country": [None, "Spain", None, None]}
    users: Columns = {"user_id": ["u0", "u9"], "country": ["France", "Italy"], "interests": [["tea", "art"], []]}
    log = load_dataset(write(tmp_path / "shop", raw, users=users)).log
    told = [log.contexts[row] for row in log.context]
    assert told[0] == {"country": "France", "interests": ["tea", "art"]}
    assert told[1]["country"] == "Spain"
    assert told[2:] == [{}, {}]


def test_several_values_in_a_text_may_be_parted_by_another_sign(tmp_path: Path) -> None:
    catalogue: Columns = {"item_id": ["i0"], "title": ["Lamp"], "genres": ["Drama, Comedy ,"]}
    data = load_dataset(write(tmp_path / "shop", items=catalogue, toml='[items]\nseparator = ","'))
    assert data.items["i0"].attributes == {"genres": "Drama|Comedy"}


@pytest.mark.parametrize(("unit", "factor"), [("s", 1e-3), ("ms", 1), ("us", 1_000), ("ns", 1_000_000)])
def test_times_may_be_in_any_unit(tmp_path: Path, unit: str, factor: float) -> None:
    raw = events()
    raw["time"] = [int(time_ms * factor) for time_ms in raw["time"]]
    data = load_dataset(write(tmp_path / "shop", raw, toml=f'[interactions]\ntime_unit = "{unit}"'))
    assert data.log.time_ms[0] == START_MS


def test_times_may_be_dates_or_texts_of_dates(tmp_path: Path) -> None:
    raw = pl.DataFrame(events()).with_columns(pl.from_epoch("time", "ms"))
    assert load_dataset(write(tmp_path / "dates", raw)).log.time_ms[0] == START_MS
    paris = raw.with_columns(pl.col("time").dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Paris"))
    assert load_dataset(write(tmp_path / "zoned", paris)).log.time_ms[0] == START_MS
    days = raw.with_columns(pl.col("time").dt.date())
    assert load_dataset(write(tmp_path / "days", days)).log.time_ms[0] == START_MS // DAY_MS * DAY_MS
    texts = raw.with_columns(pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%S"))
    told = write(tmp_path / "texts", texts, toml='[interactions]\ntime_unit = "datetime"')
    assert load_dataset(told).log.time_ms[0] == START_MS


def test_a_folder_may_hold_csv_as_a_shop_has_it(tmp_path: Path) -> None:
    """Ids stay as they stand, dates are times, and the log is that of the same tables in Parquet."""
    rows = pl.DataFrame(events()).with_columns(pl.col("item_id").replace("i0", "007"))
    days = rows.with_columns(pl.from_epoch("time", time_unit="ms").dt.strftime("%Y-%m-%d %H:%M:%S"))
    for name, write_it in (("csv", days.write_csv), ("parquet", rows.write_parquet)):
        (tmp_path / name).mkdir()
        write_it(tmp_path / name / f"interactions.{name}")
    (tmp_path / "csv" / "items.csv").write_text("item_id,title,price,listed_ms\n007,1984,3.5,2026-01-02\n")
    read, same = load_dataset(tmp_path / "csv"), load_dataset(tmp_path / "parquet")
    assert read.items["007"].title == "1984"
    assert (read.items["007"].price, read.items["007"].listed_ms) == (3.5, 1_767_312_000_000)
    assert sorted(read.items) == sorted(same.items) == ["007", "i1", "i2"]
    assert read.log.time_ms.tolist() == same.log.time_ms.tolist()
    assert read.digest != same.digest


def test_whole_numbers_that_were_stored_as_floats_are_the_same_ids(tmp_path: Path) -> None:
    raw: Columns = {**events(users=1), "user_id": [17850.0] * 5 + [None]}
    data = load_dataset(write(tmp_path / "shop", raw, users={"user_id": [17850], "country": ["France"]}))
    assert data.log.contexts[data.log.context[0]] == {"country": "France"}
    assert data.counted["rows dropped: no user id"] == 1


def test_the_demos_data_loads_by_its_own_description() -> None:
    data = load_dataset(REPOSITORY / "data" / "online-retail")
    assert (data.rows, len(data.log), data.log.users, len(data.items)) == (541_909, 386_326, 4_334, 3_659)
    assert data.counted["rows dropped: no customer"] == 134_005
    assert "country: United Kingdom 90.4%, Germany 2.2%" in data.report()
    stage = data.stage("test")
    assert (len(stage.judge), int(stage.fitted.sum())) == (1_395, 322_737)
    assert stage.cut_ms == 1_320_796_800_000  # 2011-11-09


@pytest.mark.parametrize(("name", "attribute"), [("amazon-beauty", "attributes"), ("ml-1m", "genres")])
def test_the_public_sets_load_by_the_descriptions_that_we_keep(tmp_path: Path, name: str, attribute: str) -> None:
    """Rows of the same columns and types; the sets themselves may not be redistributed."""
    raw: Columns = {
        "user_id": [1, 1, 1, 1, 2, 2, 2],
        "item_id": [7, 8, 9, 7, 7, 8, 9],
        "timestamp": [956_875_461, None, 956_875_501, 956_875_501, None, None, None],
        "pos": [0, 1, 2, 3, 2, 1, 0],
        "split": ["train"] * 7,
    }
    catalogue: Columns = {
        "item_id": [7, 8, 9],
        "title": ["A", "", "C"],
        attribute: ["x|y", "x", "z"],
        "sas_item": [1, 2, 3],
    }
    data = load_dataset(write(tmp_path / name, raw, items=catalogue))
    assert data.log.item.tolist() == [0, 1, 2, 0, 2, 1, 0]
    assert data.log.time_ms.tolist()[:3] == [956_875_461_000, 956_875_461_000, 956_875_501_000]
    assert data.items["7"].attributes == {attribute: "x|y"}
    assert len(data.stage("test").judge) == 2
    assert data.counted == {
        "titles were blank: replaced by the id": 1,
        "times taken from the user's event before (or after): there was none": 1,
        "times set to the first of all: no event of the user has one": 3,
    }


# Bad data: a clear error, or a default that is counted


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(NearlineError) as caught:
        load_dataset(folder, **options)
    return str(caught.value)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    empty = pl.DataFrame(schema={"user_id": pl.String, "item_id": pl.String, "time": pl.Int64})
    assert "no row" in refusal(write(tmp_path / "shop", empty))


def test_rows_of_which_none_is_left_are_refused_with_the_reasons(tmp_path: Path) -> None:
    raw: Columns = {"user_id": [None, "u"], "item_id": ["a", None], "time": [START_MS] * 2}
    told = refusal(write(tmp_path / "shop", pl.DataFrame(raw)))
    assert "none of 2 rows is left: 1 rows dropped: no user id; 1 rows dropped: no item id" in told


def test_one_user_loads_and_is_judged_alone(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path / "shop", events(users=1, days=20)))
    assert "1 user only" in data.report()
    assert len(data.stage("test").judge) == 1


def test_one_item_loads_and_the_report_says_that_there_is_nothing_to_rank(tmp_path: Path) -> None:
    raw: Columns = {**events(), "item_id": ["same"] * 24}
    data = load_dataset(write(tmp_path / "shop", raw))
    assert "1 item only: there is nothing to rank" in data.report()
    assert data.log.first_time.sum() == 4


def test_identical_items_load_and_are_counted(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path / "shop", items={"item_id": ["i0", "i1", "i2"], "title": ["Mug"] * 3}))
    assert "3 items share their title with another" in data.report()


def test_one_event_loads_and_asking_for_a_stage_says_what_is_missing(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path / "shop", events(users=1, days=1)))
    assert "1 events of 1 users" in data.report()
    with pytest.raises(BadInput, match=r"nothing to fit.*1 users, 1 events") as caught:
        data.stage("test")
    assert caught.value.reason == "nothing_to_fit"


def test_a_cut_after_the_last_event_says_that_there_is_nothing_to_judge(tmp_path: Path) -> None:
    toml = "[split]\nvalidate_from = 2030-01-01\ntest_from = 2031-01-01"
    data = load_dataset(write(tmp_path / "shop", toml=toml))
    with pytest.raises(BadInput, match=r"nothing to judge; validate_from 2030-01-01 00:00.*2023-11-14"):
        data.stage("test")


def test_impossible_prices_become_none(tmp_path: Path) -> None:
    prices = [float("nan"), -1.0, float("inf"), 1e13, 5.0, None]
    catalogue: Columns = {"item_id": [f"i{n}" for n in range(6)], "title": ["t"] * 6, "price": prices}
    data = load_dataset(write(tmp_path / "shop", items=catalogue))
    assert [item.price for item in data.items.values()] == [None] * 4 + [5.0, None]
    assert data.counted["prices set to none: not a number from 0 to 1e12"] == 4


def test_a_price_that_is_a_text_is_read_where_it_can_be(tmp_path: Path) -> None:
    catalogue: Columns = {"item_id": ["i0", "i1", "i2"], "title": ["t"] * 3, "price": ["4.50", "call us", None]}
    data = load_dataset(write(tmp_path / "shop", items=catalogue))
    assert [item.price for item in data.items.values()] == [4.5, None, None]
    assert data.counted["prices set to none: not a number from 0 to 1e12"] == 1


def test_rows_without_ids_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [(None, "i0", START_MS), ("", "i0", START_MS), ("u0", None, START_MS), ("u\x00", "i0", START_MS)]
    data = load_dataset(write(tmp_path / "shop", with_rows(*rows, ("u" * 129, "i0", START_MS))))
    assert len(data.log) == 24
    assert data.counted["rows dropped: no user id"] == 2
    assert data.counted["rows dropped: no item id"] == 1
    assert data.counted["rows dropped: an id of control characters or over 128 bytes"] == 2


def test_items_without_ids_are_dropped_and_of_two_with_one_id_the_last_counts(tmp_path: Path) -> None:
    catalogue: Columns = {"item_id": ["i0", None, "", "i0"], "title": ["old", "x", "x", "new"]}
    data = load_dataset(write(tmp_path / "shop", items=catalogue))
    assert data.items["i0"].title == "new"
    assert data.counted["items dropped: no id"] == 2
    assert data.counted["items: rows repeat an id (the last counts, its blanks do not)"] == 1


def test_titles_of_any_kind_become_items_that_the_topic_takes(tmp_path: Path) -> None:
    """100 kB, blank, emoji, right-to-left."""
    titles = ["x" * 100_000, "  ", "🕯️✨", "قهوة عربية", None]
    catalogue: Columns = {"item_id": [f"i{n}" for n in range(5)], "title": titles}
    data = load_dataset(write(tmp_path / "shop", items=catalogue))
    assert [item.title for item in data.items.values()] == ["x" * 1000, "i1", "🕯️✨", "قهوة عربية", "i4"]
    for item in data.items.values():
        assert decode_item(encode_item(item)) == item
    assert data.counted["texts cut: title of more than 1,000 characters"] == 1
    assert data.counted["titles were blank: replaced by the id"] == 2
    tokens = Features().item_inputs(list(data.items.items()))["tokens"]
    assert (tokens[:, 1] > 0).all()  # every item says something beside its id


@pytest.mark.parametrize(("factor", "unit"), [(1e-3, "seconds"), (1_000, "microseconds"), (1_000_000, "nanoseconds")])
def test_times_in_another_unit_are_refused_with_a_guess(tmp_path: Path, factor: float, unit: str) -> None:
    raw = events()
    raw["time"] = [int(time_ms * factor) for time_ms in raw["time"]]
    told = refusal(write(tmp_path / "shop", raw))
    assert f"it looks like {unit}: set [interactions] time_unit = " in told
    assert "of 24 times only 0 lie between 1980 and 2100 when read as milliseconds" in told


def test_milliseconds_that_are_said_to_be_seconds_are_refused_with_a_guess(tmp_path: Path) -> None:
    told = refusal(write(tmp_path / "shop", toml='[interactions]\ntime_unit = "s"'))
    assert "it looks like milliseconds" in told
    assert f"from {START_MS}" in told


def test_times_that_no_unit_makes_possible_are_refused(tmp_path: Path) -> None:
    assert "no unit makes them possible" in refusal(write(tmp_path / "shop", {**events(), "time": list(range(24))}))


def test_a_few_impossible_times_are_dropped_and_counted(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path / "shop", with_rows(("u0", "i0", 5), ("u0", "i0", None))))
    assert len(data.log) == 24
    assert data.counted["rows dropped: time before 1980 or after 2100"] == 1
    assert data.counted["rows dropped: no time"] == 1


def test_values_that_are_not_numbers_become_1(tmp_path: Path) -> None:
    raw: Columns = {**events(users=1, days=4), "value": [2.5, None, float("nan"), float("inf")]}
    data = load_dataset(write(tmp_path / "shop", raw))
    assert data.log.value.tolist() == [2.5, 1, 1, 1]
    assert data.counted["values set to 1: none, or not a finite number"] == 3


def test_an_unknown_type_is_refused_with_the_nearest(tmp_path: Path) -> None:
    told = refusal(write(tmp_path / "shop", {**events(), "type": ["purchase"] * 3 + ["purchas"] * 21}))
    assert "21 events are of the unknown type 'purchas' (did you mean 'purchase'?)" in told
    assert '[interactions] types = { "purchas" = "purchase" }' in told


def test_a_few_unknown_types_are_dropped_and_counted(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path / "shop", {**events(), "type": ["purchase"] * 23 + ["purchas"]}))
    assert (len(data.log), data.counted["rows dropped: an unknown type"]) == (23, 1)


def test_a_missing_type_is_a_click_and_counted(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path / "shop", {**events(users=1, days=2), "type": ["like", None]}))
    assert data.log.kind.tolist() == [5, 2]
    assert data.counted["types set to click: there was none"] == 1


def test_the_latest_of_repeated_event_ids_counts(tmp_path: Path) -> None:
    raw: Columns = {**events(users=2, days=3), "event_id": ["a", "b", "a", "a", None, None]}
    data = load_dataset(write(tmp_path / "shop", raw))
    assert len(data.log) == 5  # u0 lost the first of its two "a"; u1 has an "a" of its own
    assert data.log.time_ms[:2].tolist() == [START_MS + DAY_MS, START_MS + 2 * DAY_MS]
    assert data.counted["rows dropped: the event id came again (the latest counts)"] == 1


def test_unseen_categories_and_unknown_countries_are_just_values(tmp_path: Path) -> None:
    raw: Columns = {**events(), "country": ["Atlantis"] * 24}
    catalogue: Columns = {
        "item_id": ["i0", "i1", "i2"],
        "title": ["a", "b", "c"],
        "category": ["x", "never before", None],
    }
    data = load_dataset(write(tmp_path / "shop", raw, items=catalogue))
    assert data.items["i1"].category == "never before"
    assert "country: Atlantis 100.0%" in data.report()


# What a description may not say


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("jiont = true", "unknown key 'jiont' (did you mean 'joint'?)"),
        ("[interactions]\nuserid = 'u'", "[interactions] unknown key 'userid' (did you mean 'user_id'?)"),
        ("[interactions]\ntime_unit = 'sec'", "time_unit must be one of s, ms, us, ns, datetime, came 'sec'"),
        (
            "[interactions]\ntime = 'tiem'",
            "no column 'tiem' (did you mean 'time'?); its columns are user_id, item_id, t",
        ),
        ("[interactions]\ntypes = { buy = 'purchas' }", "came 'purchas' (did you mean 'purchase'?)"),
        ("[interactions]\nfilter = { splt = ['x'] }", "no column 'splt'"),
        ("[interactions]\nfile = 'interaction.parquet'", "(did you mean 'interactions.parquet'?)"),
        ("[items]\nfile = 'things.parquet'", "no things.parquet in"),
        ("[items]\nattributes = 'genres'", "[items] attributes must be a list of texts"),
        ("joint = 'yes'", "joint must be true or false, came 'yes'"),
        ("preparation = 'online-retial'", "(did you mean 'online-retail'?)"),
        ("[split]\nkind = 'tmie'", "(did you mean 'time'?)"),
        ("[split]\nvalidate_from = 0.8", "needs both validate_from and test_from"),
        ("[split]\nvalidate_from = 0.9\ntest_from = 0.8", "validate_from must come before test_from"),
        ("[split]\nvalidate_from = 'soon'\ntest_from = 0.8", "must be a day such as 2011-10-09"),
        ("[split]\nkind = 'leave-one-out'\nvalidate_from = 0.8\ntest_from = 0.9", "leave-one-out has no moment"),
        ("[split", "is not TOML"),
    ],
)
def test_an_impossible_description_is_refused(tmp_path: Path, toml: str, told: str) -> None:
    folder = write(tmp_path / "shop", toml=toml)
    with pytest.raises(Misconfigured) as caught:
        load_dataset(folder)
    assert told in str(caught.value)


def test_a_missing_column_is_named_beside_those_that_are_there(tmp_path: Path) -> None:
    raw = events()
    raw["user"] = raw.pop("user_id")
    told = refusal(write(tmp_path / "shop", raw))
    assert "no column 'user_id' (did you mean 'user'?); its columns are item_id, time, user" in told
    assert '[interactions] user_id = "…"' in told


def test_a_folder_that_is_not_there_is_named_with_its_nearest_neighbour(tmp_path: Path) -> None:
    write(tmp_path / "shop")
    assert "(did you mean 'shop'?)" in refusal(tmp_path / "shpo")


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "interactions.parquet").write_text("user_id,item_id,time\n")
    assert "no Parquet that can be read" in refusal(tmp_path)


def test_a_shard_that_lacks_a_column_has_no_values_there(tmp_path: Path) -> None:
    folder = shards(tmp_path / "shop")
    pl.DataFrame({"user_id": ["u"], "thing": ["i"]}).write_parquet(folder / "interactions" / "9.parquet")
    assert load_dataset(folder).counted["rows dropped: no item id"] == 1


def test_items_that_are_not_parquet_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop")
    (folder / "items.parquet").write_text("item_id,title\n")
    assert "can be read" in refusal(folder)


def test_the_digest_changes_with_the_data_and_its_rules_but_not_with_the_recipe(tmp_path: Path) -> None:
    raw = events()
    plain = load_dataset(write(tmp_path / "shop", raw)).digest
    assert load_dataset(write(tmp_path / "shop", toml="[recipe]\nepochs = 3")).digest == plain
    assert load_dataset(write(tmp_path / "shop", toml="joint = false")).digest != plain
    raw["time"][-1] += 1
    assert load_dataset(write(tmp_path / "shop", raw, toml="[recipe]\nepochs = 3")).digest != plain


def test_a_description_may_lie_elsewhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "mine.toml"
    elsewhere.write_text("[split]\nkind = 'leave-one-out'")
    folder = write(tmp_path / "shop")
    assert isinstance(load_dataset(folder, elsewhere).split, LeaveOneOut)
    assert "no description" in refusal(folder, description=tmp_path / "not.toml")


# Larger than memory


def shards(folder: Path, users: int = 60, days: int = 9, count: int = 5) -> Path:
    random = np.random.default_rng(7)
    table = pl.DataFrame(events(users, days)).with_columns(
        country=pl.Series(random.choice(["France", "Spain", ""], users * days).tolist()),
        type=pl.Series(random.choice(["view", "purchase"], users * days).tolist()),
        value=pl.Series(random.integers(1, 9, users * days).astype(float)),
        event_id=pl.Series(random.integers(0, users * days, users * days).astype(str).tolist()),
        item_id=pl.Series([f"i{n}" for n in random.integers(0, 40, users * days)]),
    )
    table = table.sample(fraction=1, shuffle=True, seed=1)
    (folder / "interactions").mkdir(parents=True)
    step = -(-table.height // count)
    for number in range(count):
        table.slice(number * step, step).write_parquet(folder / "interactions" / f"{number}.parquet")
    return folder


def stories(log: Log) -> list[list[tuple[Any, ...]]]:
    """What each user did, in order, without numbers that depend on the order of users."""
    columns = [getattr(log, name).tolist() for name in ("item", "time_ms", "kind", "value", "first_time")]
    contexts = [str(sorted(log.contexts[row].items())) for row in log.context]
    baskets = (log.basket_start - log.user_start).tolist()
    told: dict[int, list[tuple[Any, ...]]] = {}
    for user, *event in zip(log.user_start.tolist(), *columns, contexts, baskets, strict=True):
        told.setdefault(user, []).append(tuple(event))
    return sorted(told.values())


def both_ways(folder: Path, memory: Path) -> tuple[Dataset, Dataset]:
    return load_dataset(folder), load_dataset(folder, memory=memory, rows_per_part=100)


def test_a_log_made_in_parts_is_the_log_made_in_memory_up_to_the_order_of_users(tmp_path: Path) -> None:
    whole, mapped = both_ways(shards(tmp_path / "shop"), tmp_path / "memory")
    assert isinstance(mapped.log.item, np.memmap)
    assert not isinstance(whole.log.item, np.memmap)
    assert stories(mapped.log) == stories(whole.log)
    assert mapped.log.users == whole.log.users == 60
    assert mapped.items == whole.items
    assert mapped.counted == whole.counted
    assert mapped.digest == whole.digest
    assert mapped.report() == whole.report()


def test_both_ways_have_the_same_stages(tmp_path: Path) -> None:
    for data in both_ways(shards(tmp_path / "shop"), tmp_path / "memory"):
        stage = data.stage("test")
        assert (len(stage.fit), len(stage.judge), len(stage.newcomers), int(stage.fitted.sum())) == (417, 60, 0, 477)
        batch = make_batch(data.log, stage.judge)
        assert (batch.types[:, 0] > 0).all()


def test_every_user_is_in_one_part_and_the_part_is_the_same_for_ever() -> None:
    users = pl.Series(["ann", "bob", "قهوة", "ann"])
    assert part_of(users, 1000).to_list() == [part_of(pl.Series([user]), 1000)[0] for user in users]
    assert part_of(users, 1000).to_list() == [888, 397, 621, 888]


def test_the_log_in_files_is_used_again_until_the_data_changes(tmp_path: Path) -> None:
    folder, memory = shards(tmp_path / "shop"), tmp_path / "memory"
    first = load_dataset(folder, memory=memory, rows_per_part=100)
    made = sorted(path.name for path in memory.iterdir())
    again = load_dataset(folder, memory=memory, rows_per_part=100)
    assert sorted(path.name for path in memory.iterdir()) == made
    assert again.report() == first.report()
    (folder / "interactions" / "0.parquet").unlink()
    changed = load_dataset(folder, memory=memory, rows_per_part=100)
    assert changed.digest != first.digest
    assert len(changed.log) < len(first.log)


def test_an_interrupted_run_leaves_nothing_that_is_taken_for_a_log(tmp_path: Path) -> None:
    """The process is killed while it writes; the next one finds no log, and makes it."""
    folder, memory = shards(tmp_path / "shop"), tmp_path / "memory"
    killed = (
        "import os, signal, sys; from pathlib import Path; from training.data import dataset, log_building\n"
        "log_building.write_log = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "dataset.load_dataset(Path(sys.argv[1]), memory=Path(sys.argv[2]), rows_per_part=100)"
    )
    ended = subprocess.run([sys.executable, "-c", killed, folder, memory], cwd=REPOSITORY, check=False)
    assert ended.returncode == -9
    assert [path.name for path in memory.iterdir() if not path.name.startswith(".")] == []
    assert len(load_dataset(folder, memory=memory, rows_per_part=100).log) > 0


def test_never_more_than_about_one_part_is_in_memory(tmp_path: Path) -> None:
    """3,600 rows in parts of about 300: however the users fall, none is near the whole."""
    data = load_dataset(shards(tmp_path / "shop", users=400), memory=tmp_path / "memory", rows_per_part=300)
    notes = read_notes(next((tmp_path / "memory").iterdir()))
    assert notes is not None
    assert sum(notes.part_rows) == data.rows == 3_600
    assert len(notes.part_rows) == 12
    assert max(notes.part_rows) < 2 * 300


def test_two_processes_may_build_the_same_log_at_once(tmp_path: Path) -> None:
    """The second finds the folder taken when it is done, and uses what is there."""
    folder, memory = shards(tmp_path / "shop"), tmp_path / "memory"
    first = load_dataset(folder, memory=memory, rows_per_part=100)
    made = next(memory.iterdir())
    frame = typed(scan(folder / "interactions"), Description(), "interactions")
    build_log(kept_rows(frame), survey(frame, None), tuple(first.items), made, rows_per_part=100, joint=True)
    assert [path.name for path in memory.iterdir()] == [made.name]
    assert load_dataset(folder, memory=memory, rows_per_part=100).report() == first.report()


# The command


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training.data.dataset", *map(str, arguments)],
        cwd=REPOSITORY,
        text=True,
        capture_output=True,
        check=False,
    )


def test_the_command_prints_the_report_and_the_sizes_of_the_split(tmp_path: Path) -> None:
    ended = command(write(tmp_path / "shop", events(days=20)))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "80 events of 4 users on 3 items" in ended.stdout
    assert "test:        fit on 72 events (68 examples with a history, 4 without), judge 4 users from" in ended.stdout


def test_the_command_refuses_without_a_traceback(tmp_path: Path) -> None:
    ended = command(write(tmp_path / "shop", toml="jiont = true"))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ")
    assert "did you mean 'joint'?" in ended.stderr
    assert "Traceback" not in ended.stderr
