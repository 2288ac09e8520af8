"""``POST /recommend``: anonymous sessions are encoded now, together, and nothing of them is kept."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from nearline.guard import GRANT, Grant
from nearline.keys import Key, Permission
from services.retrieval.models import Refused
from services.retrieval.routes.bodies import BoundedBodies
from services.retrieval.routes.sessions import SessionPath, SessionRecommendations
from services.retrieval.sessions import session_of
from services.retrieval.users.session_vectors import BATCH, SessionVectors
from tests.support.read_world import NOW_MS, World, at, exchange, ids

READ = frozenset((Permission.READ,))


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


def event(item_id: str, ago_ms: int = 0, kind: str = "view", **more: Any) -> dict[str, Any]:
    return {"item_id": item_id, "type": kind, "time_ms": NOW_MS - ago_ms, **more}


def test_a_session_gets_what_is_near_its_events_and_says_what_it_used(world: World) -> None:
    response = world.post("/recommend", {"events": [event("i10", 2_000, event_id="e-1"), event("i12", 850)], "k": 3})
    assert ids(response) == ["i11", "i9", "i13"] or ids(response) == ["i11", "i13", "i9"]
    answer = response.json()
    assert {each["source"] for each in answer["items"]} == {"personal"}
    expected = {
        "user_id": None,
        "space": 3,
        "vector_version": NOW_MS - 850,
        "newest_event_id": "#001",
        "as_of_ms": NOW_MS - 850,
        "age_ms": 850,
        "degraded": False,
        "reason": None,
        "seen": "known",
    }
    assert {name: answer[name] for name in expected} == expected
    SessionRecommendations.model_validate(answer)


def test_a_session_writes_nothing_to_the_store(world: World) -> None:
    world.post("/recommend", {"events": [event("i10")]})
    assert world.store._values == {}


def test_the_order_of_events_is_that_of_their_time_and_one_id_is_one_event() -> None:
    events = [event("i3", 10, event_id="b"), event("i1", 30), event("i2", 20), event("i4", 5, event_id="b")]
    session = session_of(events, {}, now_ms=NOW_MS)
    assert session.items == ["i1", "i2", "i4"]
    assert session.times_ms == sorted(session.times_ms)


def test_events_of_a_clock_that_is_ahead_keep_their_order_and_are_from_now(world: World) -> None:
    ahead = [event("i12", -600_000), event("i10", -600_001, event_id="z"), event("i14", -1), event("i16", 5_000)]
    session = session_of(ahead, {}, now_ms=NOW_MS)
    assert (session.items, session.times_ms) == (["i16", "i14", "i12", "i10"], [NOW_MS - 5_000, *[NOW_MS] * 3])
    answer = world.post("/recommend", {"events": ahead, "k": 1}).json()
    assert (answer["age_ms"], answer["newest_event_id"], answer["degraded"]) == (0, "z", False)


def test_its_own_items_come_only_when_asked_for(world: World) -> None:
    events = [event("i10"), event("i11", kind="purchase")]
    assert {"i10", "i11"} & set(ids(world.post("/recommend", {"events": events, "k": 10}))) == set()
    bought = ids(world.post("/recommend", {"events": events, "k": 10, "exclude_seen": "purchase"}))
    assert {"i10", "i11"} & set(bought) == {"i10"}
    assert {"i10", "i11"} <= set(ids(world.post("/recommend", {"events": events, "k": 10, "exclude_seen": "none"})))


def test_an_event_whose_type_never_counts_as_seen_does_not_hide_its_item() -> None:
    world = World(seen="view=never, click=1d")
    events = [event("i10"), event("i12", 2 * 24 * 3_600_000, "click"), event("i14", 1, "click")]
    assert {"i10", "i12", "i14"} & set(ids(world.post("/recommend", {"events": events, "k": 20}))) == {"i10", "i12"}
    world.close()


def test_options_mean_what_they_mean_for_a_user(world: World) -> None:
    body = {"events": [event("i10")], "k": 3, "filter": 'category = "lamps" and price > 10', "exclude": ["i11"]}
    response = world.post("/recommend", body | {"fields": ["price", "source"]})
    assert ids(response) == ["i13", "i15", "i17"]
    assert response.json()["items"][0] == {"item_id": "i13", "price": 13.0, "source": "personal"}
    one_each = world.post("/recommend", {"events": [event("i10")], "k": 2, "max_per_category": 1}).json()["items"]
    assert {each["category"] for each in one_each} == {"mugs", "lamps"}


def test_a_session_of_unknown_items_gets_what_trends_and_says_so(world: World) -> None:
    answer = world.post("/recommend", {"events": [event("no-such-item")], "k": 2}).json()
    assert (answer["reason"], answer["degraded"]) == ("no_vector", False)
    assert [each["item_id"] for each in answer["items"]] == ["i39", "i38"]
    assert world.towers.user_calls == []


def test_a_retired_item_is_still_taste_but_in_no_answer(world: World) -> None:
    from dataclasses import replace

    from tests.support.read_world import item

    world.catalogue.apply(replace(item(10, 2), candidate=None, retired_ms=5))
    answer = world.post("/recommend", {"events": [event("i10")], "k": 2, "exclude_seen": "none"})
    assert sorted(ids(answer)) == ["i11", "i9"]
    world.catalogue.purge("i10")
    assert world.post("/recommend", {"events": [event("i10")], "k": 2}).json()["reason"] == "no_vector"


def test_context_reaches_the_tower_even_without_an_event(world: World) -> None:
    features = world.towers.features
    told = {"country": "GB", "interests": ["mugs"]}
    answer = world.post("/recommend", {"events": [], "context": told}).json()
    assert answer["warnings"] == [], "a session's context is read"
    assert world.towers.contexts[-1] == features.user_context([told])[0].tolist()
    events = [event("i1", 5, context={"country": "FR", "device": "phone"}), event("i2", 1, context={"device": "tv"})]
    world.post("/recommend", {"events": events, "context": told})
    assert world.towers.contexts[-1] == features.user_context([told | {"device": "tv"}])[0].tolist()


def test_an_empty_session_is_answered_too(world: World) -> None:
    answer = world.post("/recommend", {}).json()
    assert (answer["reason"], answer["newest_event_id"]) == ("no_vector", "")
    assert answer["items"][0]["item_id"] == "i39"


def test_without_the_tower_a_session_gets_what_trends_in_its_categories_and_mends_by_itself(world: World) -> None:
    world.towers.down = True
    body = {"events": [event("i10")], "k": 3}
    for _ in range(5):
        answer = world.post("/recommend", body).json()
        assert (answer["degraded"], answer["reason"]) == (True, "tower_unavailable")
        assert answer["degradations"] == ["tower_unavailable"]
        assert answer["vector_version"] is None
        assert [(each["item_id"], each["source"]) for each in answer["items"]] == [
            ("i38", "trending_category"),
            ("i20", "trending_category"),
            ("i39", "trending"),
        ]
    assert len(world.towers.user_calls) == 3, "a tower that is known to be away is asked no more"
    world.towers.down = False
    world.run(world.vectors.probe())
    assert world.post("/recommend", body).json()["reason"] is None


def test_sessions_that_come_together_are_encoded_together_and_not_mixed_up(world: World) -> None:
    async def all_at_once(client: httpx.AsyncClient) -> list[httpx.Response]:
        bodies = [{"events": [event(f"i{nth % 38 + 1}")], "k": 2} for nth in range(200)]
        return list(await asyncio.gather(*(client.post("/recommend", json=body) for body in bodies)))

    answers = world.run(exchange(world.app, all_at_once))
    for nth, answer in enumerate(answers):
        asked = nth % 38 + 1
        assert sorted(ids(answer)) == sorted([f"i{asked - 1}", f"i{asked + 1}"])
    assert sum(world.towers.user_calls) == 200
    assert len(world.towers.user_calls) < 60
    assert max(world.towers.user_calls) <= BATCH


def test_more_sessions_than_may_wait_get_what_trends_at_once(world: World) -> None:
    few = SessionVectors(world.towers, world.catalogue, most_waiting=5)
    world.run(few.probe())
    world.sessions.vectors = few

    async def all_at_once(client: httpx.AsyncClient) -> list[httpx.Response]:
        body = {"events": [event("i10")], "k": 1}
        return list(await asyncio.gather(*(client.post("/recommend", json=body) for _ in range(50))))

    reasons = [answer.json()["reason"] for answer in world.run(exchange(world.app, all_at_once))]
    assert set(reasons) == {None, "tower_unavailable"}


def test_a_bad_answer_for_one_session_costs_no_other(world: World) -> None:
    world.towers.poison_value = float(np.float16(at(10)[0]))

    async def together(client: httpx.AsyncClient) -> list[httpx.Response]:
        bodies = [{"events": [event(f"i{nth}")], "k": 1} for nth in (5, 10, 15)]
        return list(await asyncio.gather(*(client.post("/recommend", json=body) for body in bodies)))

    reasons = [answer.json()["reason"] for answer in world.run(exchange(world.app, together))]
    assert reasons == [None, "tower_unavailable", None]


@pytest.mark.parametrize(
    ("body", "field", "problem"),
    [
        ({"evnts": []}, "evnts", "did you mean 'events'?"),
        ({"events": [event("i1", tpe="view")]}, "events.0.tpe", "did you mean 'type'?"),
        ({"events": [event("i1"), {"item_id": "i1", "type": "view"}]}, "events.1.time_ms", "'time_ms' is missing"),
        ({"events": [event("i1", kind="veiw")]}, "events.0.type", "type must be one of view, click"),
        ({"events": [event("i1") | {"time_ms": 1_732_100_000}]}, "events.0.time_ms", "it looks like seconds"),
        ({"events": [event("x" * 129)]}, "events.0.item_id", "1-128 UTF-8 bytes, came 129"),
        ({"events": [event("i1", user_id="u")]}, "events.0.user_id", "GET /recommend/{user_id}"),
        ({"events": [event("i1")] * 51}, "events", "at most 50 items"),
        ({"events": "i1"}, "events", "valid list"),
        ({"events": ["i1"]}, "events.0", "valid dictionary"),
        ({"k": 0}, "k", "greater than or equal to 1"),
        ({"k": 10**6}, "k", "less than or equal to 500"),
        ({"exclude": ["a\x00"]}, "exclude.0", "control characters"),
        ({"fields": ["prize"]}, "fields.0", "'price'"),
        ({"context": {"contry": "GB"}}, "context.contry", "unknown name"),
        ({"filter": "prize < 3"}, "filter", "did you mean price?"),
        ([], "body", "valid dictionary"),
    ],
)
def test_a_malformed_session_is_told_where_and_what_is_allowed(
    same_world: World, body: Any, field: str, problem: str
) -> None:
    response = same_world.post("/recommend", body)
    assert response.status_code == 422, response.text
    (told,) = Refused.model_validate(response.json()).detail
    assert told.field == field
    assert problem in told.problem
    assert response.json()["allowed"]["k"] == "an integer 1-500, 20 by default"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b'{"k": NaN}', "not JSON"),
        (b"\xff", "not UTF-8"),
        (b'"\\ud800"', "not JSON"),
    ],
)
def test_a_body_that_is_not_json_is_refused_as_such(same_world: World, content: bytes, problem: str) -> None:
    response = same_world.send("POST", "/recommend", content=content)
    assert response.status_code == 422
    assert problem in response.json()["detail"][0]["problem"]
    assert response.json()["detail"][0]["field"] == "body"


def test_a_body_beyond_the_bound_is_refused_before_it_is_read(world: World) -> None:
    async def sent(client: httpx.AsyncClient) -> tuple[httpx.Response, int]:
        pieces = 0

        async def huge() -> Any:
            nonlocal pieces
            for _ in range(200):
                pieces += 1
                yield b" " * 65_536

        return await client.post("/recommend", content=huge()), pieces

    response, pieces = world.run(exchange(world.app, sent))
    assert response.status_code == 413
    assert pieces <= 20
    announced = world.send("POST", "/rank", content=b"{}", headers={"content-length": "99999999"})
    assert announced.status_code == 413


def test_a_body_that_does_not_come_is_waited_for_only_so_long(world: World) -> None:
    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def story() -> list[Any]:
        told: list[Any] = []

        async def send(message: Any) -> None:
            told.append(message)

        scope = {"type": "http", "method": "POST", "path": "/recommend", "headers": []}
        await BoundedBodies(world.app, {"/recommend": 100}, arrival_s=0.01)(scope, never, send)
        return told

    assert world.run(story())[0]["status"] == 408


def test_bodies_have_a_room_together_of_which_a_key_gets_half(world: World) -> None:
    async def story() -> list[int]:
        ended = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await ended.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        bodies = BoundedBodies(app, {"/recommend": 100}, together=800)

        async def ask(key_id: str | None) -> int:
            told: list[Any] = []

            async def receive() -> Any:
                return {"type": "http.request", "body": b'"%s"' % (b"x" * 98), "more_body": False}

            async def send(message: Any) -> None:
                told.append(message)

            scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/recommend", "headers": []}
            if key_id is not None:
                scope[GRANT] = Grant(Key(key_id, "k", READ, b"", 1), READ)
            await bodies(scope, receive, send)
            return int(told[0]["status"])

        asking = [asyncio.create_task(ask(key_id)) for key_id in ["a"] * 4 + ["b"] * 3]
        await asyncio.sleep(0)
        statuses = [await ask("a")]
        asking.append(asyncio.create_task(ask(None)))
        await asyncio.sleep(0)
        statuses += [await ask("b"), await ask(None)]
        ended.set()
        assert set(await asyncio.gather(*asking)) == {200}
        return [*statuses, await ask("a")]

    assert world.run(story()) == [429, 429, 429, 200]


@pytest.mark.parametrize("depth", [101, 300, 990, 1_020, 5_000])
@pytest.mark.parametrize("path", ["/recommend", "/rank", "/why", "/rules/try"])
def test_a_body_that_is_nested_too_deep_is_refused(same_world: World, path: str, depth: int) -> None:
    for name in ("events", "k", "user_id", "sequence", "entries", "context", "unknown"):
        raw = b'{"%s":%s%s}' % (name.encode(), b"[" * depth, b"]" * depth)
        response = same_world.send("POST", path, content=raw)
        assert response.status_code == 422
        assert "are nested" in response.json()["detail"][0]["problem"]


def test_past_the_short_way_the_answer_is_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = re.compile(r'"(took_ms|request_id)":[^,]+,')
    body = {"events": [event("i10"), event("i3")], "k": 5, "filter": "price > 4"}
    short = world.post("/recommend", body).text

    async def passed_on(self: SessionPath, *given: Any) -> None:
        await self._app(*given)

    monkeypatch.setattr(SessionPath, "__call__", passed_on)
    assert timed.sub("", world.post("/recommend", body).text) == timed.sub("", short)


def test_the_documents_example_runs(world: World) -> None:
    described = world.get("/openapi.json").json()
    operation = described["paths"]["/recommend"]["post"]
    name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    example = described["components"]["schemas"][name]["example"]
    answer = world.post("/recommend", example)
    SessionRecommendations.model_validate(answer.json())
    SessionRecommendations.model_validate(described["components"]["schemas"]["SessionRecommendations"]["example"])
    assert "SessionEvent" in described["components"]["schemas"]
    assert operation["x-scope"] == "read"
