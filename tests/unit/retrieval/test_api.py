"""The HTTP interface: every answer says what it used, every refusal says what is allowed."""

import asyncio
import base64
import hashlib
import re
import time
from urllib.parse import quote, urlencode

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.types import ASGIApp

from nearline.adapters.http import status_routes
from nearline.adapters.limits import AddressLimits
from nearline.adapters.memory import MemoryStore
from nearline.adapters.queueing import queueing
from nearline.adapters.signed_tokens import SignedTokens
from nearline.adapters.tokens import UserTokens
from nearline.filters import MAX_BYTES, Filter, parse
from nearline.guard import Guard, callers_in, unruled
from nearline.hashing import hash64
from nearline.item_vectors import ItemFields, ItemVector
from nearline.key_ring import KeyRing
from nearline.keys import encode_key, make_key
from nearline.log import Record
from nearline.shedding import Gate
from nearline.space import Space
from nearline.user_documents import UserDocument, encode_user_document
from services.retrieval.api import RULES, create_app
from services.retrieval.fast_path import FastPath, waits_for_nothing
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.models import Recommendations, Refused
from services.retrieval.pages import PageTokens
from services.retrieval.parameters import ALLOWED
from services.retrieval.recommender import Recommender
from services.retrieval.routes.reads import Reads
from services.retrieval.users.reader import UserReader
from services.retrieval.users.store_guard import GuardedStore
from tests.support.fakes import ExactGraph
from tests.support.served import served

SPACE = Space(3, 4)
NOW_MS = 2_000_000_000_000
EMPTY: NDArray[np.uint64] = np.empty(0, np.uint64)


def unit(nth: int) -> NDArray[np.float32]:
    return np.array([np.cos(nth / 50), np.sin(nth / 50), 0, 0], np.float32)


def document(space: Space = SPACE, *, has_vector: bool = True) -> bytes:
    vector = np.resize(unit(0), space.dimension).astype(np.float32) if has_vector else None
    seen = np.array([hash64("i0")], np.uint64)
    return encode_user_document(
        UserDocument(vector, 7 if has_vector else 0, 9, "e-42", NOW_MS - 850, NOW_MS, seen, EMPTY, EMPTY), space
    )


class Client:
    """Sends one request at a time to an application, without a network."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def send(self, method: str, target: str, headers: dict[str, str] | None = None) -> httpx.Response:
        async def exchange() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://retrieval") as client:
                return await client.request(method, target, headers=headers)

        return asyncio.run(exchange())

    def get(self, target: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return self.send("GET", target, headers)


class World:
    """A service over a store in memory: forty items, i0 nearest to every user; i39 trends."""

    def __init__(self) -> None:
        self.store = MemoryStore(ttl_ms=10**15)
        self.guard = GuardedStore(self.store)
        self.catalogue = Catalogue(4, LiveIndex(4, lambda capacity: ExactGraph(4, capacity)))
        for nth in range(40):
            attributes = {"colour": "red" if nth % 2 else "Red", "two words": nth}
            shown = ItemFields(f"Item {nth}", "mugs", price=1.5, listed_ms=nth, attributes=attributes)
            self.catalogue.apply(ItemVector(f"i{nth}", 1, shown, unit(nth), unit(nth).astype(np.float16), "d"))
        self.catalogue.trending.score("i39", 3.0)
        self.seal = SignedTokens(b"a secret of the tests", "page", lives_s=60)
        self.pages = PageTokens(self.seal, SPACE)
        recommender = Recommender(
            self.catalogue,
            UserReader(self.guard, SPACE, now_ms=lambda: NOW_MS),
            SPACE,
            pages=self.pages,
            now_ms=lambda: NOW_MS,
        )
        self.ready = {"item_vectors": False}
        self.client = Client(
            create_app(recommender, status_routes(lambda: self.ready), Reads(SPACE, self.catalogue, self.guard))
        )

    def put(self, user_id: str, raw: bytes) -> None:
        asyncio.run(self.store.put_many_if_newer({user_id: raw}))

    def probe(self) -> None:
        """Let the guard ask the store once."""

        async def ask() -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await self.guard.watch()

        asyncio.run(ask())


def known_world() -> World:
    """A service that answers, with two users whom it knows and one without a vector."""
    world = World()
    world.probe()
    world.put("u1", document())
    world.put("u/2 é", document())
    world.put("new", document(has_vector=False))
    return world


@pytest.fixture
def world() -> World:
    return known_world()


@pytest.fixture(scope="module")
def same_world() -> World:
    """For requests that change nothing: its routes take a tenth of a second to describe."""
    return known_world()


def test_a_user_who_was_erased_is_as_unknown_as_one_who_never_came(world: World) -> None:
    marker = UserDocument(None, 9, 9, "", 0, NOW_MS, EMPTY, EMPTY, EMPTY, seen_version=9, erased=True)
    world.put("u1", encode_user_document(marker, SPACE))
    erased, unknown = (world.client.get(f"/recommend/{user_id}?k=3").json() for user_id in ("u1", "nobody"))
    assert erased["reason"] == "unknown_user"
    for answer in (erased, unknown):
        del answer["user_id"], answer["request_id"], answer["took_ms"]
    assert erased == unknown


@pytest.mark.parametrize(("ends_s", "first"), [(NOW_MS // 1000, "i0"), (NOW_MS // 1000 + 1, "i1")])
def test_a_seen_item_is_recommended_again_after_it_expires(world: World, ends_s: int, first: str) -> None:
    seen = np.array([hash64("i0")], np.uint64)
    until_s = np.array([ends_s], np.uint32)
    document = UserDocument(unit(0), 10, 10, "e-43", NOW_MS, NOW_MS, seen, EMPTY, EMPTY, until_s=until_s)
    world.put("u1", encode_user_document(document, SPACE))
    assert world.client.get("/recommend/u1?k=1").json()["items"][0]["item_id"] == first


def test_a_click_of_a_clock_that_is_ahead_has_no_age_below_zero(world: World) -> None:
    document = UserDocument(unit(0), 10, 10, "e-43", NOW_MS + 1_500, NOW_MS, EMPTY, EMPTY, EMPTY)
    world.put("u1", encode_user_document(document, SPACE))
    answer = world.client.get("/recommend/u1?k=1").json()
    assert (answer["as_of_ms"], answer["age_ms"]) == (NOW_MS + 1_500, 0)


def test_an_answer_says_what_it_used(world: World) -> None:
    answer = world.client.get("/recommend/u1?k=3").json()
    assert [item["item_id"] for item in answer["items"]] == ["i1", "i2", "i3"]
    assert {item["source"] for item in answer["items"]} == {"personal"}
    assert answer["items"][0]["score"] == pytest.approx(float(unit(0) @ unit(1)), abs=1e-6)
    expected = {
        "user_id": "u1",
        "space": 3,
        "vector_version": 7,
        "history_version": 7,
        "newest_event_id": "e-42",
        "as_of_ms": NOW_MS - 850,
        "age_ms": 850,
        "degraded": False,
        "reason": None,
        "degradations": [],
        "steps": [],
        "rules": [],
        "warnings": [],
        "seen": "known",
    }
    assert {name: answer[name] for name in expected} == expected
    assert answer["took_ms"] > 0
    assert Recommendations.model_validate(answer).model_dump(mode="json", exclude_unset=True) == answer


def test_an_answer_names_the_context_that_it_did_not_use_and_why(world: World) -> None:
    context = "context.device=phone&context.country=GB&context.category=mug"
    personal = world.client.get(f"/recommend/u1?k=3&{context}").json()
    unused = {each["parameter"]: each["reason"] for each in personal["warnings"]}
    assert list(unused) == ["context.device", "context.country", "context.category"]
    assert "in the context of an event or in the profile" in unused["context.device"] == unused["context.country"]
    assert "every item is personal" in unused["context.category"]
    Recommendations.model_validate(personal)
    filled = world.client.get(f"/recommend/new?k=3&{context}").json()
    assert [each["parameter"] for each in filled["warnings"]] == ["context.device", "context.country"]
    plain = world.client.get("/recommend/u1?k=3").json()
    assert personal["items"] == plain["items"]


def test_twenty_items_are_the_default(world: World) -> None:
    assert len(world.client.get("/recommend/u1").json()["items"]) == 20


def test_seen_items_come_when_asked_for(world: World) -> None:
    answer = world.client.get("/recommend/u1?k=1&exclude_seen=none").json()
    assert answer["items"][0]["item_id"] == "i0"


def test_an_unknown_user_gets_a_named_fallback(world: World) -> None:
    answer = world.client.get("/recommend/nobody?k=2").json()
    assert answer["reason"] == "unknown_user"
    assert answer["degraded"] is False
    assert [item["source"] for item in answer["items"]] == ["trending", "newest"]
    assert answer["vector_version"] is answer["as_of_ms"] is answer["newest_event_id"] is None
    Recommendations.model_validate(answer)


def test_a_user_without_a_vector_is_told_so(world: World) -> None:
    answer = world.client.get("/recommend/new?k=1").json()
    assert answer["reason"] == "no_vector"
    assert answer["items"][0]["source"] == "trending_category"
    assert answer["vector_version"] is None
    assert answer["history_version"] == 9
    assert answer["newest_event_id"] == "e-42"


def test_more_than_the_catalogue_holds_is_topped_up_and_said(world: World) -> None:
    answer = world.client.get("/recommend/u1?k=500").json()
    assert len(answer["items"]) == 39
    assert answer["reason"] == "too_few_candidates"


def test_a_store_that_is_down_degrades_and_recovers(world: World) -> None:
    world.store.down = True
    for _ in range(5):
        response = world.client.get("/recommend/u1?k=2")
        assert response.status_code == 200
        answer = response.json()
        assert (answer["degraded"], answer["reason"]) == (True, "store_unavailable")
        assert [item["source"] for item in answer["items"]] == ["trending", "newest"]
    world.store.down = False
    assert world.client.get("/recommend/u1").json()["degraded"] is True, "nothing is asked while the guard is shut"
    world.probe()
    assert world.client.get("/recommend/u1").json()["degraded"] is False


def test_a_store_that_never_answered_degrades_but_serves() -> None:
    world = World()
    assert not world.guard.answered
    assert world.client.get("/recommend/u1").json()["reason"] == "store_unavailable"


@pytest.mark.parametrize("raw", [document(Space(4, 4)), document(Space(3, 8)), document()[:-1] + b"x"])
def test_a_document_of_another_space_or_a_damaged_one_is_never_used(world: World, raw: bytes) -> None:
    world.put("odd", raw)
    answer = world.client.get("/recommend/odd?k=1").json()
    assert (answer["degraded"], answer["reason"]) == (True, "bad_document")
    assert answer["items"][0]["source"] == "trending"


def test_ids_may_hold_any_printable_character(world: World) -> None:
    answer = world.client.get("/recommend/u%2F2%20%C3%A9?k=1").json()
    assert answer["user_id"] == "u/2 é"
    assert answer["reason"] is None


@pytest.mark.parametrize(
    ("target", "field", "problem"),
    [
        ("/recommend/u1?k=0", "k", "greater than or equal to 1"),
        ("/recommend/u1?k=501", "k", "less than or equal to 500"),
        ("/recommend/u1?k=ten", "k", "valid integer"),
        ("/recommend/u1?k=", "k", "valid integer"),
        ("/recommend/u1?k=1.5", "k", "valid integer"),
        ("/recommend/u1?exclude_seen=some", "exclude_seen", "'all', 'purchase' or 'none'"),
        ("/recommend/u1?k=-1", "k", "greater than or equal to 1"),
        ("/recommend/u1?k=1000000", "k", "less than or equal to 500"),
        ("/recommend/u1?diversity=1.1", "diversity", "less than or equal to 1"),
        ("/recommend/u1?diversity=nan", "diversity", "finite number"),
        ("/recommend/u1?diversity=-0.1", "diversity", "greater than or equal to 0"),
        ("/recommend/u1?popularity_discount=inf", "popularity_discount", "finite number"),
        ("/recommend/u1?max_per_category=0", "max_per_category", "greater than or equal to 1"),
        ("/recommend/u1?fields=title,prize", "fields", "unknown name 'prize'; names are title, category"),
        ("/recommend/u1?fields=", "fields", "unknown name ''"),
        ("/recommend/u1?exclude=a&exclude=" + "x" * 129, "exclude", "1-128 UTF-8 bytes, came 129"),
        ("/recommend/u1?exclude=", "exclude", "1-128 UTF-8 bytes, came 0"),
        ("/recommend/u1?exclude=a%00b", "exclude", "control characters"),
        ("/recommend/u1?" + "&".join(f"exclude=i{nth}" for nth in range(501)), "exclude", "at most 500"),
        ("/recommend/u1?after=" + "x" * 129, "after", "1-128 UTF-8 bytes, came 129"),
        ("/recommend/u1?wait_ms=5001", "wait_ms", "less than or equal to 5000"),
        ("/recommend/u1?wait_ms=-1", "wait_ms", "greater than or equal to 0"),
        ("/recommend/u1?context.device=" + "x" * 65, "context.device", "at most 64 characters"),
        ("/recommend/u1?device=phone", "device", "unknown name; did you mean 'context.device'?"),
        ("/recommend/u1?page=", "page", "at least 1 character"),
        ("/recommend/u1?page=forged", "page", "it is not signed with our secret"),
        ("/recommend/u1?scenario=home", "scenario", "there is no scenario 'home'"),
        ("/recommend/u1?kk=5", "kk", "unknown name; did you mean 'k'?"),
        ("/recommend/u1?K=5", "K", "did you mean 'k'?"),
        ("/recommend/u1?limit=5", "limit", "did you mean 'k'?"),
        ("/recommend/u1?zzz=5", "zzz", "names are k, exclude_seen, filter"),
        ("/recommend/u1?exclude_seen=purchased", "exclude_seen", "did you mean 'purchase'?"),
        ("/recommend/" + "x" * 129, "user_id", "1-128 UTF-8 bytes, came 129"),
        ("/recommend/a%00b", "user_id", "control characters"),
        ("/recommend/a%0Ab", "user_id", "control characters"),
        ("/recommend/a%C2%85b", "user_id", "control characters"),
        ("/recommend/", "user_id", "1-128 UTF-8 bytes, came 0"),
    ],
)
def test_a_malformed_request_is_told_what_is_allowed(same_world: World, target: str, field: str, problem: str) -> None:
    response = same_world.client.get(target)
    assert response.status_code == 422
    refused = Refused.model_validate(response.json())
    assert refused.detail[0].field == field
    assert problem in refused.detail[0].problem
    assert refused.allowed["k"] == "an integer 1-500, 20 by default"


def test_the_fast_path_and_fastapi_give_the_same_answer(world: World) -> None:
    """A space in k is for FastAPI to parse, k=3 is not; both must end in the same answer."""
    timed = re.compile(r'"(took_ms|request_id)":[^,]+,')
    fast = world.client.get("/recommend/u1?k=3").text
    slow = world.client.get("/recommend/u1?k=%203").text
    assert timed.sub("", fast) == timed.sub("", slow)


def items_of(world: World, target: str) -> list[str]:
    response = world.client.get(target)
    assert response.status_code == 200, response.text
    Recommendations.model_validate(response.json())
    return [item["item_id"] for item in response.json()["items"]]


def test_the_caller_excludes_ids_whatever_they_hold(world: World) -> None:
    vector = unit(1).astype(np.float32)
    for item_id in ("a/b", "ü€😀", "é" * 64, "a,b", "a&b=c"):
        world.catalogue.apply(ItemVector(item_id, 1, ItemFields("x"), vector, vector.astype(np.float16), "d"))
    query = urlencode([("k", 2), ("exclude", "i1"), *[("exclude", one) for one in ("a/b", "ü€😀", "é" * 64, "a,b")]])
    for user_id in ("u1", "u%2F2%20%C3%A9"):  # by the fast path and past it
        assert items_of(world, f"/recommend/{user_id}?{query}") == ["a&b=c", "i2"]


def test_answers_are_shaped_as_asked(world: World) -> None:
    vector = unit(30).astype(np.float32)
    world.catalogue.apply(ItemVector("lamp", 1, ItemFields("x", "lamps"), vector, vector.astype(np.float16), "d"))
    assert items_of(world, "/recommend/u1?k=3&max_per_category=1") == ["i1", "lamp"]
    assert items_of(world, "/recommend/u1?k=2&diversity=0.9")[0] == "i1"
    assert items_of(world, "/recommend/nobody?k=2&context.category=mugs") == ["i39", "i38"]
    response = world.client.get("/recommend/nobody?k=2&context.category=mugs").json()
    assert [item["source"] for item in response["items"]] == ["trending_category", "newest"]


@pytest.mark.parametrize("user_id", ["u1", "u%2F2%20%C3%A9"])
def test_only_the_fields_that_are_asked_for_come(world: World, user_id: str) -> None:
    answer = world.client.get(f"/recommend/{user_id}?k=2&fields=price,title").json()
    assert answer["items"] == [
        {"item_id": "i1", "title": "Item 1", "price": 1.5},
        {"item_id": "i2", "title": "Item 2", "price": 1.5},
    ]
    answer = world.client.get(f"/recommend/{user_id}?k=1&fields=source,item_id,score").json()
    assert answer["items"] == [{"item_id": "i1", "score": pytest.approx(0.9998, abs=1e-4), "source": "personal"}]
    Recommendations.model_validate(answer)


def test_pages_follow_one_another_over_http(world: World) -> None:
    found, page = [], "first"
    for _ in range(20):
        answer = world.client.get(f"/recommend/u1?k=5&page={page}").json()
        Recommendations.model_validate(answer)
        found += [item["item_id"] for item in answer["items"]]
        page = answer["next_page"]
        if page is None:
            break
    assert sorted(found) == sorted(f"i{nth}" for nth in range(1, 40))
    assert "next_page" not in world.client.get("/recommend/u1").json()


def test_a_page_that_is_too_old_is_gone(world: World) -> None:
    token = world.pages.next(world.pages.open("first", "u1"), "u1", ["i1"])
    world.seal._lives_s = -1
    for user_id in ("u1", "u%2F2%20%C3%A9"):
        response = world.client.get(f"/recommend/{user_id}?page={token}")
        assert response.status_code == 410
        (told,) = Refused.model_validate(response.json()).detail
        assert (told.field, "page=first" in told.problem) == ("page", True)
        assert str(token) not in response.text


def test_an_answer_says_whether_it_used_the_event(world: World) -> None:
    answer = world.client.get("/recommend/u1?after=e-42&wait_ms=0").json()
    assert answer["fresh"] is False, "this document keeps no events"
    Recommendations.model_validate(answer)


def test_queries_that_occur_once_are_not_cached(world: World) -> None:
    app = world.client._app
    assert isinstance(app, FastPath)
    world.client.get("/recommend/u1?k=3")
    for nth in range(5):
        world.client.get(f"/recommend/u1?exclude=i{nth}")
        world.client.get(f"/recommend/u1?after=e{nth}&wait_ms=0")
        world.client.get("/recommend/u1?page=first")
    assert list(app._queries) == [b"k=3"]


def filtered(user_id: str, expression: str, k: int = 20) -> str:
    return f"/recommend/{quote(user_id)}?{urlencode({'k': k, 'filter': expression})}"


def test_only_what_passes_the_filter_comes(world: World) -> None:
    answer = world.client.get(filtered("u1", 'attributes.colour = "red" and attributes."two words" < 6', 3)).json()
    assert [item["item_id"] for item in answer["items"]] == ["i1", "i3", "i5"]
    assert answer["reason"] is None
    Recommendations.model_validate(answer)


def test_fewer_come_only_if_fewer_pass_and_were_not_seen(world: World) -> None:
    answer = world.client.get(filtered("u1", "listed_ms in (0, 3, 7)")).json()
    assert [item["item_id"] for item in answer["items"]] == ["i3", "i7"]
    assert answer["reason"] == "too_few_candidates"
    assert world.client.get(filtered("u1", "price > 2")).json()["items"] == []


@pytest.mark.parametrize("user_id", ["nobody", "new"])
def test_top_ups_pass_the_filter_too(world: World, user_id: str) -> None:
    answer = world.client.get(filtered(user_id, "listed_ms <= 3")).json()
    expected = ["i3", "i2", "i1", "i0"] if user_id == "nobody" else ["i3", "i2", "i1"]
    assert [item["item_id"] for item in answer["items"]] == expected
    assert {item["source"] for item in answer["items"]} == {"newest"}


def test_a_filter_answers_as_well_while_the_store_is_down(world: World) -> None:
    world.store.down = True
    answer = world.client.get(filtered("u1", "attributes.colour = 'Red' and listed_ms > 35")).json()
    assert ([item["item_id"] for item in answer["items"]], answer["degraded"]) == (["i38", "i36"], True)


@pytest.mark.parametrize(
    ("expression", "position", "problem"),
    [
        ("", 0, "ends too early"),
        ("price <", 7, "expected a number"),
        ("price < 3 &", 10, "cannot stand here"),
        ('prize < 3 or brand = "x"', 0, "did you mean price?"),
        ('price < "3"', 8, "price is a number"),
        ("brand < 3", 0, "brand is text"),
        ('price < 3 and attributes.color = "red"', 14, "did you mean attributes.colour?"),
        ("attributes.twowords = 3", 0, 'did you mean attributes."two words"?'),
        ("attributes.colour < 3", 0, "text (written in quotes) wherever an item has it"),
        ('attributes."two words" = "3"', 0, "a number wherever an item has it"),
        ("(" * 51 + "price = 1" + ")" * 51, 50, "more than 50 nested brackets"),
        (" or ".join(["price = 1"] * 101), 1_306, "more than 100 comparisons"),
        ("x" * (MAX_BYTES + 1), MAX_BYTES, "4,001 bytes"),
        ("price = 1; drop table items", 9, "cannot stand here"),
        ("__import__('os').system('true')", 10, "cannot stand here"),
        ("price = 1\x00", 9, "cannot stand here"),
    ],
)
def test_an_invalid_filter_is_refused_with_the_position(
    same_world: World, expression: str, position: int, problem: str
) -> None:
    for user_id in ("u1", "u/2 é", "nobody"):  # by the fast path, past it, and without a vector
        response = same_world.client.get(filtered(user_id, expression))
        assert response.status_code == 422
        (told,) = Refused.model_validate(response.json()).detail
        assert (told.field, told.position) == ("filter", position)
        assert problem in told.problem
        assert told.problem.endswith("^")
        assert len(response.content) < 1_500
        assert told.came == expression[:80]
        assert "price < 20" in response.json()["allowed"]["filter"]


@pytest.mark.parametrize("expression", ["price < 1.25 and", "attributes.unknown = 1.25"])
def test_an_invalid_filter_is_parsed_and_refused_once(
    world: World, expression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def counted(text: str) -> Filter:
        parsed.append(text)
        return parse(text)

    monkeypatch.setattr("services.retrieval.parameters.parse", counted)
    for _ in range(2):
        assert world.client.get(filtered("u1", expression)).status_code == 422
        assert world.client.get(filtered("u/2 é", expression)).status_code == 422
    assert parsed == [expression]


def test_two_filters_are_refused_for_one_would_be_forgotten(world: World) -> None:
    response = world.client.get("/recommend/u1?filter=price%3C1&filter=price%3C2")
    assert response.status_code == 422
    assert "join the expressions with and" in response.json()["detail"][0]["problem"]


def test_an_attribute_is_known_as_long_as_an_item_on_show_has_it(world: World) -> None:
    """Whether a query was answered before makes no difference."""
    target, vector = filtered("u1", "attributes.rare = true"), unit(3).astype(np.float32)
    assert world.client.get(target).status_code == 422
    world.catalogue.apply(
        ItemVector("x", 1, ItemFields("x", attributes={"rare": True}), vector, vector.astype("f2"), "d")
    )
    assert [item["item_id"] for item in world.client.get(target).json()["items"]] == ["x"]
    world.catalogue.apply(ItemVector("x", 2, ItemFields("x"), vector, vector.astype("f2"), "d"))
    assert world.client.get(target).status_code == 422


def test_an_empty_catalogue_accepts_any_attribute_in_filters() -> None:
    world = World()
    world.catalogue.clear()
    response = world.client.get(filtered("u1", "attributes.anything = true"))
    assert (response.status_code, response.json()["items"]) == (200, [])


def test_a_filter_is_answered_alike_by_the_fast_path_and_past_it(world: World) -> None:
    timed = re.compile(r'"(took_ms|request_id)":[^,]+,')
    fast = world.client.get("/recommend/u1?k=3&filter=price+%3C+20").text
    slow = world.client.get("/recommend/u1?k=%203&filter=price+%3C+20").text
    assert timed.sub("", fast) == timed.sub("", slow)


def test_many_long_queries_are_not_kept_for_ever(world: World) -> None:
    for nth in range(100):
        response = world.client.get(
            filtered("u1", " or ".join([f"price = 1.5{' ' * 26}"] * 90 + [f"price < {nth}"]), 1)
        )
        assert response.status_code == 200
    app = world.client._app
    assert isinstance(app, FastPath)
    assert sum(map(len, app._queries)) <= 256 * 1024


def test_a_request_id_is_kept_or_made(world: World) -> None:
    given = world.client.get("/recommend/u1", headers={"X-Request-ID": "r-1"}).json()["request_id"]
    assert given == "r-1"
    made = {world.client.get("/recommend/u1", headers={"X-Request-ID": "x" * 300}).json()["request_id"] for _ in "ab"}
    assert len(made) == 2
    assert all(re.fullmatch("[0-9a-f]{16}", request_id) for request_id in made)


def test_only_get_is_allowed(world: World) -> None:
    assert world.client.send("POST", "/recommend/u1").status_code == 405


def test_the_documentation_holds_valid_examples(world: World) -> None:
    described = world.client.get("/openapi.json").json()
    operation = described["paths"]["/recommend/{user_id}"]["get"]
    examples = operation["responses"]["200"]["content"]["application/json"]["examples"]
    assert set(examples) == {"personal", "unknown user", "store down"}
    for example in examples.values():
        Recommendations.model_validate(example["value"])
    Refused.model_validate(described["components"]["schemas"]["Refused"]["example"])
    assert operation["security"] == [{"key": []}, {"header": []}]
    assert operation["x-scope"] == "read"
    assert {"200", "401", "403", "422", "429", "503"} <= set(operation["responses"])
    parameters = {parameter["name"]: parameter["schema"] for parameter in operation["parameters"]}
    assert (parameters["k"]["minimum"], parameters["k"]["maximum"], parameters["k"]["default"]) == (1, 500, 20)
    assert parameters.keys() == ALLOWED.keys(), "what a refusal says is allowed is what is documented"
    for expression in parameters["filter"]["examples"]:
        parse(expression)


def test_the_documentation_page_is_complete_without_scripts_and_other_hosts(world: World) -> None:
    answer = world.client.get("/docs")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert not re.search(r"<script|https?://|\ssrc=|<link", answer.text)
    style = re.search("<style>(.*?)</style>", answer.text)
    assert style is not None
    assert base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode() in policy
    described = world.client.get("/openapi.json").json()
    for path in described["paths"]:
        assert f" {path}</code></h2>" in answer.text
    for name in described["components"]["schemas"]:
        assert f'<h3 id="{name}">' in answer.text
    assert world.client.get("/redoc").status_code == 404


def test_status_routes_answer_beside_it(world: World) -> None:
    assert world.client.get("/healthz").status_code == 200
    assert world.client.get("/readyz").status_code == 503
    world.ready["item_vectors"] = True
    assert world.client.get("/readyz").json() == {"ready": True, "parts": {"item_vectors": True}}
    world.client.get("/recommend/u1")
    assert "nearline_recommend_seconds_bucket" in world.client.get("/metrics").text


def test_every_route_has_a_rule_and_every_rule_a_route(world: World) -> None:
    """Without one, the guard would refuse it; with one too many, the table would say what is not so."""
    app = world.client._app
    assert isinstance(app, FastPath)
    routes = app._app.routes  # type: ignore[attr-defined]
    served = [(method, route.path) for route in routes for method in sorted(route.methods - {"HEAD"})]
    assert unruled(served, RULES) == []
    assert unruled([*served, ("GET", "/new")], RULES) == ["GET /new has no rule"]


def test_the_guard_stands_in_front_of_the_fast_path(world: World) -> None:
    ring = KeyRing()
    spend = AddressLimits().spend
    app = world.client._app
    guarded = Client(Guard(app, RULES, ring, tokens=UserTokens(), spend=spend, is_near=callers_in("")))
    keys = {}
    for offset, scope in enumerate(("read", "items")):
        keys[scope], key = make_key(scope, [scope], now_ms=1)
        ring.apply(Record("api-keys", 0, offset, 0, key.id.encode(), encode_key(key)))
    for target in ("/recommend/u1?k=3", "/recommend/u1?k=%203"):
        assert guarded.get(target).status_code == 401
        assert guarded.get(target, {"Authorization": f"Bearer {keys['items']}"}).status_code == 403
        answer = guarded.get(target, {"Authorization": f"Bearer {keys['read']}"})
        assert [item["item_id"] for item in answer.json()["items"]] == ["i1", "i2", "i3"]


@pytest.mark.parametrize(
    ("query", "status"),
    [("k=3", 200), ("after=e-1&wait_ms=1", 200), ("%61fter=e-1&wait_ms=1", 200), ("k=%203", 200), ("k=0", 422)],
)
def test_requests_started_without_a_task_are_answered_with_any_query(world: World, query: str, status: int) -> None:
    """A wait with a deadline wants a task; with LMDB and an index of this process none is made for a request."""
    http = queueing(lambda: Gate(asyncio.get_running_loop().call_soon, time.perf_counter), waits_for_nothing)
    with served(world.client._app, http=http) as url:
        assert httpx.get(f"{url}/recommend/u1?{query}").status_code == status
