"""The read routes beside recommend: what they answer, what they refuse, and who may call them."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from nearline.adapters.http import status_routes
from nearline.adapters.limits import AddressLimits
from nearline.adapters.tokens import UserTokens
from nearline.guard import Guard, callers_in, unruled
from nearline.item_vectors import ItemFields
from nearline.key_ring import KeyRing
from nearline.keys import encode_key, make_key
from nearline.log import Record
from services.retrieval.api import RULES, create_app
from services.retrieval.in_engine.guard import GuardedEngine
from services.retrieval.in_engine.head_items import HeadItems
from services.retrieval.in_engine.items import EngineItems
from services.retrieval.in_engine.rows import row_of
from services.retrieval.in_engine.writer import Writer
from services.retrieval.models import Refused
from services.retrieval.recommender import Recommender
from services.retrieval.routes import known_user, lists, people, rank, search, similar
from services.retrieval.routes.reads import READ_RULES, Reads
from services.retrieval.users.reader import UserReader
from tests.support.fakes import FakeEngine, ScriptedReader
from tests.support.read_world import NOW_MS, SPACE, World, at, exchange, ids, item, user


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture(scope="module")
def same_world() -> Iterator[World]:
    """For requests that change nothing: a world's routes take a tenth of a second to describe."""
    world = World()
    yield world
    world.close()


def told(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The one thing that a refusal tells."""
    assert answer.status_code == status, answer.text
    (problem,) = Refused.model_validate(answer.json()).detail
    return problem.model_dump()


# --- similar ---


def test_similar_items_are_the_nearest_without_itself(world: World) -> None:
    answer = world.get("/similar/i10?k=4")
    assert set(ids(answer)[:2]) == {"i9", "i11"}
    assert set(ids(answer)) == {"i8", "i9", "i11", "i12"}
    similar.SimilarItems.model_validate(answer.json())
    scores = [each["score"] for each in answer.json()["items"]]
    assert scores == sorted(scores, reverse=True)


def test_similar_items_pass_the_filter_and_are_of_the_categories(world: World) -> None:
    assert ids(world.get("/similar/i10?k=2&filter=price%20%3E%2010")) == ["i11", "i12"]
    assert ids(world.get("/similar/i10?k=2&category=lamps&filter=price%20%3E%2011")) == ["i13", "i15"]
    assert ids(world.get("/similar/i10?k=500&category=no%20such")) == []


def test_an_id_may_hold_slashes_and_any_letter(world: World) -> None:
    odd = "a/b é/similar"
    world.catalogue.apply(item(10, item_id=odd))
    answer = world.get(f"/similar/{quote(odd)}?k=1")
    assert ids(answer) == ["i10"]
    assert answer.json()["item_id"] == odd


def test_an_unknown_item_has_no_similar_items(world: World) -> None:
    refused = told(world.get("/similar/nothing"), 404)
    assert refused["field"] == "item_id"
    assert "no item with this id" in refused["problem"]


@pytest.mark.parametrize("gone", ["sold out", "deleted"])
def test_the_page_of_a_sold_out_item_shows_similar_items_and_no_other_answer_shows_it(world: World, gone: str) -> None:
    before = set(ids(world.get("/similar/i10?k=4")))
    retired = replace(item(10, 2), candidate=None, retired_ms=5)
    world.catalogue.apply(retired if gone == "deleted" else item(10, 2, available=False))
    answer = world.get("/similar/i10?k=4")
    assert set(ids(answer)) == before
    similar.SimilarItems.model_validate(answer.json())
    assert "i10" not in ids(world.get("/similar/i11?k=100"))
    world.catalogue.purge("i10")
    assert told(world.get("/similar/i10"), 404)["field"] == "item_id"


# --- trending, latest ---


def test_trending_is_in_the_order_of_popularity_of_all_and_by_category(world: World) -> None:
    answer = world.get("/trending")
    assert ids(answer) == ["i39", "i38", "i20"]
    assert [each["score"] for each in answer.json()["items"]] == [3.0, 2.0, 1.0]
    lists.ListedItems.model_validate(answer.json())
    assert ids(world.get("/trending?category=mugs")) == ["i38", "i20"]
    assert ids(world.get("/trending?category=mugs&category=lamps&k=2")) == ["i39", "i38"]
    assert ids(world.get("/trending?filter=price%20%3C%2039")) == ["i38", "i20"]
    world.catalogue.apply(item(38, 2, available=False))
    assert ids(world.get("/trending")) == ["i39", "i20"]


def test_latest_is_in_the_order_of_listing(world: World) -> None:
    assert ids(world.get("/latest?k=3")) == ["i39", "i38", "i37"]
    assert ids(world.get("/latest?k=2&category=mugs")) == ["i38", "i36"]
    assert ids(world.get("/latest?k=2&category=mugs&filter=price%20%3C%2030")) == ["i28", "i26"]
    world.catalogue.apply(item(50))
    assert ids(world.get("/latest?k=1")) == ["i50"]


# --- search ---


def test_words_find_items_of_all_words_first(world: World) -> None:
    answer = world.get("/search?q=red+number8&k=5")
    assert ids(answer)[0] == "i8"
    assert answer.json()["with_all_words"] == 1
    assert len(ids(answer)) == 5
    search.FoundItems.model_validate(answer.json())


@pytest.mark.parametrize("words", ["zauber", "ZAUBER sohne", "söhne", "Zaub", "lamps number7", "white number7"])
def test_case_accents_other_fields_and_the_beginning_of_a_word_do(world: World, words: str) -> None:
    assert ids(world.get(f"/search?q={quote(words)}&k=1")) == ["i7"]


def test_an_item_that_comes_changes_or_goes_is_so_in_the_next_search(world: World) -> None:
    world.catalogue.apply(item(10, 2, item_id="new", title="Zebra crossing"))
    assert ids(world.get("/search?q=zebra")) == ["new"]
    world.catalogue.apply(item(10, 3, item_id="new", title="Lion crossing"))
    assert ids(world.get("/search?q=zebra")) == []
    assert ids(world.get("/search?q=lion")) == ["new"]
    world.catalogue.apply(replace(item(10, 4, item_id="new"), candidate=None, retired_ms=1))
    assert ids(world.get("/search?q=lion")) == []
    assert world.texts is not None
    assert world.run(world.texts.search("lion", 5)) == ([], []), "it is kept for nothing"


def test_attributes_are_words_too_and_filters_hold(world: World) -> None:
    world.catalogue.apply(item(10, 2, attributes={"material": "bone china", "pieces": 6}))
    assert ids(world.get("/search?q=china")) == ["i10"]
    assert set(ids(world.get("/search?q=thing&category=lamps&filter=price%20%3C%204"))) == {"i1", "i3"}


@pytest.mark.parametrize(
    "words",
    ['"', "a*b", "NEAR(a b)", "title : red", "red AND", "red OR NOT", "{x} ^red", "'; --", "\x00", "😀"],
)
def test_no_word_is_a_word_of_the_query_language(world: World, words: str) -> None:
    answer = world.get(f"/search?q={quote(words)}")
    assert answer.status_code in (200, 422), answer.text
    if answer.status_code == 422:
        assert "no letter or digit" in told(answer, 422)["problem"]


def test_too_many_words_are_refused(world: World) -> None:
    assert told(world.get("/search?q=" + "a+" * 17), 422)["field"] == "q"


def test_without_its_index_search_says_what_to_do() -> None:
    world = World(searchable=False)
    assert "NEARLINE_SEARCH=on" in told(world.get("/search?q=red"), 501)["problem"]
    world.close()


# --- rank ---


def test_items_are_ranked_as_the_user_would_like_them_and_unknown_ones_come_last(world: World) -> None:
    world.put_users(u=user(10, seen=("i11",)))
    answer = world.post("/rank", {"user_id": "u", "item_ids": ["x", "i30", "i11", "y", "i12", "i30"]}).json()
    assert [each["item_id"] for each in answer["items"]] == ["i11", "i12", "i30", "x", "y"]
    assert [each["source"] for each in answer["items"]] == ["personal"] * 3 + ["unknown"] * 2
    assert (answer["unknown"], answer["reason"], answer["vector_version"]) == (2, None, 7)
    assert answer["items"][3]["score"] is None
    rank.RankedItems.model_validate(answer)


def test_a_session_ranks_as_well(world: World) -> None:
    events = [{"item_id": "i10", "type": "view", "time_ms": NOW_MS}]
    answer = world.post("/rank", {"events": events, "item_ids": ["i30", "i11"]}).json()
    assert [each["item_id"] for each in answer["items"]] == ["i11", "i30"]
    assert (answer["user_id"], answer["vector_version"], answer["reason"]) == (None, NOW_MS, None)


@pytest.mark.parametrize("reason", ["unknown_user", "no_vector", "store_unavailable", "tower_unavailable"])
def test_without_a_vector_popularity_decides_then_the_callers_order(world: World, reason: str) -> None:
    world.put_users(new=user(10, has_vector=False))
    who: dict[str, Any] = {"user_id": "new" if reason == "no_vector" else "u"}
    if reason == "store_unavailable":
        world.store.down = True
    if reason == "tower_unavailable":
        world.towers.down = True
        who = {"events": [{"item_id": "i10", "type": "view", "time_ms": NOW_MS}]}
    answer = world.post("/rank", {**who, "item_ids": ["i5", "i38", "x", "i4", "i39"]}).json()
    assert [(each["item_id"], each["source"]) for each in answer["items"]] == [
        ("i39", "trending"),
        ("i38", "trending"),
        ("i5", "as_given"),
        ("i4", "as_given"),
        ("x", "unknown"),
    ]
    assert (answer["reason"], answer["degraded"]) == (reason, reason.endswith("unavailable"))
    rank.RankedItems.model_validate(answer)


@pytest.mark.parametrize(
    ("body", "field", "problem"),
    [
        ({"user_id": "u"}, "item_ids", "required"),
        ({"user_id": "u", "item_ids": []}, "item_ids", "at least 1 item"),
        ({"user_id": "u", "item_ids": ["a"] * 1_001}, "item_ids", "at most 1000 items"),
        ({"user_id": "u", "item_ids": ["a", ""]}, "item_ids.1", "1-128 UTF-8 bytes"),
        ({"item_ids": ["a"]}, "body", "give user_id, or else"),
        ({"item_ids": ["a"], "user_id": "u", "context": {"country": "GB"}}, "body", "give user_id, or else"),
        ({"item_ids": ["a"], "user": "u"}, "user", "did you mean 'user_id'?"),
        ({"item_ids": ["a"], "events": [{"item_id": "i1"}]}, "events.0.type", "'type' is missing"),
    ],
)
def test_a_malformed_ranking_is_told_where(same_world: World, body: Any, field: str, problem: str) -> None:
    found = told(same_world.post("/rank", body), 422)
    assert found["field"] == field
    assert problem in found["problem"]


# --- users ---


def test_the_user_route_returns_vector_version_and_seen_items(world: World) -> None:
    world.put_users(u=user(10, seen=("i1", "i3", "i2")), new=user(10, has_vector=False))
    answer = world.get("/users/u").json()
    known_user.KnownUser.model_validate(answer)
    expected = {
        "has_vector": True,
        "vector_version": 7,
        "history_version": 7,
        "seen": 3,
        "categories": ["lamps", "mugs"],
    }
    assert {name: answer[name] for name in expected} == expected
    assert world.get("/users/new").json()["vector_version"] is None


def test_an_unknown_user_is_404_and_a_store_outage_is_503(world: World) -> None:
    assert told(world.get("/users/nobody"), 404)["came"] == "nobody"
    world.store.down = True
    answer = world.get("/users/nobody")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "memory" not in answer.text, "what the store is, and where, is nobody's business"


def test_a_search_that_takes_too_long_is_told_to_say_more(world: World) -> None:
    assert world.texts is not None
    for nth in range(3_000):
        world.texts.put(f"x{nth}", ItemFields(f"thing number{nth}"))
    world.texts._deadline_s = -1.0
    assert "give more words" in told(world.get("/search?q=thing"), 503)["problem"]


def test_similar_users_do_not_include_the_user(world: World) -> None:
    world.put_users(a=user(10), b=user(12), c=user(30), d=user(11), none=user(1, has_vector=False))
    answer = world.get("/users/a/similar?k=2").json()
    assert [each["user_id"] for each in answer["users"]] == ["d", "b"]
    assert (answer["among"], answer["most"]) == (4, 100)
    people.SimilarUsers.model_validate(answer)
    assert told(world.get("/users/none/similar"), 409)["field"] == "user_id"
    assert told(world.get("/users/nobody/similar"), 404)["field"] == "user_id"


def test_an_audience_is_of_users_near_the_item(world: World) -> None:
    world.put_users(a=user(10), b=user(12), c=user(30))
    answer = world.get("/items/i31/audience?k=2").json()
    assert [each["user_id"] for each in answer["users"]] == ["c", "b"]
    people.Audience.model_validate(answer)
    assert told(world.get("/items/nothing/audience"), 404)["field"] == "item_id"


def test_a_user_who_was_forgotten_is_named_to_nobody(world: World) -> None:
    world.put_users(a=user(10), b=user(12))
    world.run(world.store.put_many_if_newer({"b": user(12, erased=True, version=8)}))
    assert world.get("/users/a/similar").json()["users"] == []
    assert len(world.users) == 1
    assert told(world.get("/users/b"), 404)["came"] == "b"
    assert world.post("/rank", {"user_id": "b", "item_ids": ["i1"]}).json()["reason"] == "unknown_user"
    world.store.down = True
    assert world.get("/items/i31/audience").status_code == 503


# --- what is refused ---


@pytest.mark.parametrize(
    ("target", "field", "problem"),
    [
        ("/similar/i1?k=0", "k", "greater than or equal to 1"),
        ("/similar/i1?k=-1", "k", "greater than or equal to 1"),
        ("/trending?k=1000000", "k", "less than or equal to 500"),
        ("/trending?categry=mugs", "categry", "did you mean 'category'?"),
        ("/latest?zzz=1", "zzz", "names are k, filter, category"),
        ("/latest?filter=prize%20%3C%203", "filter", "did you mean price?"),
        ("/latest?filter=price%20%3C%203&filter=price%20%3C%204", "filter", "join the expressions with and"),
        ("/search", "q", "required"),
        ("/search?q=", "q", "at least 1 character"),
        ("/search?q=" + "x" * 501, "q", "at most 500 characters"),
        ("/similar/" + "x" * 129, "item_id", "1-128 UTF-8 bytes, came 129"),
        ("/items/a%00b/audience", "item_id", "control characters"),
        ("/users/" + "x" * 129, "user_id", "1-128 UTF-8 bytes, came 129"),
        ("/users/%C2%85/similar", "of_user", "control characters"),
        ("/users/%0A/similar", "of_user", "control characters"),
        ("/items/a%0Ab/audience", "item_id", "control characters"),
        ("/similar/%0A", "item_id", "control characters"),
        ("/users/a%0Ab", "user_id", "control characters"),
        ("/users/u/similar?q=1", "q", "unknown name; names are k"),
        ("/trending?limit=5", "limit", "did you mean 'k'?"),
        ("/search?q=lamp&limit=5", "limit", "did you mean 'k'?"),
        ("/users/u?k=5", "k", "unknown name; this route takes no parameters"),
    ],
)
def test_a_malformed_request_is_told_where_and_what_is_allowed(
    same_world: World, target: str, field: str, problem: str
) -> None:
    answer = same_world.get(target)
    assert told(answer, 422)["field"] == field
    assert problem in told(answer, 422)["problem"]
    assert field in answer.json()["allowed"] or "unknown name" in problem or "mean" in problem or "names" in problem


def test_a_body_s_route_refuses_parameters_in_the_address(same_world: World) -> None:
    answer = same_world.post("/rank?user_id=u", {"user_id": "u", "item_ids": ["i1"]})
    assert told(answer, 422)["problem"] == "unknown name; this route takes no parameters"


def test_unknown_routes_and_methods_use_the_same_error_body(world: World) -> None:
    assert told(world.get("/recommnd/u"), 404)["problem"] == "Not Found"
    answer = world.get("/rank")
    assert told(answer, 405)["problem"] == "Method Not Allowed"
    assert answer.headers["allow"] == "POST"


def test_every_route_has_a_rule_in_the_order_in_which_it_is_found(world: World) -> None:
    app: Any = world.app
    routes = [(method, each.path) for each in app._app.routes for method in sorted(each.methods - {"HEAD"})]
    assert unruled(routes, RULES) == []
    assert {(rule.method, rule.template) for rule in READ_RULES} <= set(routes)


def test_a_user_token_opens_only_that_users_routes(world: World) -> None:
    private = Ed25519PrivateKey.generate()
    ring, public = KeyRing(), private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    secret, key = make_key("shop", ["read"], now_ms=1, token_key=public)
    ring.apply(Record("api-keys", 0, 0, 0, key.id.encode(), encode_key(key)))
    app = Guard(
        world.app,
        RULES,
        ring,
        tokens=UserTokens(),
        spend=AddressLimits().spend,
        is_near=callers_in(""),
    )
    world.put_users(u=user(10), v=user(11))
    now = int(time.time())
    claims = {"user_id": "u", "scope": "read", "iat": now, "exp": now + 600}
    token = jwt.encode(claims, private, algorithm="EdDSA", headers={"kid": key.id})

    def status(target: str, credential: str, method: str = "GET") -> int:
        headers = {"Authorization": f"Bearer {credential}"}
        answer = world.run(exchange(app, lambda client: client.request(method, target, headers=headers, json={})))
        return int(answer.status_code)

    assert status("/users/u", token) == 200
    assert status("/users/v", token) == 403
    others = [
        "/users/u/similar",
        "/items/i1/audience",
        "/similar/i1",
        "/trending",
        "/latest",
        "/search?q=a",
    ]
    assert {status(target, token) for target in others} == {403}
    assert {status(target, token, "POST") for target in ("/recommend", "/rank")} == {403}
    assert {status(target, secret) for target in others} == {200}
    assert status("/users/u/similar", "") == 401


def test_the_documents_examples_are_valid_and_run(world: World) -> None:
    world.catalogue.apply(item(1, item_id="85123A"))
    world.put_users(**{"17850": user(10), "u-2": user(11)})
    described = world.get("/openapi.json").json()
    schemas = described["components"]["schemas"]
    for module, model in (
        (rank, rank.RankedItems),
        (similar, similar.SimilarItems),
        (people, people.SimilarUsers),
        (people, people.Audience),
        (lists, lists.ListedItems),
        (search, search.FoundItems),
        (known_user, known_user.KnownUser),
    ):
        assert module.ALLOWED
        model.model_validate(schemas[model.__name__]["example"])
    paths = 0
    for rule in READ_RULES:
        path = rule.template.replace(":text", "")
        operation = described["paths"][path][rule.method.lower()]
        assert operation["x-scope"] == "read"
        if rule.method == "GET":
            paths += 1
            query: dict[str, str] = {}
            for parameter in operation["parameters"]:
                shown = (parameter.get("examples") or parameter["schema"].get("examples") or [None])[0]
                if parameter["in"] == "path":
                    path = path.replace(f"{{{parameter['name']}}}", str(shown))
                elif parameter.get("required"):
                    query[parameter["name"]] = str(shown)
            assert world.get(path, params=query).status_code == 200, path
    assert paths == 7
    name = described["paths"]["/rank"]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert world.post("/rank", schemas[name.rpartition("/")[2]]["example"]).status_code == 200


# --- where items are in an engine ---


class OnEngine(World):
    """The same routes over an engine: ten items, of which i3 trends."""

    def __init__(self) -> None:
        super().__init__(searchable=False)
        self.engine = FakeEngine(SPACE)
        self.guard_of_engine = GuardedEngine(self.engine)
        window = HeadItems(self.engine, lambda: NOW_MS)
        self.items = EngineItems(self.engine, self.guard_of_engine, window)
        writer = Writer(SPACE, ScriptedReader, self.engine, window)
        self.run(writer.write({f"i{nth}": row_of(item(nth), at(nth), 4) for nth in range(10)}))
        window.score("i3", 2.0)
        recommender = Recommender(self.items, UserReader(self.guard, SPACE), SPACE)
        self.app = create_app(recommender, status_routes(dict), Reads(SPACE, self.items, self.guard, users=self.users))
        self.run(self.guard_of_engine.probe())


@pytest.fixture
def engine() -> Iterator[OnEngine]:
    world = OnEngine()
    yield world
    world.close()


def test_an_engine_answers_the_same_routes(engine: OnEngine) -> None:
    engine.put_users(u=user(4), v=user(5))
    assert set(ids(engine.get("/similar/i4?k=2"))) == {"i3", "i5"}
    assert ids(engine.get("/similar/i4?k=1&category=lamps&filter=price%20%3C%205")) == ["i3"]
    assert ids(engine.get("/trending")) == ["i3"]
    assert ids(engine.get("/latest?k=2&category=mugs")) == ["i8", "i6"]
    assert engine.get("/users/u").status_code == 200
    assert [each["user_id"] for each in engine.get("/users/u/similar").json()["users"]] == ["v"]
    assert [each["user_id"] for each in engine.get("/items/i9/audience").json()["users"]] == ["v", "u"]
    ranked = engine.post("/rank", {"user_id": "u", "item_ids": ["x", "i9", "i4"]}).json()
    assert [each["item_id"] for each in ranked["items"]] == ["i4", "i9", "x"]


def test_routes_that_an_engine_cannot_serve_say_what_to_use_instead(engine: OnEngine) -> None:
    assert "NEARLINE_INDEX=hnsw://" in told(engine.get("/search?q=red"), 501)["problem"]
    assert "GET /recommend/{user_id}" in told(engine.post("/recommend", {}), 501)["problem"]
    events = [{"item_id": "i1", "type": "view", "time_ms": NOW_MS}]
    assert "user_id" in told(engine.post("/rank", {"item_ids": ["a"], "events": events}), 501)["problem"]


def test_an_engine_that_is_away_is_said_so(engine: OnEngine) -> None:
    engine.put_users(u=user(4))
    engine.engine.down = True
    assert engine.get("/similar/i4").status_code == 503
    ranked = engine.post("/rank", {"user_id": "u", "item_ids": ["i9", "i3"]}).json()
    assert (ranked["reason"], ranked["degraded"]) == ("index_unavailable", True)
    assert [each["item_id"] for each in ranked["items"]] == ["i3", "i9"]


def test_many_searches_at_once_are_shed(world: World) -> None:
    async def at_once(client: httpx.AsyncClient) -> list[httpx.Response]:
        return list(await asyncio.gather(*(client.get("/search?q=thing") for _ in range(200))))

    answers = world.run(exchange(world.app, at_once))
    assert {answer.status_code for answer in answers} == {200, 429}
    assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 429)
