"""Public data sets and exports that are read by their name: ``format = "movielens"`` in a ``dataset.toml``.

Each is a description as one would write it oneself; what the file says beside ``format`` goes before it.
"""

import re
import tomllib
from collections.abc import Mapping
from typing import Any

_DECLARED: Mapping[str, str] = {
    "movielens": """
        interactions = { file = "ratings.csv", user_id = "userId", item_id = "movieId", time = "timestamp",
                         time_unit = "s", value = "rating" }
        items = { file = "movies.csv", item_id = "movieId", null = ["(no genres listed)"] }
    """,
    "retailrocket": """
        interactions = { file = "events.csv", user_id = "visitorid", item_id = "itemid", time = "timestamp",
                         type = "event", types = { addtocart = "add_to_cart", transaction = "purchase" } }
    """,
    "yoochoose": """
        interactions = { file = "yoochoose-clicks.dat", user_id = "session", item_id = "item", time = "time",
                         names = ["session", "time", "item", "category"] }
    """,
    "otto": """
        interactions = { file = "train.jsonl", user_id = "session", item_id = "aid", time = "ts", type = "type",
                         types = { clicks = "click", carts = "add_to_cart", orders = "purchase" } }
    """,
    "rees46": """
        interactions = { file = "2019-Oct.csv", item_id = "product_id", time = "event_time", type = "event_type",
                         value = "price", types = { cart = "add_to_cart", remove_from_cart = "skip" } }
    """,
    "hm": """
        interactions = { file = "transactions_train.csv", user_id = "customer_id", item_id = "article_id",
                         time = "t_dat", value = "price" }
        items = { file = "articles.csv", item_id = "article_id", title = "prod_name", category = "product_type_name",
                  description = "detail_desc" }
    """,
    "mind": """
        items = { file = "news.tsv", item_id = "id", title = "title", description = "abstract",
                  names = ["id", "category", "subcategory", "title", "abstract", "url", "title_entities",
                           "abstract_entities"],
                  attributes = ["subcategory"] }
    """,
    "amazon-reviews": """
        interactions = { file = "reviews.jsonl", item_id = "parent_asin", time = "timestamp", value = "rating" }
    """,
    "taobao": """
        interactions = { file = "UserBehavior.csv", names = ["user_id", "item_id", "category", "type", "time"],
                         time_unit = "s", types = { pv = "view", buy = "purchase", cart = "add_to_cart",
                                                    fav = "like" } }
    """,
    "ga4": """
        interactions = { file = "events.jsonl", user_id = "user_pseudo_id", item_id = "item_id",
                         time = "event_timestamp", time_unit = "us", type = "event_name",
                         types = { view_item = "view", select_item = "click" },
                         filter = { event_name = ["view_item", "select_item", "add_to_cart", "purchase"] } }
    """,
    "segment": """
        interactions = { file = "events.jsonl", user_id = "userId", item_id = "product_id", time = "timestamp",
                         type = "event", event_id = "messageId",
                         types = { "Product Viewed" = "view", "Product Clicked" = "click",
                                   "Product Added" = "add_to_cart" },
                         filter = { event = ["Product Viewed", "Product Clicked", "Product Added"] } }
    """,
    "shopify": """
        items = { file = "products_export.csv", item_id = "Handle", title = "Title", description = "Body (HTML)",
                  brand = "Vendor", category = "Type", price = "Variant Price", available = "Published",
                  attributes = ["Tags"], separator = ", " }
    """,
    "google-merchant": """
        items = { file = "products.tsv", item_id = "id", available = "availability",
                  category = "google_product_category", availability = { preorder = true, backorder = true } }
    """,
    "personalize": """
        interactions = { file = "interactions.csv", user_id = "USER_ID", item_id = "ITEM_ID", time = "TIMESTAMP",
                         time_unit = "s" }
        items = { file = "items.csv", item_id = "ITEM_ID", time_unit = "s" }
        users = { file = "users.csv", user_id = "USER_ID" }
    """,
    "recbole": """
        interactions = { file = "data.inter", user_id = "user_id:token", item_id = "item_id:token",
                         time = "timestamp:float", time_unit = "s" }
    """,
    "gorse": """
        interactions = { file = "feedback.csv", user_id = "UserId", item_id = "ItemId", time = "Timestamp",
                         type = "FeedbackType", types = { read = "view", star = "like" } }
    """,
}
FORMATS = tuple(_DECLARED)


def declared(name: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """The description of the format *name* with the keys of *own* in the place of its own."""
    lines = re.sub(r" ?(interactions|items|users) = \{", r"\n\1 = {", " ".join(_DECLARED[name].split()))
    found = tomllib.loads(lines)
    for table, keys in own.items():
        if isinstance(keys, dict) and table in found:
            found[table] = {**found[table], **keys}
        else:
            found[table] = keys
    return found
