"""Rules, exploration and exposures in whole answers: what is dropped stays out, and every answer says what moved it."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nearline.adapters.http import status_routes
from nearline.adapters.memory import MemoryStore
from nearline.adapters.signed_tokens import SignedTokens
from nearline.errors import BadInput
from nearline.exposures import RECORD_BYTES, Exposure, decode_exposures, records_of
from nearline.filters import FilterError, parse
from nearline.followers import Follower
from nearline.hashing import hash64, hash64_all
from nearline.item_vectors import ItemFields, ItemVector
from nearline.log import Record
from nearline.process import until
from nearline.rules import PARAMETERS, Rule, Scenario, encode_rule, rule_of
from nearline.sequences import UserSequence, encode_sequence
from nearline.space import Space
from nearline.topics import EXPOSURES, RULES
from nearline.user_documents import UserDocument, encode_user_document
from services.retrieval.api import create_app
from services.retrieval.exposure_log import ExposureLog, PendingExposure, line_of
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.merchandising.active_rules import RuleResolver
from services.retrieval.merchandising.rule_table import RuleTable
from services.retrieval.pages import PageTokens
from services.retrieval.parameters import RecommendQuery
from services.retrieval.recommender import Recommender
from services.retrieval.request import ExcludeSeen, RecommendRequest
from services.retrieval.routes.reads import Reads
from services.retrieval.sessions import Sessions
from services.retrieval.users.reader import UserReader
from services.retrieval.users.session_vectors import SessionVectors
from services.retrieval.users.store_guard import GuardedStore
from tests.support.fakes import ExactGraph, FakeTable, Outbox, ScriptedTowers
from tests.support.properties import examples
from tests.support.provenances import provenance

SPACE = Space(3, 4)
DAY_MS = 24 * 3600 * 1000
NOW_MS = 2_000_000_000_000
NONE: NDArray[np.uint64] = np.empty(0, np.uint64)


def unit(nth: int) -> NDArray[np.float32]:
    return np.array([np.cos(nth / 50), np.sin(nth / 50), 0, 0], np.float32)


def shop() -> Catalogue:
    """Thirty items, i0 nearest to every user; of three categories in turn; i20 to i29 are new."""
    catalogue = Catalogue(4, LiveIndex(4, lambda capacity: ExactGraph(4, capacity)))
    for nth in range(30):
        listed_ms = NOW_MS - DAY_MS if nth >= 20 else NOW_MS - 100 * DAY_MS - nth
        category = ("mugs", "lamps", "vases")[nth % 3]
        shown = ItemFields(
            f"Item {nth}", category, price=float(nth), listed_ms=listed_ms, attributes={"even": nth % 2 == 0}
        )
        catalogue.apply(ItemVector(f"i{nth}", 1, shown, unit(nth), unit(nth).astype(np.float16), "d"))
    for nth in range(10):
        catalogue.trending.score(f"i{nth}", 10.0 + nth)
    return catalogue


CATALOGUE = shop()


def document(seen: Sequence[str] = (), purchased: Sequence[str] = (), *, has_vector: bool = True) -> bytes:
    known = np.sort(hash64_all(sorted({*seen, *purchased}))) if seen or purchased else NONE
    bought = np.sort(hash64_all(list(purchased))) if purchased else NONE
    vector, hashes = unit(0) if has_vector else None, hash64_all(["e-42"])
    return encode_user_document(
        UserDocument(vector, 7 if has_vector else 0, 9, "e-42", NOW_MS, NOW_MS, known, bought, hashes), SPACE
    )


class Retrieval:
    """A recommender over a store in memory, with rules, and exposures that an outbox gets."""

    def __init__(self, *entries: Rule | Scenario, share: float = 0.0, exposed: float = 1.0) -> None:
        self.store = MemoryStore(ttl_ms=10**15)
        self.guard = GuardedStore(self.store)
        self.outbox = Outbox()
        self.rules = RuleResolver(RuleTable(entries), share=share, now_ms=lambda: NOW_MS)
        self.exposures = ExposureLog(exposed, self.outbox)
        self.vectors: SessionVectors | None = None
        self.recommender = Recommender(
            CATALOGUE,
            UserReader(self.guard, SPACE, now_ms=lambda: NOW_MS),
            SPACE,
            pages=PageTokens(SignedTokens(b"k" * 32, "page", lives_s=60), SPACE),
            rules=self.rules,
            exposures=self.exposures,
            budget_ms=60_000.0,
            now_ms=lambda: NOW_MS,
        )

    async def open(self, **users: bytes) -> None:
        await self.store.put_many_if_newer(users)
        watch = asyncio.create_task(self.guard.watch())
        await asyncio.wait_for(until(lambda: self.guard.answered), 5)
        watch.cancel()

    async def answer(self, user_id: str, asked: RecommendRequest, request_id: str = "r-1") -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(await self.recommender.answer(user_id, asked, request_id))
        return found


def answered(
    *entries: Rule | Scenario, asked: RecommendRequest | None = None, user: bytes | None = None, share: float = 0.0
) -> dict[str, Any]:
    """One answer to a user with a vector who has seen nothing."""

    async def ask() -> dict[str, Any]:
        retrieval = Retrieval(*entries, share=share)
        await retrieval.open(u=user or document())
        return await retrieval.answer("u", asked or RecommendRequest(5))

    return asyncio.run(ask())


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def rule(action: str, rule_id: str = "r", **more: Any) -> Rule:
    return rule_of({"rule_id": rule_id, "action": action, **more})


# What holds


def test_without_rules_an_answer_is_as_ever() -> None:
    answer = answered()
    assert ids(answer) == ["i0", "i1", "i2", "i3", "i4"]
    assert answer["rules"] == []
    assert all({"rules", "propensity"}.isdisjoint(item) for item in answer["items"])


@pytest.mark.parametrize("has_vector", [True, False])
def test_blocked_items_come_from_no_source(has_vector: bool) -> None:
    blocks = [rule("block", "by id", items=["i1", "i9"]), rule("block", "by filter", filter='category = "mugs"')]
    answer = answered(*blocks, asked=RecommendRequest(500), user=document(has_vector=has_vector))
    expected = {f"i{nth}" for nth in range(30) if nth % 3} - {"i1", "i9"}
    assert set(ids(answer)) == expected
    assert answer["rules"] == ["by filter", "by id"]


def test_a_block_of_what_no_item_has_blocks_nothing() -> None:
    """A rule outlives the items that it was made for; a request is not refused for it."""
    assert ids(answered(rule("block", filter='attributes.colour = "red"'))) == ["i0", "i1", "i2", "i3", "i4"]


def test_a_boost_brings_what_was_far_and_a_bury_takes_away_what_was_near() -> None:
    boosted = answered(rule("boost", factor=1.5, filter="price >= 27"))
    assert ids(boosted)[:3] == ["i27", "i28", "i29"]
    assert boosted["items"][0]["rules"] == ["r"]
    assert boosted["items"][0]["score"] == pytest.approx(float(np.cos(27 / 50)), abs=1e-5), "the score itself is plain"
    assert "rules" not in boosted["items"][4]
    buried = answered(rule("bury", factor=0.5, filter="price < 3"))
    assert ids(buried) == ["i3", "i4", "i5", "i6", "i7"]
    assert buried["rules"] == [], "what it took away is not there to show it"
    assert answered(rule("boost", factor=1.5, filter="price >= 27"))["rules"] == ["r"]


def test_boosts_and_buries_by_id_hold_for_sources_without_a_vector_too() -> None:
    user = document(has_vector=False)
    assert ids(answered(user=user)) == ["i9", "i8", "i7", "i6", "i5"]
    answer = answered(
        rule("boost", "up", factor=100, items=["i0"]), rule("bury", "down", factor=0.1, items=["i9"]), user=user
    )
    assert ids(answer) == ["i0", "i8", "i7", "i6", "i5"]
    assert answer["items"][0]["source"] == "trending"


def test_a_boost_shares_its_stage_with_diversity_and_caps() -> None:
    asked = RecommendRequest(6, diversity=0.3, max_per_category=2)
    answer = answered(rule("boost", factor=3, filter='category = "vases"'), asked=asked)
    kinds = [item["category"] for item in answer["items"]]
    assert kinds[:1] == ["vases"]
    assert sorted(kinds) == ["lamps", "lamps", "mugs", "mugs", "vases", "vases"]


def test_a_pin_brings_an_item_from_anywhere_to_its_place() -> None:
    answer = answered(rule("pin", position=2, items=["i29", "i1"]))
    assert ids(answer) == ["i0", "i29", "i1", "i2", "i3"]
    assert answer["items"][1]["source"] == answer["items"][2]["source"] == "pinned"
    assert answer["items"][1]["rules"] == ["r"]
    assert answer["items"][1]["score"] == pytest.approx(float(np.cos(29 / 50)), abs=1e-5)
    assert answer["rules"] == ["r"]
    assert answer["reason"] is None, "nothing was missing"


@pytest.mark.parametrize("has_vector", [True, False])
def test_a_pin_by_filter_takes_what_is_best_for_the_user(has_vector: bool) -> None:
    answer = answered(rule("pin", position=1, filter="price >= 20"), user=document(has_vector=has_vector))
    assert ids(answer)[0] == ("i20" if has_vector else ids(answer)[0])
    assert answer["items"][0]["price"] >= 20


def test_pins_obey_every_hard_drop() -> None:
    pin = rule("pin", position=1, items=["seen", "i1", "i2", "i3", "i4", "gone", "i12"])
    block = rule("block", "b", items=["i2"])
    asked = RecommendRequest(3, exclude=hash64_all(["i3"]), filter=parse("price != 4"))
    answer = answered(pin, block, asked=asked, user=document(seen=["i1"]))
    assert ids(answer) == ["i12", "i0", "i5"]


def test_pins_are_for_the_first_page() -> None:
    async def pages() -> list[dict[str, Any]]:
        retrieval = Retrieval(rule("pin", position=1, items=["i29", "i28", "i27", "i26"]))
        await retrieval.open(u=document())
        first = await retrieval.answer("u", RecommendRequest(3, page="first"))
        return [first, await retrieval.answer("u", RecommendRequest(3, page=first["next_page"]))]

    first, second = asyncio.run(pages())
    assert ids(first) == ["i29", "i28", "i27"]
    assert ids(second) == ["i0", "i1", "i2"], "i26 has no place there"


SOME = st.lists(st.sampled_from([f"i{nth}" for nth in range(30)]), min_size=1, max_size=6, unique=True)
ABOUT = st.one_of(
    SOME.map(lambda items: {"items": items}),
    st.sampled_from(['category = "mugs"', "price < 7", "attributes.even = true", 'not category = "vases"']).map(
        lambda expression: {"filter": expression}
    ),
)
DOES = st.one_of(
    st.just({"action": "block"}),
    st.floats(1.01, 50).map(lambda factor: {"action": "boost", "factor": factor}),
    st.floats(0.01, 0.99).map(lambda factor: {"action": "bury", "factor": factor}),
    st.integers(1, 12).map(lambda position: {"action": "pin", "position": position}),
)


@given(
    bodies=st.lists(st.tuples(DOES, ABOUT), max_size=5),
    seen=SOME,
    excluded=SOME,
    bought=SOME,
    exclude_seen=st.sampled_from(ExcludeSeen),
    expression=st.sampled_from([None, "price >= 5", 'category != "lamps"']),
    k=st.integers(1, 40),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    has_vector=st.booleans(),
)
@examples(150)
def test_no_rule_brings_back_a_dropped_item(
    bodies: list[tuple[dict[str, Any], dict[str, Any]]],
    seen: list[str],
    excluded: list[str],
    bought: list[str],
    exclude_seen: ExcludeSeen,
    expression: str | None,
    k: int,
    share: float,
    has_vector: bool,
) -> None:
    rules = [rule_of({"rule_id": f"r{nth}", **does, **about}) for nth, (does, about) in enumerate(bodies)]
    wanted = None if expression is None else parse(expression)
    asked = RecommendRequest(k, exclude_seen=exclude_seen, exclude=np.unique(hash64_all(excluded)), filter=wanted)
    user = document(seen, bought, has_vector=has_vector)
    answer = answered(*rules, asked=asked, user=user, share=share)
    found = ids(answer)
    dropped = set(excluded)
    dropped |= {"all": {*seen, *bought}, "purchase": set(bought), "none": set()}[exclude_seen]
    blocks = [each for each in rules if each.action == "block"]
    allowed = [
        f"i{nth}"
        for nth in range(30)
        if f"i{nth}" not in dropped and _passes(expression, nth) and not any(_is_about(each, nth) for each in blocks)
    ]
    assert set(found) <= set(allowed)
    assert len(found) == len(set(found)) == min(k, len(allowed)), "and every place that can be filled is"


def _passes(expression: str | None, nth: int) -> bool:
    category = ("mugs", "lamps", "vases")[nth % 3]
    return {
        None: True,
        "price >= 5": nth >= 5,
        'category != "lamps"': category != "lamps",
        'category = "mugs"': category == "mugs",
        "price < 7": nth < 7,
        "attributes.even = true": nth % 2 == 0,
        'not category = "vases"': category != "vases",
    }[expression]


def _is_about(each: Rule, nth: int) -> bool:
    return f"i{nth}" in each.items if each.filter is None else _passes(each.filter.expression, nth)


# Exploration


def test_new_items_come_by_lot_and_say_so() -> None:
    answer = answered(asked=RecommendRequest(10), share=0.5)
    drawn = [item for item in answer["items"] if item["source"] == "exploration"]
    assert 1 <= len(drawn) <= 9
    assert {item["item_id"] for item in drawn} <= {f"i{nth}" for nth in range(20, 30)}
    assert {item["propensity"] for item in drawn} == {0.05}, "a half by one in ten"
    assert {item["propensity"] for item in answer["items"] if item not in drawn} == {0.5}
    assert answer == answered(asked=RecommendRequest(10), share=0.5) | {"took_ms": answer["took_ms"]}, (
        "drawn from the request's id"
    )


def test_exploration_leaves_pins_where_they_are() -> None:
    answer = answered(rule("pin", position=2, items=["i25"]), asked=RecommendRequest(5), share=1.0)
    assert ids(answer)[1] == "i25"
    assert [item["source"] for item in answer["items"]] == ["exploration", "pinned", *["exploration"] * 3]
    assert "propensity" not in answer["items"][1]


# Scenarios


def test_a_scenario_gives_what_the_caller_does_not() -> None:
    home = Scenario("home", {"k": 3, "filter": 'category = "mugs"', "exclude_seen": "none"}, ())
    own = rule("block", scenario="home", items=["i0"])
    asked = RecommendRequest(scenario="home")
    assert ids(answered(home, own, asked=asked, user=document(seen=["i3"]))) == ["i3", "i6", "i9"]
    asked = RecommendRequest(
        2, scenario="home", filter=parse("price > 3"), given=frozenset({"k", "filter", "scenario"})
    )
    assert ids(answered(home, own, asked=asked)) == ["i6", "i9"], "filters are joined, the caller's k goes first"
    assert ids(answered(home, own)) == ["i0", "i1", "i2", "i3", "i4"], "without its name it does nothing"


def test_a_scenarios_own_filter_may_outlive_its_items_and_a_callers_not() -> None:
    home = Scenario("home", {"filter": 'attributes.colour = "red"'})
    assert ids(answered(home, asked=RecommendRequest(scenario="home"))) == []
    with pytest.raises(FilterError, match="no item has the attribute"):
        answered(home, asked=RecommendRequest(scenario="home", filter=parse('attributes.colour = "red"')))


def test_a_scenario_may_explore_where_nothing_else_does() -> None:
    home = Scenario("home", {"explore": 1.0})
    assert {item["source"] for item in answered(home, asked=RecommendRequest(5, scenario="home"))["items"]} == {
        "exploration"
    }
    home = Scenario("home", {"explore": 0.0})
    answer = answered(home, asked=RecommendRequest(5, scenario="home"), share=1.0)
    assert {item["source"] for item in answer["items"]} == {"personal"}


def test_a_scenario_that_there_is_not_is_refused() -> None:
    with pytest.raises(BadInput, match="there is no scenario 'hmoe'; did you mean 'home'"):
        answered(Scenario("home"), asked=RecommendRequest(scenario="hmoe"))


def test_every_parameter_of_a_scenario_is_one_of_a_request() -> None:
    assert set(PARAMETERS) - {"explore"} <= set(RecommendQuery.model_fields)


# Exposures


def sent_to(outbox: Outbox) -> list[Exposure]:
    return [each for _, value in outbox.sent.get(EXPOSURES, []) for each in decode_exposures(value)]


def test_an_answer_to_a_synthetic_user_leaves_none() -> None:
    async def ask() -> Retrieval:
        retrieval = Retrieval(share=1.0)
        await retrieval.open(u=document())
        for user_id in ("canary:3", "u"):
            await retrieval.answer(user_id, RecommendRequest(5), f"r-{user_id}")
        await retrieval.exposures.drain()
        return retrieval

    assert [exposure.user_id for exposure in sent_to(asyncio.run(ask()).outbox)] == ["u"]


def test_an_answer_leaves_an_exposure_that_says_the_same() -> None:
    async def ask() -> tuple[dict[str, Any], Retrieval]:
        retrieval = Retrieval(rule("pin", position=1, items=["i29"]), Scenario("home"), share=0.4)
        await retrieval.open(u=document())
        answer = await retrieval.answer("u", RecommendRequest(5, scenario="home"), "r-77")
        await retrieval.exposures.drain()
        return answer, retrieval

    answer, retrieval = asyncio.run(ask())
    (exposure,) = sent_to(retrieval.outbox)
    items = answer["items"]
    assert (exposure.request_id, exposure.user_id, exposure.scenario) == ("r-77", "u", "home")
    assert (exposure.time_ms, exposure.space, exposure.page, exposure.rules) == (NOW_MS, 3, 0, ["r"])
    assert exposure.items == [item["item_id"] for item in items]
    assert exposure.sources == [item["source"] for item in items]
    assert exposure.scores == pytest.approx([item["score"] for item in items])
    assert exposure.propensities == [item.get("propensity") for item in items]


def noted(request_id: str) -> PendingExposure:
    return PendingExposure(provenance(request_id, "u", SPACE), NOW_MS, [])


def test_a_share_of_the_answers_is_exposed_and_the_request_decides_which() -> None:
    async def note(share: float) -> int:
        outbox = Outbox()
        exposures = ExposureLog(share, outbox)
        for nth in range(1_000):
            exposures.note(noted(f"r-{nth}"))
        await exposures.drain()
        return len(sent_to(outbox))

    assert asyncio.run(note(1.0)) == 1_000
    assert asyncio.run(note(0.0)) == 0
    some = asyncio.run(note(0.25))
    assert 190 <= some <= 310
    assert asyncio.run(note(0.25)) == some, "the same ones on every replica"


def test_a_full_queue_drops_and_a_log_that_is_away_loses_without_a_wait() -> None:
    async def fill() -> int:
        outbox = Outbox()
        exposures = ExposureLog(1.0, outbox, most=10)
        for nth in range(25):
            exposures.note(noted(f"r-{nth}"))
        await exposures.drain()
        return len(sent_to(outbox))

    assert asyncio.run(fill()) == 10

    async def away() -> list[Exposure]:
        outbox = Outbox()
        outbox.down = True
        exposures = ExposureLog(1.0, outbox, retry_s=0.0)
        exposures.note(noted("lost"))
        await exposures.drain()
        outbox.down = False
        exposures.note(noted("kept"))
        await exposures.drain()
        return sent_to(outbox)

    (kept,) = asyncio.run(away())
    assert kept.request_id == "kept"


def test_exposures_are_sent_while_answers_are_given() -> None:
    async def run() -> int:
        outbox = Outbox()
        exposures = ExposureLog(1.0, outbox)
        running = asyncio.create_task(exposures.run())
        for nth in range(120):
            exposures.note(noted(f"r-{nth}"))
        await asyncio.wait_for(until(lambda: len(sent_to(outbox)) == 120), 5)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        return len(outbox.sent[EXPOSURES])

    assert asyncio.run(run()) < 5, "many share a record"


def test_records_hold_many_exposures_and_a_damaged_line_costs_no_other() -> None:
    lines = [line_of(noted(f"r-{nth}")) for nth in range(20_000)]
    records = list(records_of(lines))
    assert 1 < len(records) < 10
    assert all(len(record) <= RECORD_BYTES for record in records)
    found = [exposure for record in records for exposure in decode_exposures(record)]
    assert found == [Exposure(f"r-{nth}", "u", NOW_MS, 3, [], [], []) for nth in range(20_000)]
    damaged = b"\n".join([lines[0], lines[1][:-9], lines[2]])
    assert [exposure.request_id for exposure in decode_exposures(damaged)] == ["r-0", "r-2"]
    assert decode_exposures(None) == decode_exposures(b"") == []
    assert list(records_of([b"x" * RECORD_BYTES, b"y"])) == [b"x" * RECORD_BYTES, b"y"]


# Through the door


def client_of(retrieval: Retrieval) -> httpx.AsyncClient:
    reads = Reads(SPACE, CATALOGUE, retrieval.guard, known=CATALOGUE, now_ms=lambda: NOW_MS)
    if retrieval.vectors is not None:
        reads = replace(reads, sessions=Sessions(retrieval.recommender, retrieval.vectors, now_ms=lambda: NOW_MS))
    app = create_app(retrieval.recommender, status_routes(dict), reads, rules=retrieval.rules)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://retrieval")


def post(retrieval: Retrieval, body: object) -> httpx.Response:
    async def send() -> httpx.Response:
        await retrieval.open(u=document(), v=document(seen=["i0"]))
        async with client_of(retrieval) as client:
            return await client.post("/rules/try", json=body)

    return asyncio.run(send())


BOOST = {"rule_id": "r", "action": "boost", "factor": 1.5, "filter": "price >= 27"}


def test_a_dry_run_shows_before_and_after_and_changes_nothing() -> None:
    retrieval = Retrieval(rule("block", "standing", items=["i1"]))
    response = post(retrieval, {"entries": [BOOST], "users": ["u", "v"], "k": 3})
    assert response.status_code == 200
    u, v = response.json()["users"]
    assert [item["item_id"] for item in u["before"]] == ["i0", "i2", "i3"]
    assert [item["item_id"] for item in u["after"]] == ["i27", "i28", "i29"]
    assert u["after"][0]["rules"] == ["r"]
    assert [item["item_id"] for item in v["before"]] == ["i2", "i3", "i4"]
    assert retrieval.rules.table.rule_set(None, NOW_MS).weights == (), "nothing was put into force"
    assert not retrieval.exposures.waiting, "nobody was shown anything"


def test_a_scenario_can_be_tried_before_there_is_one() -> None:
    entries = [{"scenario": "home", "parameters": {"filter": "price >= 27"}}]
    response = post(Retrieval(), {"entries": entries, "users": ["u"], "k": 2, "scenario": "home"})
    (u,) = response.json()["users"]
    assert [item["item_id"] for item in u["before"]] == ["i0", "i1"]
    assert [item["item_id"] for item in u["after"]] == ["i27", "i28"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"entries": [{**BOOST, "filtr": "x"}], "users": ["u"]}, "entries, number 1: a rule has no 'filtr'"),
        ({"entries": [{**BOOST, "filter": "prise < 3"}], "users": ["u"]}, "unknown name 'prise'"),
        ({"entries": [], "users": ["u"]}, "at least 1 item"),
        ({"entries": [BOOST], "users": []}, "at least 1 item"),
        ({"entries": [BOOST], "users": ["u"], "k": 0}, "greater than or equal to 1"),
        ({"entries": [BOOST], "users": ["u"], "scenario": "hmoe"}, "there is no scenario 'hmoe'"),
        ({"entries": [BOOST], "users": ["u"], "user": 1}, "did you mean 'users'"),
    ],
)
def test_a_dry_run_of_nonsense_is_refused(body: object, says: str) -> None:
    response = post(Retrieval(), body)
    assert response.status_code == 422
    assert says in response.json()["detail"][0]["problem"]


def test_a_request_in_an_unknown_scenario_is_refused_by_name() -> None:
    async def send() -> httpx.Response:
        retrieval = Retrieval(Scenario("home"))
        await retrieval.open(u=document())
        async with client_of(retrieval) as client:
            return await client.get("/recommend/u?scenario=hmoe")

    response = asyncio.run(send())
    assert response.status_code == 422
    (problem,) = response.json()["detail"]
    assert problem["field"] == "scenario"
    assert "did you mean 'home'" in problem["problem"]


# Why


def explained(
    *entries: Rule | Scenario,
    item_id: str,
    user: bytes | None = None,
    k: int = 3,
    sequence: UserSequence | None = None,
    towers: ScriptedTowers | None = None,
    **more: object,
) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        retrieval = Retrieval(*entries)
        retrieval.vectors = SessionVectors(towers or ScriptedTowers(4), CATALOGUE)
        await retrieval.open(u=user or document())
        await retrieval.vectors.probe()
        body = {"user_id": "u", "item_id": item_id, "k": k, **more}
        async with client_of(retrieval) as client:
            told = {} if sequence is None else {"sequence": orjson.loads(encode_sequence(sequence))}
            response = await client.post("/why", json=body | told)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "wrong",
    [{"": -(2**63) - 1}, {"times_ms": [2**64]}, {"times_ms": ["1"]}, {"items": [7]}, {"items": "ab"}, {"items": []}],
    ids=str,
)
def test_a_value_that_is_not_a_sequence_is_refused(wrong: dict[str, object]) -> None:
    sequence = {"v": 1, "user_id": "u", "version": 1, "items": ["i1"], "times_ms": [1], "types": ["click"]}
    body = {"user_id": "u", "item_id": "i2", "sequence": {**sequence, "values": [1.0], "event_ids": ["e"], **wrong}}

    async def ask() -> httpx.Response:
        retrieval = Retrieval()
        await retrieval.open(u=document())
        async with client_of(retrieval) as client:
            return await client.post("/why", json=body)

    response = asyncio.run(ask())
    assert response.status_code == 422, response.text
    assert "sequence" in response.text


class AgeingTowers(ScriptedTowers):
    """A user is the mean of its vectors, old ones weighing less, as trained towers do it."""

    async def encode_users(self, batch: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        weighted = {**batch, "vectors": batch["vectors"] * np.exp(-batch["ages"])[:, :, None]}
        return await super().encode_users(weighted)


def test_an_event_on_an_unknown_item_moves_nothing() -> None:
    """It is the newest by a day; the others keep their ages, and so the vector stays."""
    day_ms = 24 * 3_600_000
    items, times = ["i1", "i9", "no-such-item"], [NOW_MS - 2 * day_ms, NOW_MS - day_ms, NOW_MS]
    events = UserSequence("u", 1, items, times, ["click"] * 3, [1.0] * 3, ["e-1", "e-2", "e-3"])
    found = explained(item_id="i5", sequence=events, towers=AgeingTowers(4))
    moved = {each["event_id"]: each["moved"] for each in found["events"]}
    assert moved["e-3"] == pytest.approx(0, abs=1e-6)
    assert all(abs(moved[known]) > 1e-4 for known in ("e-1", "e-2"))


def test_an_item_of_the_answer_is_shown_at_its_place() -> None:
    found = explained(rule("pin", position=1, items=["i7"]), item_id="i7")
    assert (found["place"], found["source"], found["rules"], found["absent"]) == (1, "pinned", ["r"], None)
    assert found["score"] == pytest.approx(float(np.cos(7 / 50)), abs=1e-5)
    assert explained(item_id="i2")["place"] == 3


@pytest.mark.parametrize(
    ("item_id", "cause", "rules"),
    [("nobody's", "unknown_item", []), ("i0", "blocked", ["r"]), ("i1", "seen", []), ("i4", "filtered", [])],
)
def test_why_gives_the_reason_for_an_absent_item(item_id: str, cause: str, rules: list[str]) -> None:
    block = rule("block", items=["i0"])
    found = explained(block, item_id=item_id, user=document(seen=["i1"]), filter="price != 4")
    assert found["place"] is None
    assert (found["absent"]["cause"], found["absent"]["rules"]) == (cause, rules)


def test_why_gives_the_score_gap_of_a_lower_ranked_item() -> None:
    absent = explained(item_id="i20")["absent"]
    assert absent["cause"] == "below"
    assert absent["last_score"] == pytest.approx(float(np.cos(2 / 50)), abs=1e-4)
    assert absent["by"] == pytest.approx(float(np.cos(2 / 50) - np.cos(20 / 50)), abs=1e-4)


def test_why_tells_unavailable_items_from_unknown_ones() -> None:
    sold = ItemFields("Sold", available=False)
    CATALOGUE.apply(ItemVector("sold", 1, sold, unit(0), unit(0).astype(np.float16), "d"))
    assert explained(item_id="sold")["absent"]["cause"] == "not_on_show"
    CATALOGUE.purge("sold")
    assert explained(item_id="sold")["absent"]["cause"] == "unknown_item"


def history(*items: str, version: int = 7) -> UserSequence:
    count = len(items)
    times = [NOW_MS - 1_000 * (count - nth) for nth in range(count)]
    ids = [f"e-{nth}" for nth in range(count)]
    return UserSequence("u", version, list(items), times, ["click"] * count, [1.0] * count, ids)


def test_each_event_is_said_to_have_moved_the_item_as_leaving_it_out_does() -> None:
    """The scripted tower is the mean of what it reads, so what leaving one out does can be said by hand."""
    towers = ScriptedTowers(4)
    found = explained(item_id="i0", sequence=history("i0", "i25", "i5"), towers=towers)

    def score(*nths: int) -> float:
        mean = np.mean([unit(nth).astype(np.float16).astype(np.float32) for nth in nths], axis=0)
        return float(unit(0) @ (mean / np.linalg.norm(mean)))

    whole = score(0, 25, 5)
    expected = {"e-0": whole - score(25, 5), "e-1": whole - score(0, 5), "e-2": whole - score(0, 25)}
    assert {each["event_id"]: each["moved"] for each in found["events"]} == pytest.approx(expected, abs=1e-3)
    in_order = sorted(expected, key=lambda event_id: -abs(expected[event_id]))
    assert [each["event_id"] for each in found["events"]] == in_order, "the most influential first"
    assert expected["e-1"] < 0 < expected["e-0"]
    assert sum(towers.user_calls) == 4
    assert len(towers.user_calls) <= 2, "all in one request, or nearly"
    assert found["is_current"] is True
    assert explained(item_id="i0", sequence=history("i0", version=9))["is_current"] is False


def test_without_an_only_event_there_is_nothing_to_compare() -> None:
    (moved,) = explained(item_id="i0", sequence=history("i0"))["events"]
    assert moved["moved"] is None


def test_a_missing_explanation_says_why_it_is_missing() -> None:
    assert explained(item_id="i0")["untold"] == "no events were given"
    assert "not available" in explained(item_id="nobody's", sequence=history("i0"))["untold"]
    down = ScriptedTowers(4)
    down.down = True
    assert "the user tower" in explained(item_id="i0", sequence=history("i0"), towers=down)["untold"]


# The follower


def test_rules_of_the_log_hold_from_the_moment_they_are_read() -> None:
    block = rule("block", "b", items=["i0"])
    put = Record(RULES, 0, 0, NOW_MS, b"b", encode_rule(block))
    bad = Record(RULES, 0, 1, NOW_MS, b"x", b"{}")
    gone = Record(RULES, 0, 2, NOW_MS, b"b", None)

    async def follow() -> list[list[str]]:
        retrieval = Retrieval()
        await retrieval.open(u=document())
        follower = Follower(RULES, lambda: FakeTable(), retrieval.rules.table.apply)
        found = [ids(await retrieval.answer("u", RecommendRequest(2)))]
        for records in ([put, bad], [gone]):
            await follower.apply_all(records)
            found.append(ids(await retrieval.answer("u", RecommendRequest(2))))
        return found

    assert asyncio.run(follow()) == [["i0", "i1"], ["i1", "i2"], ["i0", "i1"]]
    assert hash64("i0") in RuleTable([block]).rule_set(None, NOW_MS).blocked_items.tolist()
