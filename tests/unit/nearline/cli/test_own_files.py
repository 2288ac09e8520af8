"""Files in the shapes that people really have: every kind is read right, or is told in one line what mends it."""

import gzip
import zipfile
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
import zstandard
from typer.testing import CliRunner

from nearline.cli import importing
from nearline.cli.folders import FolderReport, parts_of
from nearline.dataset_description import Table
from nearline.errors import Misconfigured, NearlineError
from nearline.events import event_of
from nearline.items import item_of
from nearline.table_items import read_items

MORNING = 1_616_666_400_000  # 2021-03-25 10:00 UTC
DAY = 1_616_630_400_000  # 2021-03-25
ROWS = "user_id,item_id,time\nu1,2,2021-03-25 10:00:00\nu1,3,2021-03-25 10:00:01\n"


def put(folder: Path, **files: str | bytes | Mapping[str, list[Any]] | pl.DataFrame) -> Path:
    """Write *files*, whose names have two underscores where a name has its point; tables become Parquet."""
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            pl.DataFrame(content, strict=False).write_parquet(path.with_suffix(".parquet"))
    return folder


def read(folder: Path) -> tuple[dict[str, list[Any]], dict[str, FolderReport]]:
    reports: list[FolderReport] = []
    bodies = {what: list(of) for what, of, _ in parts_of(folder, None, None, reports)}
    return bodies, {report.what: report for report in reports}


def times(folder: Path) -> list[int]:
    return [event["time_ms"] for event in read(folder)[0]["events"]]


def items(folder: Path) -> list[dict[str, Any]]:
    return read(folder)[0]["items"]


def told(folder: Path) -> str:
    with pytest.raises(NearlineError) as refused:
        read(folder)
    return str(refused.value)


# --- the form of files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("interactions.csv", ROWS.replace(",", "|").encode()),
        ("interactions.tsv", ROWS.replace(",", "\t").encode()),
        ("interactions.CSV", ROWS.replace(",", ";").encode()),
        ("interactions.dat", ROWS.replace(",", "::").encode()),
        ("interactions.csv", ("sep=;\n" + ROWS.replace(",", ";")).encode()),
        ("interactions.csv", ("# written in 2021\n" + ROWS).encode()),
        ("interactions.csv", ROWS.replace(",", ", ").encode()),
        ("interactions.csv", ("\ufeff" + ROWS).replace("\n", "\r\n").encode()),
        ("interactions.csv", ROWS.replace(",", "\t").encode("utf-16")),
        ("interactions.csv.gz", gzip.compress(ROWS.encode())),
        ("interactions.csv.zst", zstandard.compress(ROWS.encode())),
    ],
)
def test_a_table_is_read_by_its_content(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert times(tmp_path) == [MORNING, MORNING + 1_000]


def test_a_zip_of_one_file_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "interactions.zip", "w") as archive:
        archive.writestr("Interactions.csv", ROWS)
    put(tmp_path, dataset__toml='[interactions]\nfile = "interactions.zip"')
    assert times(tmp_path) == [MORNING, MORNING + 1_000]


def test_json_lines_are_read_and_sessions_unfolded(tmp_path: Path) -> None:
    toml = '[interactions]\nfile = "s.jsonl"\nuser_id = "visit"\nitem_id = "thing"\ntime = "at"\ntype = "what"'
    lines = (
        '{"visit": 7, "moves": [{"thing": 5, "at": 1616666400000, "what": "view"}, {"thing": 6, "at": 1616666401000}]}'
    )
    bodies, _ = read(put(tmp_path, dataset__toml=toml, s__jsonl=lines + "\n"))
    assert [(e["user_id"], e["item_id"], e["type"]) for e in bodies["events"]] == [
        ("7", "5", "view"),
        ("7", "6", "click"),
    ]


def test_a_file_without_a_header_has_columns_by_number_or_by_given_names(tmp_path: Path) -> None:
    rows = "11,701,1616666400\n"
    by_number = '[interactions]\nuser_id = "column_1"\nitem_id = "column_2"\ntime = "column_3"\ntime_unit = "s"'
    assert times(put(tmp_path, dataset__toml=by_number, interactions__csv=rows)) == [MORNING]
    named = '[interactions]\nnames = ["user_id", "item_id", "time"]\ntime_unit = "s"'
    assert times(put(tmp_path, dataset__toml=named)) == [MORNING]


def test_folders_of_parts_are_read_without_what_programs_leave_beside_them(tmp_path: Path) -> None:
    parts = tmp_path / "interactions" / "date=2021-03-25"
    parts.mkdir(parents=True)
    (parts / "part-0.csv").write_text(ROWS)
    (parts / "part-1.csv").write_text("")
    (parts / ".part-0.csv.crc").write_text("crc")
    (tmp_path / "interactions" / "_SUCCESS").write_text("")
    assert times(tmp_path) == [MORNING, MORNING + 1_000]


def test_parts_of_different_types_have_the_type_that_holds_both(tmp_path: Path) -> None:
    parts = tmp_path / "interactions"
    parts.mkdir()
    small = pl.DataFrame({"user_id": [1], "item_id": ["a"], "time": [MORNING], "country": [None]})
    small.with_columns(pl.col("user_id").cast(pl.Int32)).write_parquet(parts / "000000_0")
    pl.DataFrame({"user_id": [1], "item_id": ["a"], "time": [MORNING], "country": ["DE"]}).write_parquet(
        parts / "b.parquet"
    )
    bodies, _ = read(tmp_path)
    assert [(e["user_id"], e.get("context")) for e in bodies["events"]] == [("1", None), ("1", {"country": "DE"})]


def test_another_encoding_is_told_with_its_line_and_can_be_named(tmp_path: Path) -> None:
    plain = "".join(f"{number},plain\n" for number in range(3_000))
    put(tmp_path, items__csv=f"item_id,title\n{plain}x,Café\n".encode("cp1252"))
    assert "items.csv, line 3002: the byte 0xe9 is not UTF-8" in told(tmp_path)
    assert items(put(tmp_path, dataset__toml='[items]\nencoding = "cp1252"'))[-1]["title"] == "Café"


def test_quotes_of_tab_separated_titles_belong_to_them(tmp_path: Path) -> None:
    put(tmp_path, items__tsv='item_id\ttitle\nN1\t"Tea" of the day\nN2\tSays "hi"\n')
    assert [item["title"] for item in items(tmp_path)] == ['"Tea" of the day', 'Says "hi"']


def test_a_row_with_more_cells_than_the_header_is_counted(tmp_path: Path) -> None:
    bodies, reports = read(put(tmp_path, interactions__csv=ROWS + "u1,4,2021-03-25 10:00:02,x,y\n"))
    assert len(bodies["events"]) == 2
    assert reports["events"].shown == {"rows dropped: more cells than the header names": ["interactions.csv row 3"]}


def test_a_description_may_begin_with_the_mark_of_windows(tmp_path: Path) -> None:
    put(tmp_path, interactions__csv=ROWS, dataset__toml="\ufeff[interactions]\ntime_unit = 'datetime'\n")
    assert len(times(tmp_path)) == 2


def test_a_hint_is_a_line_that_works(tmp_path: Path) -> None:
    rows = "user_id,item_id,time,type\nu,1,2021-03-25,Product Viewed\n"
    message = told(put(tmp_path, interactions__csv=rows))
    line = message.split("[interactions] ")[1]
    assert line == 'types = { "Product Viewed" = "view" }'
    assert len(times(put(tmp_path, dataset__toml=f"[interactions]\n{line}\n"))) == 1
    put(tmp_path, dataset__toml='[interactions]\ntypes = { Product Viewed = "view" }')
    assert "a key with blanks stands in quotes" in told(tmp_path)


# --- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "time_ms"),
    [
        ("2021-03-25 10:00:00 UTC", MORNING),
        (" 2021-03-25T10:00:00Z", MORNING),
        ("2021-03-25T10:00:00.5+00:00", MORNING + 500),
        ("2021-03-25 12:00:00+0200", MORNING),
        ("2021/3/25 10:00", MORNING),
        ("25.03.2021 10:00", MORNING),
        ("25/03/2021 10:00:00 AM", MORNING),
        ("03/25/2021 10:00:00 am", MORNING),
        ("Thu, 25 Mar 2021 10:00:00 GMT", MORNING),
        ("Mar 25, 2021 10:00 AM", MORNING),
        ("25-Mar-2021", DAY),
        ("20210325", DAY),
        ("20210325100000", MORNING),
        (str(MORNING), MORNING),
    ],
)
@pytest.mark.parametrize("parquet", [False, True])
def test_a_time_is_read_in_any_usual_form(tmp_path: Path, cell: str, time_ms: int, parquet: bool) -> None:
    if parquet:
        put(tmp_path, interactions={"user_id": ["u"], "item_id": ["i"], "time": [cell]})
    else:
        put(tmp_path, interactions__csv=f'user_id,item_id,time\nu,i,"{cell}"\n')
    assert times(tmp_path) == [time_ms]


def test_days_as_whole_numbers_are_days(tmp_path: Path) -> None:
    assert times(put(tmp_path, interactions={"user_id": ["u"], "item_id": ["i"], "time": [20210325]})) == [DAY]


def test_one_cell_without_a_time_loses_its_row_only(tmp_path: Path) -> None:
    rows = f"user_id,item_id,time\nu,1,{MORNING}\nu,2,NULL\nu,3,soon\n"
    bodies, reports = read(put(tmp_path, interactions__csv=rows))
    assert [event["item_id"] for event in bodies["events"]] == ["1"]
    assert reports["events"].counted == {"rows dropped: no time": 2}


@pytest.mark.parametrize(
    ("form", "time_ms"), [("%d/%m/%Y %I:%M %p", 1_617_444_000_000), ("%m/%d/%Y %I:%M %p", 1_614_852_000_000)]
)
def test_an_order_of_day_and_month_that_no_cell_settles_is_asked_for(tmp_path: Path, form: str, time_ms: int) -> None:
    message = told(
        put(tmp_path, interactions__csv="user_id,item_id,time\nu,1,04/04/2021 10:00 AM\nu,1,03/04/2021 10:00 AM\n")
    )
    assert '[interactions] time_format = "%d/%m/%Y %I:%M %p"' in message
    assert 'time_format = "%m/%d/%Y %I:%M %p" (month first)' in message
    assert times(put(tmp_path, dataset__toml=f'[interactions]\ntime_format = "{form}"'))[1] == time_ms


def test_a_time_zone_is_that_of_times_without_one(tmp_path: Path) -> None:
    rows = "user_id,item_id,time\nu,1,2021-03-25 11:00:00\nu,1,2021-03-25 10:00:00Z\n"
    put(tmp_path, interactions__csv=rows, dataset__toml='[interactions]\ntime_zone = "Europe/Paris"')
    assert times(tmp_path) == [MORNING, MORNING]


# --- ids -------------------------------------------------------------------------------------------------------------


def test_ids_that_were_stored_in_different_ways_meet(tmp_path: Path) -> None:
    rows = "user_id,item_id,time\n1.0, 10.0,2021-03-25\n1,10 ,2021-03-25\n,10,2021-03-25\n"
    bodies, reports = read(put(tmp_path, interactions__csv=rows, items__csv="item_id,title\n10,A\n"))
    assert {(event["user_id"], event["item_id"]) for event in bodies["events"]} == {("1", "10")}
    assert reports["events"].counted == {"rows dropped: no user id": 1}
    assert not reports["events"].hints


def test_decimal_ids_are_whole_numbers(tmp_path: Path) -> None:
    table = pl.DataFrame({"user_id": ["u"], "item_id": [Decimal("10")], "time": [MORNING]})
    assert read(put(tmp_path, interactions=table))[0]["events"][0]["item_id"] == "10"


def test_ids_that_do_not_meet_or_stand_for_no_user_are_told(tmp_path: Path) -> None:
    rows = "user_id,item_id,time\nNA,8.80E+11,2021-03-25\nNA,2,2021-03-25\n7,2,2021-03-25\n"
    _, reports = read(put(tmp_path, interactions__csv=rows, items__csv="item_id,title\n1,A\n"))
    hints = "\n".join(reports["events"].hints)
    assert "1 item ids look like Excel's rounded numbers, such as '8.80E+11'" in hints
    assert "one user, 'NA', has 2 of 3 events" in hints
    assert 'null = ["NA"]' in hints
    assert "0 of 2 items of the events are in the items' table" in hints
    bodies, _ = read(put(tmp_path, dataset__toml='[interactions]\nnull = ["NA"]'))
    assert [event["user_id"] for event in bodies["events"]] == ["7"]


# --- items -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "price"),
    [
        ("12.5", 12.5),
        ("N/A", None),
        ("—", None),
        ("Free To Play", None),
        ("", None),
        ("15.00 USD", 15.0),
        ("$7", 7.0),
        ("1,015.00 USD", 1015.0),
        ("€ 1.5", 1.5),
        ("3,5", None),
    ],
)
def test_one_cell_never_decides_for_the_prices_of_others(tmp_path: Path, cell: str, price: float | None) -> None:
    found, reports = read(put(tmp_path, items__csv=f'item_id,price\n1,"{cell}"\n2,9.99\n'))
    assert [item.get("price") for item in found["items"]] == [price, 9.99]
    lost = reports["items"].counted.get("prices set to none: not a number from 0 to 1e12", 0)
    assert lost == (price is None and cell != "")


def test_a_decimal_comma_is_a_setting(tmp_path: Path) -> None:
    put(tmp_path, items__csv="item_id;price\n1;1.015,50 €\n2;3,5\n", dataset__toml='[items]\ndecimal = ","')
    assert [item["price"] for item in items(tmp_path)] == [1015.5, 3.5]


def test_words_for_available_are_known_or_named(tmp_path: Path) -> None:
    rows = "item_id,available\n1,Y\n2,0\n3,in_stock\n4,backorder\n5,\n"
    found, reports = read(put(tmp_path, items__csv=rows))
    assert [item.get("available", True) for item in found["items"]] == [True, False, True, False, True]
    unknown = next(what for what in reports["items"].counted if what.startswith("items set to not available"))
    assert reports["items"].shown[unknown] == ["items.csv row 4: 'backorder'"]
    put(tmp_path, dataset__toml="[items]\navailability = { backorder = true }")
    assert items(tmp_path)[3].get("available", True)


def test_types_of_parquet_become_values(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {
            "item_id": ["1", "2"],
            "title": ["A", "B"],
            "price": pl.Series([Decimal("12.50"), None]),
            "description": [["one", "two"], []],
            "category": [["Home", "Kitchen"], ["Toys"]],
            "listed_ms": [1_700_000_000_000.0, float("nan")],
            "tags": [["a", None, "b"], None],
            "weight": pl.Series([Decimal("1.25"), None]),
            "width": pl.Series([19.99, None], dtype=pl.Float32),
            "released": [date(2020, 1, 1), None],
            "shelf": [2_053_013_555_631_882_655, 2],
            "images": [[{"url": "x"}], []],
            "__index_level_0__": [0, 1],
        }
    )
    found, reports = read(put(tmp_path, items=table))
    assert found["items"] == [
        {
            "item_id": "1",
            "title": "A",
            "description": "one\ntwo",
            "category": "Home",
            "price": 12.5,
            "listed_ms": 1_700_000_000_000,
            "attributes": {
                "tags": "a|b",
                "weight": 1.25,
                "width": 19.99,
                "released": "2020-01-01",
                "shelf": "2053013555631882655",
                "categories": "Home|Kitchen",
            },
        },
        {"item_id": "2", "title": "B", "category": "Toys", "attributes": {"shelf": "2", "categories": "Toys"}},
    ]
    assert list(reports["items"].counted) == [
        "columns left out: images holds List(Struct({'url': String}))",
        "columns left out: __index_level_0__ (pandas' own index)",
    ]


def test_a_text_that_looks_like_a_number_stays_a_text(tmp_path: Path) -> None:
    rows = "item_id,size,gtin,code,grams,new\n1,08,12345678901234567,1E5,50,True\n2,10,1,2,60.5,false\n"
    assert [item["attributes"] for item in items(put(tmp_path, items__csv=rows))] == [
        {"size": "08", "gtin": "12345678901234567", "code": "1E5", "grams": 50.0, "new": True},
        {"size": "10", "gtin": "1", "code": "2", "grams": 60.5, "new": False},
    ]


def test_a_time_of_listing_that_is_none_leaves_the_item(tmp_path: Path) -> None:
    rows = "item_id,listed_ms\n1,1994-05-01\n2,9999-12-31\n3,1570000001\n"
    found, reports = read(put(tmp_path, items__csv=rows))
    assert [item.get("listed_ms") for item in found["items"]] == [767_750_400_000, None, None]
    assert reports["items"].counted['listed_ms set to none: it looks like seconds, set [items] time_unit = "s"'] == 1
    assert reports["items"].counted["listed_ms set to none: no time between 1980 and a year ahead"] == 1
    put(tmp_path, items__csv="item_id,listed_ms\n3,1570000001\n", dataset__toml='[items]\ntime_unit = "s"')
    assert items(tmp_path)[0]["listed_ms"] == 1_570_000_001_000


def test_rows_with_one_id_are_one_item_of_which_the_last_values_count(tmp_path: Path) -> None:
    rows = "item_id,title,price,available,tags\na,Shirt,10,FALSE,red\nb,Hat,5,,\na,,12,,\n"
    found, reports = read(put(tmp_path, items__csv=rows))
    assert found["items"] == [
        {"item_id": "a", "title": "Shirt", "price": 12.0, "available": False, "attributes": {"tags": "red"}},
        {"item_id": "b", "title": "Hat", "price": 5.0, "attributes": {}},
    ]
    repeats = "items: rows repeat an id (the last counts, its blanks do not)"
    assert reports["items"].shown[repeats] == ["items.csv row 3: 'a'"]
    assert reports["items"].lost == 0


def test_users_repeat_by_the_same_rule(tmp_path: Path) -> None:
    found, reports = read(put(tmp_path, users__csv="user_id,country,tier\nu,DE,gold\nu,FR,\n"))
    assert found["users"] == [("u", {"country": "FR", "attributes": {"tier": "gold"}})]
    assert reports["users"].counted == {"users: rows repeat an id (the last counts, its blanks do not)": 1}


def test_an_import_sends_the_items_that_training_reads(tmp_path: Path) -> None:
    rows = f"item_id,title,listed_ms,price\n1,{'T' * 1_200},1994-05-01,N/A\n2,B,,3\n2,,2020-01-01,\n"
    put(tmp_path, items__csv=rows)
    trained = read_items(tmp_path / "items.csv", Table("items.csv"), None)
    sent, reports = read(tmp_path)
    assert [len(item["title"]) for item in sent["items"]] == [1_000, 1]
    assert reports["items"].counted == trained.counted
    assert {item["item_id"]: item.get("listed_ms") for item in sent["items"]} == {
        item_id: item.listed_ms for item_id, item in trained.items.items()
    }


def test_the_files_that_are_there_are_named_if_none_is_a_table(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"there are orders\.csv; name yours"):
        read(put(tmp_path, orders__csv="a\n"))


def test_what_training_reads_of_the_last_century_the_door_takes(tmp_path: Path) -> None:
    put(
        tmp_path,
        interactions__csv="user_id,item_id,time\nu,1,1996-06-29\n",
        items__csv="item_id,listed_ms\n1,1994-05-01\n",
    )
    found, _ = read(tmp_path)
    assert event_of({"v": 1, **found["events"][0]}).time_ms == 836_006_400_000
    assert item_of({"v": 1, "title": "A", "listed_ms": found["items"][0]["listed_ms"]}).listed_ms == 767_750_400_000


def test_a_dry_run_prints_what_would_be_sent_and_sends_nothing(tmp_path: Path) -> None:
    put(tmp_path, interactions__csv=ROWS + "u1,4,soon\n", users__csv="user_id,country\nu1,DE\n")
    result = CliRunner().invoke(importing.app, ["folder", str(tmp_path), "--dry-run"])
    lines = [orjson.loads(line) for line in result.stdout.splitlines()]
    assert [line["to"] for line in lines] == ["users", "events", "events"]
    assert [line["body"] for line in lines[1:]] == read(tmp_path)[0]["events"]
    assert "1 rows dropped: no time" in result.stderr
    assert "interactions.csv row 3" in result.stderr
    assert result.exit_code == 1


def test_a_cut_line_of_gorse_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    lines = '{"ItemId": "a"}\n{"ItemId": "b", "Categories": [], "Time\n{"ItemId": "c"}\n'
    records = list(importing._records(put(tmp_path, items__jsonl=lines)))
    assert [record.get("ItemId") for _, record in records] == ["a", None, "c"]
    assert "items.jsonl:2 is not a JSON object" in records[1][1][importing._BAD_LINE]
