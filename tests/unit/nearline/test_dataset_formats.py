"""Public data sets and exports that are read by their name, each on a few invented rows of its shape."""

from pathlib import Path
from typing import Any

import pytest

from nearline.cli.folders import parts_of
from nearline.dataset_description import describe
from nearline.dataset_formats import FORMATS
from nearline.errors import Misconfigured

AT = 1_616_666_400_000  # 2021-03-25 10:00 UTC
Found = tuple[str, ...]
ROWS: dict[str, tuple[dict[str, str], list[Found], list[str]]] = {  # files; user, item and type of events; titles
    "movielens": (
        {
            "ratings.csv": "userId,movieId,rating,timestamp\n1,11,4.0,1616666400\n",
            "movies.csv": "movieId,title,genres\n11,Alpha (1995),Drama|Comedy\n",
        },
        [("1", "11", "click")],
        ["Alpha (1995)"],
    ),
    "retailrocket": (
        {"events.csv": f"timestamp,visitorid,event,itemid,shop\n{AT},5,addtocart,9,\n{AT},5,transaction,9,1\n"},
        [("5", "9", "add_to_cart"), ("5", "9", "purchase")],
        [],
    ),
    "yoochoose": ({"yoochoose-clicks.dat": "1,2021-03-25T10:00:00.000Z,501,0\n"}, [("1", "501", "click")], []),
    "otto": (
        {"train.jsonl": f'{{"session":1,"events":[{{"aid":5,"ts":{AT},"type":"carts"}}]}}\n'},
        [("1", "5", "add_to_cart")],
        [],
    ),
    "rees46": (
        {
            "2019-Oct.csv": "event_time,event_type,product_id,price,user_id\n"
            "2021-03-25 10:00:00 UTC,cart,7,10.5,5\n2021-03-25 10:00:01 UTC,view,7,10.5,5\n"
        },
        [("5", "7", "add_to_cart"), ("5", "7", "view")],
        [],
    ),
    "hm": (
        {
            "transactions_train.csv": "t_dat,customer_id,article_id,price\n2021-03-25,aa,0100,0.02\n",
            "articles.csv": "article_id,prod_name,product_type_name,detail_desc\n0100,Plain top,Top,soft\n",
        },
        [("aa", "0100", "click")],
        ["Plain top"],
    ),
    "mind": ({"news.tsv": 'N1\tnews\tworld\t"Tea" today\tAbs\t\t[]\t[]\n'}, [], ['"Tea" today']),
    "amazon-reviews": (
        {"reviews.jsonl": f'{{"user_id":"A","parent_asin":"B01","timestamp":{AT},"rating":5.0}}\n'},
        [("A", "B01", "click")],
        [],
    ),
    "taobao": ({"UserBehavior.csv": "11,701,31,buy,1616666400\n"}, [("11", "701", "purchase")], []),
    "ga4": (
        {
            "events.jsonl": f'{{"user_pseudo_id":"1.2","event_timestamp":"{AT}000","event_name":"view_item",'
            f'"items":[{{"item_id":"S1"}}]}}\n{{"user_pseudo_id":"1.2","event_timestamp":"{AT}000",'
            '"event_name":"page_view","items":[]}\n'
        },
        [("1.2", "S1", "view")],
        [],
    ),
    "segment": (
        {
            "events.jsonl": '{"userId":"u","messageId":"m","timestamp":"2021-03-25T10:00:00.000Z",'
            '"event":"Product Viewed","properties":{"product_id":"S1"}}\n'
        },
        [("u", "S1", "view")],
        [],
    ),
    "shopify": (
        {
            "products_export.csv": "Handle,Title,Body (HTML),Vendor,Type,Tags,Published,Variant Price\n"
            'shirt,Shirt,soft,Acme,Shirts,"blue, soft",TRUE,10\nshirt,,,,,,,11\n'
        },
        [],
        ["Shirt"],
    ),
    "google-merchant": (
        {
            "products.tsv": "id\ttitle\tavailability\tprice\tgoogle_product_category\n"
            "S1\tRed lamp\tin_stock\t1,015.00 USD\tHome\n"
        },
        [],
        ["Red lamp"],
    ),
    "personalize": (
        {
            "interactions.csv": "USER_ID,ITEM_ID,TIMESTAMP\n1,71,1616666400\n",
            "items.csv": "ITEM_ID,GENRES\n71,Drama\n",
            "users.csv": "USER_ID,AGE\n1,34\n",
        },
        [("1", "71", "click")],
        ["71"],
    ),
    "recbole": (
        {"data.inter": "user_id:token\titem_id:token\ttimestamp:float\n1\t7\t1616666400.0\n"},
        [("1", "7", "click")],
        [],
    ),
    "gorse": (
        {"feedback.csv": "FeedbackType,UserId,ItemId,Timestamp\nstar,u,i,2021-03-25T10:00:00Z\n"},
        [("u", "i", "like")],
        [],
    ),
}


def read(folder: Path, files: dict[str, str], toml: str) -> dict[str, list[Any]]:
    (folder / "dataset.toml").write_text(toml)
    for name, content in files.items():
        (folder / name).write_text(content)
    return {what: list(bodies) for what, bodies, _ in parts_of(folder, None)}


@pytest.mark.parametrize("name", FORMATS)
def test_a_known_set_is_read_by_its_name(tmp_path: Path, name: str) -> None:
    files, events, titles = ROWS[name]
    found = read(tmp_path, files, f'format = "{name}"\n')
    told = [(event["user_id"], event["item_id"], event["type"]) for event in found.get("events", [])]
    assert told == events
    assert [item["title"] for item in found.get("items", [])] == titles
    assert all(event["time_ms"] // 86_400_000 == AT // 86_400_000 for event in found.get("events", []))


def test_keys_beside_the_name_go_before_its_own(tmp_path: Path) -> None:
    files = {"ratings-2.csv": ROWS["movielens"][0]["ratings.csv"], "movies.csv": ROWS["movielens"][0]["movies.csv"]}
    found = read(tmp_path, files, 'format = "movielens"\n[interactions]\nfile = "ratings-2.csv"\n')
    assert [event["user_id"] for event in found["events"]] == ["1"]


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(Misconfigured, match="did you mean 'movielens'"):
        describe({"format": "movielense"})
