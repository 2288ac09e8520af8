"""Rules of a shop: what one may say, when it holds, and what it does to candidates."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nearline.errors import BadInput, Misconfigured
from nearline.filters import Filter, FilterError, narrowed, parse
from nearline.hashing import hash64
from nearline.log import Record
from nearline.rule_files import read_rules, rules_in
from nearline.rules import (
    MAX_ITEMS,
    Action,
    Rule,
    Scenario,
    decode,
    encode_rule,
    encode_scenario,
    rule_key,
    rule_of,
    scenario_key,
    scenario_of,
)
from nearline.user_documents import NO_HASHES, Hashes
from services.retrieval.items.interface import Candidates
from services.retrieval.merchandising.effects import (
    PinPosition,
    pin_positions,
    rule_set_of,
    together,
    touches,
    weighted,
    widened,
    with_pins,
)
from services.retrieval.merchandising.rule_table import RuleTable

NOW_MS = 1_732_100_000_000
BODY = {"rule_id": "a", "action": "block", "items": ["x"]}


def block(rule_id: str = "b", **more: object) -> Rule:
    return rule_of(
        {"rule_id": rule_id, "action": "block", **({"items": ["x"]} | more if "filter" not in more else more)}
    )


def boost(factor: float, *items: str, rule_id: str = "up") -> Rule:
    action = "boost" if factor > 1 else "bury"
    return rule_of({"rule_id": rule_id, "action": action, "factor": factor, "items": list(items)})


def pin(position: int, *items: str, rule_id: str = "pin") -> Rule:
    return rule_of({"rule_id": rule_id, "action": "pin", "position": position, "items": list(items)})


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"rule_id": "r", "action": "block", "filtr": "price < 2"}, "a rule has no 'filtr'; did you mean 'filter'"),
        ({"rule_id": "r", "action": "boots", "items": ["a"]}, "came 'boots'; did you mean 'boost'"),
        ({"rule_id": "r", "action": "block"}, "either 'filter' or 'items'"),
        (
            {"rule_id": "r", "action": "block", "items": ["a"], "filter": "price < 2"},
            "either 'filter' or 'items'",
        ),
        ({"action": "block", "items": ["a"]}, "a rule needs 'rule_id'"),
        ({"rule_id": "scenario:x", "action": "block", "items": ["a"]}, "must not begin with 'scenario:'"),
        ({"rule_id": "r", "action": "pin", "items": ["a"]}, "pin needs 'position'"),
        ({"rule_id": "r", "action": "pin", "items": ["a"], "position": 0}, "position must be an integer from 1 to 500"),
        ({"rule_id": "r", "action": "block", "items": ["a"], "position": 1}, "only pin have 'position'"),
        ({"rule_id": "r", "action": "block", "items": ["a"], "factor": 2}, "only boost and bury have 'factor'"),
        ({"rule_id": "r", "action": "boost", "items": ["a"]}, "boost needs 'factor'"),
        ({"rule_id": "r", "action": "boost", "items": ["a"], "factor": 0.5}, "the factor of a boost is above 1"),
        ({"rule_id": "r", "action": "boost", "items": ["a"], "factor": 1}, "the factor of a boost is above 1"),
        ({"rule_id": "r", "action": "bury", "items": ["a"], "factor": 1.5}, "the factor of a bury is between 0 and 1"),
        ({"rule_id": "r", "action": "bury", "items": ["a"], "factor": 0}, "to exclude items, block them"),
        ({"rule_id": "r", "action": "boost", "items": ["a"], "factor": float("nan")}, "factor must be a number"),
        ({"rule_id": "r", "action": "block", "items": ["a", ""]}, r"items\[1\] must have 1-128 UTF-8 bytes"),
        ({"rule_id": "r", "action": "block", "items": "a"}, "items must be a list of ids"),
        ({"rule_id": "r", "action": "block", "items": ["a"] * (MAX_ITEMS + 1)}, "1,001 ids; at most 1,000"),
        ({"rule_id": "r", "action": "pin", "position": 1, "items": list(map(str, range(51)))}, "at most 50 items"),
        ({"rule_id": "r", "action": "block", "items": ["a"], "from_ms": 5, "until_ms": 5}, "until_ms 5 is not after"),
        ({"rule_id": "r", "action": "block", "items": ["a"], "from_ms": True}, "from_ms must be an integer"),
        ({"rule_id": "r" * 129, "action": "block", "items": ["a"]}, "rule_id must have 1-128"),
        ({"rule_id": "r", "action": "block", "filter": 7}, "filter must be an expression in a string"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_with_what_was_expected(body: dict[str, object], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        rule_of(body)


def test_a_rules_filter_is_refused_at_its_place() -> None:
    with pytest.raises(FilterError, match=r"unknown name 'prise'.*did you mean price\?") as refused:
        rule_of({"rule_id": "r", "action": "block", "filter": "category = 'a' and prise < 2"})
    assert refused.value.position == 19


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"scenario": "home", "parameters": {"kk": 3}}, "a parameter has no 'kk'; did you mean 'k'"),
        ({"scenario": "home", "parameters": {"k": 0}}, "parameters.k must be an integer from 1 to 500, came 0"),
        ({"scenario": "home", "parameters": {"explore": 1.5}}, "parameters.explore must be a number from 0 to 1"),
        ({"scenario": "home", "parameters": {"exclude_seen": "some"}}, "must be one of all, purchase, none"),
        ({"scenario": "home", "parameters": {"filter": "prise < 3"}}, "unknown name 'prise'"),
        ({"scenario": "home", "parameters": []}, None),
        ({"scenario": "home", "parameters": [1]}, "parameters must be an object"),
        ({"scenario": "home", "rule": []}, "a scenario has no 'rule'; did you mean 'rules'"),
        ({"parameters": {}}, "a scenario needs its name"),
        ({"scenario": "x" * 120}, "scenario must have 1-128 UTF-8 bytes"),
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused(body: dict[str, object], says: str | None) -> None:
    if says is None:
        assert scenario_of(body).parameters == {}
        return
    with pytest.raises(BadInput, match=says):
        scenario_of(body)


def test_a_rule_survives_encoding_and_decoding() -> None:
    for rule in (
        block(),
        block(filter="price < 3", scenario="home", from_ms=1, until_ms=2),
        pin(3, "a"),
        boost(2, "a"),
    ):
        assert decode(rule.rule_id, encode_rule(rule)) == rule
    scenario = Scenario("home", {"k": 3, "filter": "price < 3"}, ("a", "b"))
    assert decode("scenario:home", encode_scenario(scenario)) == scenario


def test_a_record_must_name_the_id_of_its_key() -> None:
    with pytest.raises(BadInput, match="the record of 'other' holds 'b'"):
        decode("other", encode_rule(block()))
    with pytest.raises(BadInput, match="the record of 'scenario:other' holds 'scenario:home'"):
        decode("scenario:other", encode_scenario(Scenario("home")))
    with pytest.raises(BadInput, match="v must be 1, came 2"):
        decode("b", b'{"v":2,"rule_id":"b","action":"block","items":["a"]}')


# Files


def test_a_file_of_toml_reads_as_people_write(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(
        """
        [[rules]]
        rule_id = "sale"
        action = "boost"
        factor = 1.5
        filter = 'attributes.on_sale = true'
        from = 2026-11-27T00:00:00+01:00
        until = "2026-11-28T00:00:00Z"

        [[scenarios]]
        scenario = "home"
        rules = ["sale"]
        parameters = { k = 12, diversity = 0.3 }
        """
    )
    rule, scenario = read_rules(file)
    assert isinstance(rule, Rule)
    assert (rule.from_ms, rule.until_ms) == (1_795_734_000_000, 1_795_824_000_000)
    assert scenario == Scenario("home", {"k": 12, "diversity": 0.3}, ("sale",))


def test_a_file_of_json_holds_one_or_a_list(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text('{"v":1,"rule_id":"b","action":"block","items":["x"]}')
    assert read_rules(file) == [block()]
    file.write_text('[{"rule_id":"b","action":"block","items":["x"]}, {"scenario":"home"}]')
    assert read_rules(file) == [block(), Scenario("home")]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"rules": [{"rule_id": "a", "action": "block", "itms": ["x"]}]}, "f, number 1 of rules: a rule has no 'itms'"),
        (
            [block_body := {"rule_id": "a", "action": "block", "items": ["x"]}, block_body],
            "number 2: rule 'a' is in the",
        ),
        ({"rules": []}, "f has no rules or scenarios"),
        ({"rules": {}}, "rules must be a list"),
        ([7], "expected a rule or a scenario, came 7"),
        ({**BODY, "from": "2026-11-27"}, "from must be a date and time with a time zone"),
        ({**BODY, "until": "soon"}, "until must be a date and time with a time zone"),
        ({**BODY, "from": "2026-11-27T00:00:00Z", "from_ms": 3}, "give 'from' or 'from_ms', not both"),
        ({"scenarios": [BODY]}, "a scenario has no 'rule_id'"),
        ({"rules": [{**BODY, "filter": "prise<3"}]}, r"f, number 1 of rules: unknown name 'prise'"),
    ],
)
def test_a_file_is_refused_at_the_rule_that_is_wrong(body: object, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        rules_in(body, where="f")


def test_a_missing_or_misnamed_rules_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot read"):
        read_rules(tmp_path / "none.toml")
    file = tmp_path / "rules.txt"
    file.write_text("[[rules]]")
    with pytest.raises(BadInput, match=r"a file of TOML is named \.toml"):
        read_rules(file)


# The book


def record(entry: Rule | Scenario | None, key: bytes = b"") -> Record:
    if entry is None:
        return Record("rules", 0, 0, NOW_MS, key, None)
    if isinstance(entry, Rule):
        return Record("rules", 0, 0, NOW_MS, rule_key(entry.rule_id), encode_rule(entry))
    return Record("rules", 0, 0, NOW_MS, scenario_key(entry.name), encode_scenario(entry))


def book(*entries: Rule | Scenario) -> RuleTable:
    found = RuleTable()
    for entry in entries:
        found.apply(record(entry))
    return found


def blocking(found: RuleTable, scenario: str | None = None, now_ms: int = NOW_MS) -> list[str]:
    return [rule.rule_id for rule in found.rule_set(scenario, now_ms).blocks]


def test_a_rule_holds_in_its_window_and_not_a_millisecond_longer() -> None:
    found = book(block("early", until_ms=100), block("late", from_ms=50, until_ms=150), block("always"))
    assert blocking(found, now_ms=0) == ["always", "early"]
    assert blocking(found, now_ms=49) == ["always", "early"]
    assert blocking(found, now_ms=50) == ["always", "early", "late"]
    assert blocking(found, now_ms=99) == ["always", "early", "late"]
    assert blocking(found, now_ms=100) == ["always", "late"]
    assert blocking(found, now_ms=150) == ["always"]
    assert blocking(found, now_ms=60) == ["always", "early", "late"], "a clock that was set back"


@given(
    windows=st.lists(st.tuples(st.none() | st.integers(0, 20), st.none() | st.integers(21, 40)), max_size=5),
    moments=st.lists(st.integers(0, 45), max_size=20),
)
def test_the_cached_rules_are_the_active_rules_at_every_moment(
    windows: list[tuple[int | None, int | None]], moments: list[int]
) -> None:
    rules = [block(f"r{nth}", from_ms=since, until_ms=until) for nth, (since, until) in enumerate(windows)]
    found = book(*rules)
    for now_ms in moments:
        assert blocking(found, now_ms=now_ms) == [rule.rule_id for rule in rules if rule.holds_at(now_ms)]


def test_a_scenarios_rules_hold_there_alone_and_the_others_everywhere() -> None:
    found = book(
        block("everywhere"), block("its own", scenario="home"), block("lent", scenario="cart"),
        Scenario("home", {}, ("lent",)), Scenario("cart"),
    )  # fmt: skip
    assert blocking(found) == ["everywhere"]
    assert blocking(found, "cart") == ["everywhere", "lent"]
    assert blocking(found, "home") == ["everywhere", "its own", "lent"]


def test_deleting_a_scenario_lets_none_of_its_rules_loose() -> None:
    found = book(block("its own", scenario="home"), Scenario("home"))
    found.apply(record(None, b"scenario:home"))
    assert blocking(found) == []
    with pytest.raises(BadInput, match="there is no scenario 'home'"):
        blocking(found, "home")


def test_an_unknown_scenario_is_refused_with_the_names_near_it() -> None:
    with pytest.raises(BadInput, match="there is no scenario 'hmoe'; did you mean 'home'"):
        book(Scenario("home"), Scenario("cart")).rule_set("hmoe", NOW_MS)


def test_a_newer_record_replaces_and_a_tombstone_deletes() -> None:
    found = book(block("a"), Scenario("a"))
    found.apply(record(block("a", filter="price < 3")))
    assert len(found.rule_set(None, NOW_MS).blocked_filters) == 1
    found.apply(record(None, b"a"))
    assert blocking(found) == []
    assert found.rule_set("a", NOW_MS).scenario == Scenario("a"), "the scenario of that name is another entry"


def test_a_record_that_is_no_rule_takes_the_old_one_with_it_and_is_refused() -> None:
    found = book(block("a"), block("b"))
    with pytest.raises(BadInput):
        found.apply(Record("rules", 0, 1, NOW_MS, b"a", b'{"v":2}'))
    assert blocking(found) == ["b"]


def test_a_book_with_more_leaves_the_book_as_it_is() -> None:
    found = book(block("a"), block("b"))
    tried = found.with_also([block("b", filter="price < 3"), block("c")])
    assert blocking(tried) == ["a", "b", "c"]
    assert len(tried.rule_set(None, NOW_MS).blocked_filters) == 1
    assert blocking(found) == ["a", "b"]
    assert len(found.rule_set(None, NOW_MS).blocked_filters) == 0


# What rules do


def hashes(*item_ids: str) -> Hashes:
    return np.array(sorted(map(hash64, item_ids)), np.uint64)


def test_blocked_items_are_excluded_by_id_or_by_filter() -> None:
    rules = rule_set_of([block("a", items=["x", "y"]), block("b", filter="price < 3")], None)
    np.testing.assert_array_equal(rules.blocked_items, hashes("x", "y"))
    assert rules.allowed(None) == narrowed(None, without=[parse("price < 3")])
    wanted = rules.allowed(parse("category = 'a'"))
    assert wanted is not None
    assert wanted.key == parse("category = 'a' and not price < 3").key
    assert rules.allowed(parse("category = 'a'")) is wanted, "joined once"


def test_without_blocks_a_filter_stays_as_it_is() -> None:
    wanted = parse("price < 3")
    assert rule_set_of([], None).allowed(wanted) is wanted
    assert rule_set_of([], None).within_base_filter(wanted) is wanted
    assert rule_set_of([boost(2, "a")], None).allowed(None) is None


def test_a_filter_is_joined_with_the_scenarios_and_the_blocks_each_once() -> None:
    rules = rule_set_of([block(filter="price < 3")], Scenario("home", {"filter": "brand = 'A'"}))
    for asked in (None, "category = 'a'"):
        wanted = rules.within_base_filter(None if asked is None else parse(asked))
        assert wanted is not None
        found = rules.allowed(wanted)
        parts = [f"({asked})"] * bool(asked) + ["brand = 'A'", "not price < 3"]
        assert found is not None
        assert found.key == parse(" and ".join(parts)).key


def picked(**scores: float) -> Candidates:
    return Candidates(
        list(scores), [f",{name}".encode() for name in scores], np.array(list(scores.values()), np.float32)
    )


def masks(pool: Candidates) -> list[NDArray[np.bool_]]:
    return [np.isin(pool.item_ids, ["b", "d"]), np.isin(pool.item_ids, ["a", "c"])]


def test_a_boost_raises_and_a_bury_lowers_whatever_the_sign() -> None:
    pool = picked(a=0.4, b=0.3, c=-0.2, d=-0.3)
    found = weighted(pool.scores, [boost(2, "b", "d"), boost(0.5, "a", "c", rule_id="down")], masks(pool))
    np.testing.assert_allclose(found, [0.2, 0.6, -0.4, -0.15], rtol=1e-6)
    np.testing.assert_allclose(pool.scores, [0.4, 0.3, -0.2, -0.3], rtol=1e-6, err_msg="an answer shows plain scores")


def test_a_rule_is_about_the_items_that_it_names() -> None:
    pool = picked(a=0.4, b=0.3)

    def passing(wanted: Filter, items: Candidates) -> NDArray[np.bool_]:
        return np.array([item_id == "a" for item_id in items.item_ids])

    assert touches(boost(2, "b", "z"), pool, passing).tolist() == [False, True]
    assert touches(block(filter="price < 3"), pool, passing).tolist() == [True, False]


def test_an_item_of_two_searches_comes_once() -> None:
    assert together([picked(a=0.5, b=0.4), picked(b=0.4, c=0.1), picked(a=0.5)]).item_ids == ["a", "b", "c"]
    assert len(together([picked(), picked()])) == 0


class Shop:
    """A hundred items by score, looked through exactly; even ones are "even" to a filter on the category."""

    def __init__(self) -> None:
        self.scores = {f"i{nth}": 1.0 - nth / 100 for nth in range(100)}
        self.asked = 0

    async def fetch(self, places: int, oversample: int) -> Candidates:
        return await self.best(places + oversample)

    async def best(
        self, places: int, to: Filter | None = None, without: Sequence[Filter] = (), left_out: Hashes = NO_HASHES
    ) -> Candidates:
        self.asked += 1
        wanted, refused = narrowed(None, to=to, without=without), set(left_out.tolist())
        keep = [i for i in self.scores if hash64(i) not in refused and self._passes(wanted, i)]
        return self._picked(sorted(keep, key=lambda item_id: -self.scores[item_id])[:places])

    async def of(self, item_ids: Sequence[str]) -> Candidates:
        return self._picked([item_id for item_id in item_ids if item_id in self.scores])

    def passing(self, wanted: Filter, found: Candidates) -> NDArray[np.bool_]:
        return np.array([self._passes(wanted, item_id) for item_id in found.item_ids], bool)

    def _picked(self, ids: list[str]) -> Candidates:
        return Candidates(ids, [b""] * len(ids), np.array([self.scores[item_id] for item_id in ids]))

    def _passes(self, wanted: Filter | None, item_id: str) -> bool:
        even = int(item_id[1:]) % 2 == 0
        says = {parse("category = 'even'").key: even, parse("not category = 'even'").key: not even}
        return True if wanted is None else says[wanted.key]


def best_by(shop: Shop, rule: Rule) -> list[str]:
    """The ten best of what was found for *rule*, weighed."""

    async def find() -> Candidates:
        return await widened(await shop.best(10), [rule], shop, 10, shop.passing)

    pool = asyncio.run(find())
    scores = weighted(pool.scores, [rule], [touches(rule, pool, shop.passing)])
    return [pool.item_ids[at] for at in np.argsort(-scores)[:10]]


def truly(shop: Shop, rule: Rule) -> list[str]:
    """What a look at every item finds."""
    assert rule.factor is not None
    named = set(rule.items) or {item_id for item_id in shop.scores if int(item_id[1:]) % 2 == 0}
    scores = {i: score * (rule.factor if i in named else 1.0) for i, score in shop.scores.items()}
    return sorted(scores, key=lambda item_id: -scores[item_id])[:10]


@pytest.mark.parametrize("factor", [0.0113, 0.513, 0.953, 1.053, 2.013, 100.3])
@pytest.mark.parametrize("about", [{"filter": "category = 'even'"}, {"items": ["i3", "i50", "i99", "i4", "gone"]}])
def test_boosts_and_buries_find_what_a_look_at_every_item_finds(factor: float, about: dict[str, object]) -> None:
    action = "boost" if factor > 1 else "bury"
    rule = rule_of({"rule_id": "r", "action": action, "factor": factor, **about})
    shop = Shop()
    assert best_by(shop, rule) == truly(shop, rule)


def test_a_bury_of_what_is_not_near_costs_no_search() -> None:
    shop = Shop()
    best_by(shop, boost(0.5, "i50"))
    assert shop.asked == 1


# Pins


def test_a_pin_puts_its_items_one_after_the_other() -> None:
    assert pin_positions([pin(2, "x", "y")], {}, {"x", "y"}, 10) == [
        PinPosition(1, "x", "pin"),
        PinPosition(2, "y", "pin"),
    ]


def test_a_pin_of_what_was_dropped_leaves_its_place_to_the_next() -> None:
    assert pin_positions([pin(2, "blocked", "y")], {}, {"y"}, 10) == [PinPosition(1, "y", "pin")]


def test_a_pin_by_filter_takes_the_best_that_passes() -> None:
    rule = rule_of({"rule_id": "ad", "action": "pin", "position": 3, "filter": "brand = 'A'"})
    assert pin_positions([rule], {"ad": ["best", "next"]}, {"best", "next"}, 10) == [PinPosition(2, "best", "ad")]
    assert pin_positions([rule], {}, {"best"}, 10) == []
    both = pin_positions([pin(1, "best"), rule], {"ad": ["best", "next"]}, {"best", "next"}, 10)
    assert both == [PinPosition(0, "best", "pin"), PinPosition(2, "next", "ad")]


def test_two_pins_of_one_place_follow_each_other_and_no_item_comes_twice() -> None:
    found = pin_positions([pin(1, "x", "y"), pin(1, "y", "z", rule_id="second")], {}, {"x", "y", "z"}, 10)
    assert [(place.at, place.item_id, place.rule_id) for place in found] == [
        (0, "x", "pin"), (1, "y", "pin"), (2, "z", "second"),
    ]  # fmt: skip


def test_a_pin_beyond_the_answer_is_none() -> None:
    assert pin_positions([pin(4, "x")], {}, {"x"}, 3) == []


def test_pins_stand_where_they_should_and_the_others_around_them() -> None:
    assert with_pins(["a", "b", "c", "d"], [PinPosition(1, "x", "r"), PinPosition(3, "y", "r")], 5) == [
        "a",
        "x",
        "b",
        "y",
        "c",
    ]
    assert with_pins(["a", "x", "b"], [PinPosition(0, "x", "r")], 3) == ["x", "a", "b"]
    assert with_pins([], [PinPosition(4, "x", "r")], 5) == ["x"], "no gaps in a short answer"


@given(
    others=st.lists(st.sampled_from("abcdefgh"), unique=True),
    wanted=st.lists(
        st.tuples(st.integers(1, 8), st.lists(st.sampled_from("abcdexyz"), min_size=1, max_size=3)), max_size=4
    ),
    allowed=st.sets(st.sampled_from("abcdexyz")),
    k=st.integers(1, 8),
)
def test_pins_never_repeat_an_item_or_bring_back_a_dropped_one(
    others: list[str], wanted: list[tuple[int, list[str]]], allowed: set[str], k: int
) -> None:
    rules = [pin(at, *dict.fromkeys(items), rule_id=f"r{nth}") for nth, (at, items) in enumerate(wanted)]
    pinned = pin_positions(sorted(rules, key=lambda rule: rule.position or 0), {}, allowed, k)
    found = with_pins(others, pinned, k)
    assert len(set(found)) == len(found) <= k
    assert set(found) <= set(others) | allowed
    assert len(found) == min(k, len(set(others) | {place.item_id for place in pinned}))
    if len(found) == k:
        assert all(found[place.at] == place.item_id for place in pinned)
    rest = [item_id for item_id in others if item_id not in {place.item_id for place in pinned}]
    assert [item_id for item_id in found if item_id in rest] == rest[: len(found) - len(pinned)]


def test_every_action_is_of_the_log() -> None:
    assert list(Action) == ["block", "boost", "bury", "pin"], "a new one is a new version of the format"
