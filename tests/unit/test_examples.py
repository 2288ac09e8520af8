"""The categories, items and users that examples name are in the demo's data, or an example adds them."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from local.layout import ROOT
from nearline.datasets import load_online_retail
from tests.support.shop import documents

DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "nearline_client" / "README.md",
    DOCS / "api_examples.toml",
    # The log is about the past; what is measured on other data names that data's items.
    *sorted(page for page in DOCS.glob("*.md") if page.name not in ("log.md", "benchmarks.md", "model.md")),
]
NOT_NAMES = ("…", "$CATEGORY", "CATEGORY_L1", "kind")  # the last ones are columns of other data sets
CATEGORY = (
    r'category ?(?:=|==|!=) ?"([^"]+)"',
    r"category (?:not )?in \(([^)…]+)\)",
    r"category=\[([^\]]+)\]",
    r"[?&]category=([a-z]+)",
    r'"category": "([^"]+)"',
    r"--category ([a-z]+)",
    r'"CATEGORY": \'"([^"]+)"',
)
ITEM = (
    r'"item_id": "([^"…]+)"',
    r"nearline (?:click|why) \w+ (\w[\w-]*\d)\b",
    r"nearline item \w+ (\w[\w-]*\d)\b",
    r"(?<=/similar/)(\w+)",
    r":80\d\d/items/([\w-]+)",
    r"exclude=(\w+)",
    r'"?(?:exclude|items|item_ids)"?(?:=| = |: )\[("[^\]{]+)\]',
    r'(?:similar|audience|put_item|get_item|patch_item|delete_item)\("([^"]+)"',
    r'(?<!_)event\("[^"]+", "([^"]+)"',
)
USER = (
    r'"user_id": "([\w-]+)"',
    r"nearline (?:recommend|click|why) (?![A-Z]+\b)(\w+)",
    r"(?<=/recommend/)(\d\w*)",
    r'(?:recommend|known_of_user|similar_users)\("([^"]+)"',
)
ADDED = re.compile(r"lamp-\d+")  # by an example of ours


def named(page: Path, patterns: tuple[str, ...]) -> set[str]:
    text = page.read_text()
    found = [one for pattern in patterns for one in re.findall(pattern, text)]
    return {each.strip().strip("\"'") for one in found for each in one.split(",")} - {*NOT_NAMES}


def examples_in(document: Any) -> Iterator[Any]:
    """Every example in a document, wherever it stands."""
    if isinstance(document, dict):
        for name, value in document.items():
            if name in ("example", "examples"):
                yield value
            else:
                yield from examples_in(value)
    elif isinstance(document, list):
        for value in document:
            yield from examples_in(value)


@cache
def demo() -> tuple[set[str], set[str], set[str]]:
    """The categories, items and users of both data sets that come with the code."""
    gifts = load_online_retail(ROOT / "data" / "online-retail")
    tea = ROOT / "data" / "tea-shop"
    products, customers = ((tea / name).read_text().splitlines()[1:] for name in ("products.csv", "customers.csv"))
    kinds = {line.rsplit(",", 5)[1] for line in products}
    return (
        {item.category for item in gifts.items.values()} | kinds,
        {*gifts.items, *(line.split(",", 1)[0] for line in products)},
        {*gifts.events["user_id"], *(line.split(",", 1)[0] for line in customers)},
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_what_an_example_names_is_in_the_demo(page: Path) -> None:
    categories, items, users = demo()
    assert named(page, CATEGORY) - categories == set()
    assert {one for one in named(page, ITEM) if not ADDED.fullmatch(one)} - items == set()
    assert named(page, USER) - users == set()


@pytest.mark.parametrize("service", ["retrieval", "ingest"])
def test_what_an_example_of_the_api_s_document_names_is_in_the_demo(service: str, tmp_path: Path) -> None:
    page = tmp_path / "document.json"
    page.write_text("\n".join(json.dumps(one).replace('\\"', '"') for one in examples_in(documents()[service])))
    categories, items, users = demo()
    assert named(page, CATEGORY) - categories == set()
    assert {one for one in named(page, ITEM) if not ADDED.fullmatch(one)} - items <= {"no-such-item"}
    assert named(page, USER) - users <= {"s-1", "u-unknown"}  # a session, and an answer to an unknown user


def test_a_name_that_is_not_in_the_demo_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '`category = "lantern"`, `category in ("mug", "candles")`, `bin/nearline click 17850 no-such-item-1`'
    )
    assert named(page, CATEGORY) - demo()[0] == {"lantern", "mug"}
    assert named(page, ITEM) - demo()[1] == {"no-such-item-1"}
    assert named(page, USER) == {"17850"}
