"""Pictures of products: the same for the same item, told apart by category, colour and pattern, and well-formed."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearline.datasets import _KINDS
from services.web.pictures import _BY_CATEGORY, PAINTS, picture


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=60))
def test_any_item_has_a_picture_without_names_styles_or_scripts(item: str, category: str, title: str) -> None:
    drawn = picture(item, category, title)
    assert ElementTree.fromstring(drawn).tag == "svg"
    assert not re.search(r"\b(id|style|class|href|onload)=(?!\"picture\")|<script|<style", drawn)
    assert drawn == picture(item, category, title)


@pytest.mark.parametrize("category", _KINDS)
def test_every_category_of_the_demo_has_a_thing_of_its_own(category: str) -> None:
    assert category in _BY_CATEGORY


@pytest.mark.parametrize("category", [*_KINDS, "shoes"])
def test_svg_paths_hold_only_valid_numbers(category: str) -> None:
    for pattern in ("SPOTTY", "STRIPE", "HEART", "STAR", "FLOWER"):
        for path in re.findall(r' d="([^"]*)"', picture("x", category, f"RED {pattern} THING")):
            assert not re.search(r"[^MmLlHhVvCcSsQqTtAaZz0-9 .,-]|\.\d+\.$|[-.]\s|[-.]$", path), path


def test_words_of_the_title_decide_colour_and_pattern() -> None:
    red, blue = (picture("85123A", "tableware", f"{colour} RETROSPOT MUG") for colour in ("RED", "BLUE"))
    assert PAINTS["red"].main in red
    assert PAINTS["blue"].main in picture("85123A", "tableware", "BLUE MUG")
    assert "<circle" in red
    assert red.count("<circle") >= 5
    assert blue != red


def test_a_title_says_more_than_its_category() -> None:
    assert picture("1", "tableware", "RED TEAPOT") != picture("1", "tableware", "RED PLATE")
