"""The demo's data: every figure that README, design and docs state of it is checked against the file itself."""

import re
from pathlib import Path

import polars as pl
import pytest

from local.layout import ROOT
from nearline.datasets import OTHER, Prepared, derived_category, load_online_retail
from nearline.errors import Misconfigured
from nearline.events import decode_event
from nearline.ids import check_id
from nearline.items import decode_item, encode_item
from nearline.replay import load_recording, messages

FOLDER = ROOT / "data" / "online-retail"


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return load_online_retail(FOLDER)


def test_everything_that_is_dropped_is_counted_under_its_reason(prepared: Prepared) -> None:
    assert prepared.rows == 541_909
    assert dict(prepared.dropped) == {
        "code of a service, not an item": 2_995,
        "no customer": 134_005,
        "cancelled invoice": 8_539,
        "quantity not above 0": 0,
        "price not above 0": 33,
        "same item again in one invoice (merged)": 10_011,
    }
    assert prepared.rows - sum(prepared.dropped.values()) == prepared.events.height == 386_326


def test_users_and_items_are_as_many_as_documented(prepared: Prepared) -> None:
    assert prepared.events["user_id"].n_unique() == 4_334
    assert len(prepared.items) == 3_659
    assert set(prepared.events["item_id"]) == set(prepared.items)


def test_the_readme_beside_the_data_says_what_the_report_says(prepared: Prepared) -> None:
    assert prepared.report() in (FOLDER / "README.md").read_text()


def test_a_filter_that_a_guide_sends_to_the_demo_names_categories_that_it_has(prepared: Prepared) -> None:
    there = {item.category for item in prepared.items.values()}
    pages = ("README.md", "docs/quick-start.md", "docs/sending.md", "docs/filters.md")
    examples = "".join(part for page in pages for part in shell_blocks((FOLDER.parents[1] / page).read_text()))
    filters = re.findall(r"category (?:= |in \()([^)']*)", examples)
    named = {category for wanted in filters for category in re.findall(r'^"([^"]+)|, "([^"]+)', wanted)}
    assert filters
    assert {one or other for one, other in named} <= there


def shell_blocks(page: str) -> list[str]:
    return re.findall(r"```sh\n(.*?)```", page, re.DOTALL)


def test_an_event_is_one_users_purchase_of_one_item_in_one_invoice(prepared: Prepared) -> None:
    events = prepared.events
    assert events["event_id"].n_unique() == events.height
    assert events["event_id"].str.contains(r"^or-\d{6}-\d{5}[A-Za-z]*$").all()
    assert events["type"].unique().to_list() == ["purchase"]
    assert (events["value"] >= 0).all()
    assert events.columns == ["user_id", "item_id", "type", "time_ms", "value", "event_id", "country"]


def test_every_event_names_the_country_of_its_invoice_where_one_was_given(prepared: Prepared) -> None:
    events = prepared.events
    assert events.filter(event_id="or-536365-85123A")["country"].to_list() == ["United Kingdom"]
    assert events["country"].n_unique() == 37  # 36 countries and, of 4 users' events, none
    assert events.filter(pl.col("country").is_null())["user_id"].n_unique() == 4


def test_replayed_events_are_valid_and_carry_their_country() -> None:
    recording = load_recording(FOLDER)
    for _, raw in messages(recording.events[:100], shift_ms=0):
        event = decode_event(raw, append_ms=1_400_000_000_000)
        assert event.context["country"] in ("United Kingdom", "France", "Australia")
    unknown = [event for event in recording.events if not event.context]
    assert len({event.user_id for event in unknown}) == 4


def test_an_item_bought_twice_in_one_invoice_is_one_event_worth_both(prepared: Prepared) -> None:
    # Invoice 536409 lists 21866 twice, one piece at 1.25 each time.
    twice = prepared.events.filter(event_id="or-536409-21866")
    assert twice["value"].to_list() == [2.5]


def test_events_come_in_their_total_order(prepared: Prepared) -> None:
    order = prepared.events.select("time_ms", "event_id")
    assert order.equals(order.sort("time_ms", "event_id"))


def test_a_basket_shares_one_moment(prepared: Prepared) -> None:
    invoice = prepared.events["event_id"].str.split("-").list.get(1)
    moments = (
        prepared.events.with_columns(invoice.alias("invoice")).group_by("invoice").agg(pl.col("time_ms").n_unique())
    )
    assert moments["time_ms"].max() == 1


def test_every_item_passes_the_door_of_the_topic_items(prepared: Prepared) -> None:
    for item_id, item in prepared.items.items():
        assert check_id("item_id", item_id) == item_id
        assert decode_item(encode_item(item)) == item


def test_the_most_frequent_title_and_the_median_price_win(prepared: Prepared) -> None:
    item = prepared.items["85123A"]  # sold under two descriptions, at 2.40 to 5.79
    assert item.title == "WHITE HANGING HEART T-LIGHT HOLDER"
    assert item.price == 2.95
    assert item.category == "candles"
    assert item.attributes == {"category_derived": True}


@pytest.mark.parametrize(
    ("title", "category"),
    [
        ("JUMBO BAG VINTAGE CHRISTMAS", "christmas"),
        ("JUMBO BAG RED RETROSPOT", "bags"),
        ("SET OF 6 HERB TINS SKETCHBOOK", "stationery"),
        ("PACK OF 72 RETROSPOT CAKE CASES", "baking"),
        ("I LOVE LONDON", OTHER),
        ("", OTHER),
    ],
)
def test_the_last_telling_word_of_a_title_is_its_category(title: str, category: str) -> None:
    assert derived_category(title) == category


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="online_retail"):
        load_online_retail(tmp_path)
