"""The language of filters: what it means, and refusals that point at the place."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.layout import ROOT
from nearline.filters import (
    MAX_BYTES,
    MAX_COMPARISONS,
    MAX_DEPTH,
    MAX_PIECES,
    MAX_STORED_BYTES,
    AllOf,
    Compared,
    FilterError,
    Missing,
    Not,
    Same,
    narrowed,
    parse,
)
from tests.support.properties import examples


def test_an_expression_becomes_a_tree() -> None:
    found = parse('category in ("B", "A") and price < 20 and brand != "x"').node
    wanted = {Same("category", ("A", "B")), Compared("price", "<", 20.0), Not(Same("brand", ("x",)))}
    assert isinstance(found, AllOf)
    assert set(found.parts) == wanted


def test_an_attribute_may_have_any_name() -> None:
    found = parse("""attributes."a b" = true or attributes.in is not missing""")
    assert found.attributes == (("a b", 0), ("in", 27))
    assert Not(Missing("attributes.in")) in found.node.parts  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "other",
    [
        "brand='x' AND price>=1",
        '(price >= 1.0) and ((brand == "x"))',
        'price>=1 and brand="\\u0078" and price>=1',
    ],
)
def test_equivalent_filters_have_the_same_key(other: str) -> None:
    assert parse(other).key == parse('brand = "x" and price >= 1').key


def test_a_number_and_a_truth_value_are_different_values() -> None:
    assert parse("attributes.a = 1 or attributes.a = true").key.count("Same") == 2


@pytest.mark.parametrize(
    ("expression", "position", "problem"),
    [
        ("", 0, "ends too early"),
        ("price < ", 8, "expected a number"),
        ('price < "x"', 8, "price is a number"),
        ("price = true", 8, "price is a number"),
        ("brand = 3", 8, "text is written in quotes"),
        ('brand < "x"', 0, "brand is text"),
        ("attributes.a < true", 15, "compares numbers"),
        ('catgory = "x"', 0, "did you mean category"),
        ('title = "x"', 0, "cannot be filtered by"),
        ("price = 1; drop table items", 9, "cannot stand here"),
        ('__import__("os")', 10, "cannot stand here"),
        ('brand = "a" or 1 = 1 --', 15, "cannot stand here"),
        ('brand = "a', 8, "has no end"),
        ('brand = "\\q"', 9, "not a character"),
        ('brand = "\\ud800"', 9, "not a character"),
        ("price < 1e999", 8, "too large"),
        ("(" * 1_500 + "price = 1" + ")" * 1_500, 50, "more than 50 nested brackets"),
        ("not " * 500 + "price = 1", 200, "more than 50 nested brackets"),
        ("not (" * 200 + "price = 1" + ")" * 200, 125, "more than 50 nested brackets"),
        (" or ".join(["price=1"] * 101), 1_105, "more than 100 comparisons"),
        ("price in (" + "1," * 600 + "1)", 1_009, "more than 500 brackets, commas"),
        ("(" * 2_000, 50, "more than 50 nested brackets"),
        ("x" * (MAX_BYTES + 1), MAX_BYTES, "4,001 bytes"),
        ("é" * MAX_BYTES, MAX_BYTES // 2, "8,000 bytes"),
    ],
)
def test_a_refusal_points_at_the_place(expression: str, position: int, problem: str) -> None:
    with pytest.raises(FilterError, match=problem) as refused:
        parse(expression)
    assert refused.value.position == position
    assert str(refused.value).endswith("^")
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "expression",
    [
        "(" * 50 + "price in (1)" + ")" * 50,
        "not " * 50 + "price not in (1)",
        "not (" * 25 + "brand is not missing" + ")" * 25,
        " and ".join(["not (price < 1)"] * 70),
        " or ".join(["price=1"] * 100),
        " or ".join(["price IN (1) or brand IS missing"] * 50),
        " or ".join([f"attributes.{word} = 1" for word in ("in", "is", "not", "and") for _ in range(25)]),
        'brand in ("(((", "not not", "= = =") or ' + " or ".join(['brand = "in ( is = <"'] * 99),
        "price in (" + ",".join(["1"] * 400) + ")",
    ],
)
def test_an_expression_at_the_bounds_is_a_filter(expression: str) -> None:
    parse(expression)


def test_expressions_beyond_the_bounds_never_reach_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearline.filters._parser", lambda: pytest.fail("it was parsed"))
    for expression in ("(" * 51, "not " * 51, "price=1 or " * 101, "price in (" + "1," * 500):
        with pytest.raises(FilterError, match="more than"):
            parse(expression)


def test_the_documented_examples_are_filters() -> None:
    page = (ROOT / "docs" / "filters.md").read_text()
    (block,) = re.findall(r"```filter\n(.*?)```", page, re.DOTALL)
    for example in (*block.splitlines(), *re.findall(r"filter[= ]'?(?:filter=)?(\w+ .*)'", page)):
        parse(example)
    assert len(block.splitlines()) == 7
    assert f"{MAX_BYTES:,} bytes, {MAX_DEPTH} brackets" in page
    assert f"{MAX_COMPARISONS} comparisons" in page
    assert f"{MAX_PIECES} brackets" in page
    assert f"{MAX_STORED_BYTES:,} bytes" in page


@examples(200)
@given(st.text(max_size=60) | st.text("()\"'\\=<>! ,.1aeinorstpc", max_size=60))
def test_any_text_is_parsed_or_refused(expression: str) -> None:
    place = 0
    try:
        parse(expression)
    except FilterError as refused:
        place = refused.position
    assert 0 <= place <= len(expression)


def test_filters_are_joined_and_what_is_unwanted_is_taken_out() -> None:
    wanted, unwanted = parse('brand = "x"'), parse("price < 2 or attributes.sold = true")
    found = narrowed(wanted, without=[unwanted])
    assert found is not None
    assert found.key == parse('brand = "x" and not (price < 2 or attributes.sold = true)').key
    assert found.attributes == (), "those of *without* need not exist"
    only = narrowed(None, without=[unwanted])
    assert only is not None
    assert only.key == parse("not (price < 2 or attributes.sold = true)").key
    both = narrowed(parse('attributes.a = 1 and brand = "x"'), to=unwanted)
    assert both is not None
    assert both.key == parse('attributes.a = 1 and brand = "x" and (price < 2 or attributes.sold = true)').key
    assert [name for name, _ in both.attributes] == ["a", "sold"]
    assert narrowed(wanted) is narrowed(None, to=wanted) is wanted
    assert narrowed(None) is None
