"""The declaration of signals: what each one gives, what a context keeps, and which towers this build serves."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearline.errors import Misconfigured
from nearline.features import NUMERIC, TEXT_BUCKETS, VECTORS, Features, context_token, features_of, id_token
from nearline.hashing import hash64
from nearline.items import Item
from nearline.sequences import UserSequence
from nearline.signals import (
    CONTEXT_KEYS,
    ITEM_SIGNALS,
    USER_SIGNALS,
    VERSION,
    Kind,
    Signal,
    as_plain,
    kept_context,
    newest_context,
    served_signals,
)

SAID = Features().declaration()


def buckets(*texts: str) -> list[int]:
    """The tokens of the texts as they are hashed: the known answers below."""
    return [1 + hash64(text) % (TEXT_BUCKETS - 1) for text in texts]


def alone(name: str) -> Features:
    """Features that read of an item its id and the signal *name*."""
    return Features(item=tuple(signal for signal in ITEM_SIGNALS if signal.name in ("item_id", name)))


# --- what each signal gives: one line each

GIVEN: dict[str, tuple[Item, list[int]]] = {
    "item_id": (Item("lamp"), []),
    "category": (Item("lamp", category=" Candle Holders "), buckets("category:candle holders")),
    "brand": (Item("lamp", brand="ACME"), buckets("brand:acme")),
    "locale": (Item("lamp", locale="de-AT"), buckets("locale:de-at")),
    "title": (Item("White metal LAMP"), buckets("w:white", "w:metal", "w:lamp", "p:white metal", "p:metal lamp")),
    "attributes": (
        Item("lamp", attributes={"size": 90.0, "colour": "Red|blue", "new": True, "none": 0.0, "loss": -3}),
        buckets("a:colour:red", "a:colour:blue", "a:loss:-2^1", "a:new:true", "a:none:0.0", "a:size:2^6"),
    ),
    "description": (Item("lamp", description="For tea, for two"), buckets("w:for", "w:tea", "w:two")),
    "title_trigrams": (Item("lamp"), buckets("g:<la", "g:lam", "g:amp", "g:mp>")),
}
CONTEXTS: dict[str, tuple[Any, list[str]]] = {
    "country": (" GB ", ["gb"]),
    "device": ("Phone", ["phone"]),
    "referrer": ("search", ["search"]),
    "interests": (["Tea", "lamps", "tea", 7], ["tea", "lamps", "tea"]),
}


@pytest.mark.parametrize("name", GIVEN)
def test_a_signal_of_an_item_gives_these_tokens(name: str) -> None:
    item, expected = GIVEN[name]
    assert alone(name).item_tokens("i", item) == [id_token("i"), *expected]


def test_the_price_gives_its_size_and_whether_it_is_there() -> None:
    features = alone("price")
    assert features.item_numbers(Item("lamp", price=2.5)) == [np.log1p(2.5) / 4, 1.0]
    assert features.item_numbers(Item("lamp")) == [0.0, 0.0]
    assert features.item_inputs([("i", Item("lamp", price=2.5))])[NUMERIC].shape == (1, 2)
    assert features.item_tokens("i", Item("lamp", price=2.5)) == [id_token("i")]


def test_a_users_events_give_their_items_vectors() -> None:
    features = Features(dimension=2, history_length=3)
    matrix = np.array([[1, 0], [0, 1]], np.float16)
    sequence = UserSequence("u", 1, ["a", "b"], [1, 2], ["view", "view"], [1.0, 1.0], ["1", "2"])
    batch = features.user_batch(
        matrix, *features.user_rows([sequence], {"a": 0, "b": 1}), features.contexts_of([sequence])
    )
    assert batch[VECTORS].tolist() == [[[0, 1], [1, 0], [0, 0]]]


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_signal_of_a_users_context_gives_these_tokens(name: str) -> None:
    value, expected = CONTEXTS[name]
    context = kept_context({name: value, "unknown": "x"})
    assert context is not None
    assert context.keys() == {name}
    tokens = Features().user_context([context])[0]
    assert tokens[tokens > 0].tolist() == [context_token(name, text) for text in expected]


def test_every_declared_signal_has_a_case_above() -> None:
    assert {signal.name for signal in ITEM_SIGNALS} == {*GIVEN, "price"}
    assert {signal.name for signal in USER_SIGNALS} == {*CONTEXTS, "events"}


def test_a_missing_signal_gives_nothing() -> None:
    assert Features().item_tokens("i", Item("")) == [id_token("i")]
    assert not Features().user_context([{}]).any()


# --- the declaration itself


@pytest.mark.parametrize("signals", [ITEM_SIGNALS, USER_SIGNALS], ids=["item", "user"])
def test_names_are_unique_and_no_signal_is_newer_than_the_declaration(signals: tuple[Signal, ...]) -> None:
    assert len({signal.name for signal in signals}) == len(signals)
    assert all(1 <= signal.since <= VERSION for signal in signals)


def test_the_declaration_is_raised_with_its_newest_signal() -> None:
    assert max(signal.since for signal in ITEM_SIGNALS + USER_SIGNALS) == VERSION


@pytest.mark.parametrize("signal", ITEM_SIGNALS, ids=lambda signal: signal.name)
def test_a_signal_of_an_item_reads_a_field_that_items_have(signal: Signal) -> None:
    assert signal.of == "item_id" or hasattr(Item("x"), signal.of)


# --- contexts


@pytest.mark.parametrize(
    ("context", "kept"),
    [
        ({}, None),
        ({"device": "phone"}, {"device": "phone"}),
        ({"page": "/home", "ip": "::1"}, None),
        ({"device": ""}, None),
        ({"device": "   "}, None),
        ({"device": 7, "country": None, "referrer": ["x"], "interests": {"a": 1}}, None),
        ({"device": "p" * 1000}, {"device": "p" * 64}),
        ({"interests": "tea"}, {"interests": ["tea"]}),
        ({"interests": ["tea", "tea", 3, "", "lamps"]}, {"interests": ["tea", "lamps"]}),
        ({"interests": [str(n) for n in range(9)]}, {"interests": ["0", "1", "2", "3", "4"]}),
        ({"interests": [[["deep"]], {"x": "y"}]}, None),
    ],
)
def test_a_context_keeps_declared_signals_and_drops_invalid_ones(
    context: dict[str, Any], kept: dict[str, Any] | None
) -> None:
    assert kept_context(context) == kept


def test_a_kept_context_is_written_in_one_order_however_it_came() -> None:
    given = {key: "x" for key in reversed(CONTEXT_KEYS)}
    kept = kept_context(given)
    assert kept is not None
    assert tuple(kept) == CONTEXT_KEYS


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*CONTEXT_KEYS, "other"]), anything))
def test_any_context_becomes_tokens_within_bounds_and_is_kept_only_once(context: dict[str, Any]) -> None:
    kept = kept_context(context)
    tokens = Features().user_context([kept or {}])
    assert ((tokens >= 0) & (tokens < SAID["context"][1])).all()
    assert tokens.any() == bool(kept)
    assert kept_context(kept or {}) == kept


@pytest.mark.parametrize(
    ("contexts", "newest"),
    [
        ([], {}),
        ([None, None], {}),
        ([{"device": "phone"}, None], {"device": "phone"}),
        ([{"device": "phone", "country": "GB"}, None, {"device": "desk"}], {"device": "desk", "country": "GB"}),
        ([{"interests": ["a", "b"]}, {"interests": ["c"]}], {"interests": ["c"]}),
    ],
)
def test_the_newest_value_of_each_key_counts(contexts: list[Any], newest: dict[str, Any]) -> None:
    assert newest_context(contexts) == newest


# --- which towers this build serves


def trained_with(tower: str, change: Callable[[list[dict[str, Any]]], object], *, version: int = 1) -> dict[str, Any]:
    """The declaration of towers of another release: *change* is made to the plain signals of one *tower*."""
    said = {**SAID, "version": version, tower: [dict(plain) for plain in SAID[tower]]}
    change(said[tower])
    return said


def both_versions(trained: int) -> str:
    return rf"trained with version {trained} of the features, this build has version {VERSION}: .*make train"


TOWERS = [("item", "title"), ("user", "events")]


@pytest.mark.parametrize(("tower", "name"), TOWERS)
def test_a_required_signal_that_the_tower_lacks_is_refused_with_both_versions(tower: str, name: str) -> None:
    old = trained_with(tower, lambda signals: signals.remove(next(s for s in signals if s["name"] == name)))
    with pytest.raises(Misconfigured, match=both_versions(1)) as refused:
        features_of(old)
    assert f"this build requires the signal '{name}', which the tower lacks" in str(refused.value)


@pytest.mark.parametrize("tower", ["item", "user"])
def test_a_required_signal_that_this_build_lacks_is_refused_with_both_versions(tower: str) -> None:
    new = Signal("mood", Kind.CATEGORY, "mood", required=True, since=9)
    later = trained_with(tower, lambda signals: signals.extend(as_plain([new])), version=9)
    with pytest.raises(Misconfigured, match=both_versions(9)) as refused:
        features_of(later)
    assert "it requires the signal 'mood', which this build lacks" in str(refused.value)


@pytest.mark.parametrize(("tower", "name"), [("item", "locale"), ("user", "device")])
def test_a_new_optional_signal_is_kept_from_a_tower_that_does_not_know_it(tower: str, name: str) -> None:
    old = trained_with(tower, lambda signals: signals.remove(next(s for s in signals if s["name"] == name)))
    features = features_of(old)
    assert name not in {signal.name for signal in getattr(features, tower)}
    assert len(getattr(features, tower)) == len(SAID[tower]) - 1
    if tower == "item":
        assert features.item_tokens("i", Item("", locale="en")) == [id_token("i")]
    else:
        assert not features.user_context([{"device": "phone"}]).any()


@pytest.mark.parametrize("tower", ["item", "user"])
def test_an_optional_signal_that_is_gone_from_this_build_counts_as_missing(tower: str) -> None:
    """Also a number, which keeps its two columns: the tower's tensors stay what they were."""
    gone = [Signal("mood", Kind.CATEGORY, "mood"), Signal("weight", Kind.NUMBER, "weight")]
    served = features_of(trained_with(tower, lambda signals: signals.extend(as_plain(gone))))
    lamp = Item("lamp", category="light", price=2.0)
    assert served.item_tokens("i", lamp) == Features().item_tokens("i", lamp)
    numbers = Features().item_numbers(lamp)
    assert served.item_numbers(lamp) == ([*numbers, 0.0, 0.0] if tower == "item" else numbers)
    assert (served.user_context([{"country": "Norway"}]) == Features().user_context([{"country": "Norway"}])).all()


@pytest.mark.parametrize("change", [{"most": 3}, {"of": "brand"}, {"kind": "words"}])
@pytest.mark.parametrize("tower", ["item", "user"])
def test_a_signal_with_another_rule_is_refused_with_both_versions(tower: str, change: dict[str, Any]) -> None:
    other = trained_with(tower, lambda signals: signals[1].update(change))
    with pytest.raises(Misconfigured, match=rf"the signal '{SAID[tower][1]['name']}' is .* there and .* here"):
        features_of(other)
    with pytest.raises(Misconfigured, match=both_versions(1)):
        features_of(other)


def test_a_signal_that_became_required_is_still_the_same_signal() -> None:
    optional = [replace(signal, required=False, since=1) for signal in ITEM_SIGNALS]
    assert served_signals("item_tower", as_plain(optional), ITEM_SIGNALS, trained_version=1) == ITEM_SIGNALS


@pytest.mark.parametrize("rule", ["rules", "context", "types"])
def test_another_rule_is_refused_with_both_versions(rule: str) -> None:
    with pytest.raises(Misconfigured, match=both_versions(1)):
        features_of({**SAID, "version": 1, rule: {"view": 5} if rule == "types" else [1]})


def test_a_build_accepts_its_own_declaration() -> None:
    assert features_of(SAID) == Features()


@pytest.mark.parametrize("broken", [{}, {**SAID, "item": 3}, {**SAID, "types": {}}, {**SAID, "dimension": "many"}])
def test_an_undecodable_declaration_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured, match="not a declaration of features"):
        features_of(broken)
