"""The whole system as processes on free ports: the effects of a click, and recovery from kill -9."""

import asyncio
import json
import os
import signal
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("supervisor")

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.testing import CliRunner

from local.processes import processes_of, wait_until
from local.system import System, http_ok
from nearline.adapters.kafka.admin import Topics
from nearline.adapters.kafka.producer import Producer
from nearline.adapters.kafka.table_reader import TableReader
from nearline.cli.app import app
from nearline.errors import Unavailable
from nearline.events import Event, encode_event
from nearline.items import Item, encode_item
from nearline.keys import PATTERN
from nearline.space import Space
from nearline.topics import CLICKS, CLICKS_DLQ, ITEMS, user_updates_topic
from nearline.user_commands import Erase, encode_command
from nearline.user_updates import UserUpdate, decode_user_updates
from tests.support.sockets import beyond_loopback, listeners

UNNAMED = 3  # of the job: Flink's blob server, and the two of py4j, by which PyFlink and the JVM call each other
DEADLINE_S = 240.0  # on a crowded machine the job alone takes a minute and more to come back
KINDS = ("lantern", "teapot", "cushion")
CATALOGUE = {
    f"{kind}-{n}": Item(
        f"{colour} {kind} number {n}", category=f"{kind}s", price=n + 1.0, attributes={"colour": colour}
    )
    for kind in KINDS
    for n, colour in enumerate(("red", "blue", "green", "white", "black", "pink", "grey", "gold", "small", "large"))
}


def append(system: System, topic: str, messages: Sequence[tuple[str, bytes | None]]) -> None:
    """Append, again and again while the log is away: the same events sent twice change nothing."""

    async def send() -> None:
        async with Producer(system.bootstrap) as producer:
            await producer.send_all(topic, [(key.encode(), value) for key, value in messages])

    def sent() -> bool:
        try:
            asyncio.run(send())
        except Unavailable:
            return False
        return True

    assert wait_until(sent, DEADLINE_S)


def event(user_id: str, item_id: str, kind: str = "click") -> Event:
    return Event(f"e2e-{uuid.uuid4().hex}", user_id, item_id, kind, time.time_ns() // 1_000_000)


def click(system: System, *events: Event) -> None:
    append(system, CLICKS, [(each.user_id, encode_event(each)) for each in events])


def answer(system: System, user_id: str, k: int = 10, **asked: str) -> dict[str, Any]:
    """The user's answer, empty while retrieval is away."""
    try:
        url = f"{system.retrieval}/recommend/{user_id}"
        response = httpx.get(url, params={"k": k, **asked}, headers=bearer(system), timeout=5.0)
    except httpx.HTTPError:
        return {"items": [], "newest_event_id": None}
    assert response.status_code in (200, 503), response.text
    return dict(response.json()) if response.status_code == 200 else {"items": [], "newest_event_id": None}


def bearer(system: System, key: str = "") -> dict[str, str]:
    return {"Authorization": f"Bearer {key or system.key}"}


def shown(system: System, user_id: str, k: int = 10, **asked: str) -> list[str]:
    return [item["item_id"] for item in answer(system, user_id, k, **asked)["items"]]


def uses(system: System, last: Event) -> bool:
    return bool(answer(system, last.user_id)["newest_event_id"] == last.event_id)


def test_a_click_is_in_the_next_answer_and_says_so(system: System) -> None:
    first = event("anna", "teapot-1")
    click(system, first)
    assert wait_until(lambda: uses(system, first), DEADLINE_S)
    before = answer(system, "anna", k=30)
    second = event("anna", "lantern-2")
    click(system, second)
    assert wait_until(lambda: uses(system, second), DEADLINE_S)
    after = answer(system, "anna", k=30)
    assert after["history_version"] > before["history_version"]
    assert "lantern-2" in {item["item_id"] for item in before["items"]}
    assert not {"lantern-2", "teapot-1"} & {item["item_id"] for item in after["items"]}
    assert not after["degraded"]


def test_a_click_by_http_is_in_the_next_answer(system: System) -> None:
    body = {"user_id": "clara/ü 7", "item_id": "teapot-3", "type": "click", "context": {"device": "phone"}}
    sent = httpx.post(f"{system.ingest}/events", json=body, headers=bearer(system), timeout=10.0)
    assert sent.status_code == 200, sent.text
    event_id = sent.json()["results"][0]["event_id"]
    assert wait_until(lambda: answer(system, quote("clara/ü 7"))["newest_event_id"] == event_id, DEADLINE_S)


def test_a_rule_holds_when_it_is_put_and_no_more_when_it_is_deleted(system: System, tmp_path: Path) -> None:
    click(system, last := event("rita", "teapot-1"))
    assert wait_until(lambda: uses(system, last), DEADLINE_S)
    file = tmp_path / "rules.toml"
    file.write_text("""
        [[rules]]
        rule_id = "no-teapots"
        action = "block"
        filter = 'category = "teapots"'
        [[rules]]
        rule_id = "gold"
        action = "pin"
        position = 1
        items = ["lantern-7"]
    """)
    assert "lantern-7" in nearline(system, "rules", "try", str(file), "--user", "rita")
    assert any(item.startswith("teapot") for item in shown(system, "rita", k=30)), "nothing was put into force"
    nearline(system, "rules", "put", str(file))
    assert wait_until(lambda: shown(system, "rita", k=30)[:1] == ["lantern-7"], DEADLINE_S)
    ruled = answer(system, "rita", k=30)
    assert not any(item["item_id"].startswith("teapot") for item in ruled["items"])
    assert ruled["rules"] == ["no-teapots", "gold"]
    assert "blocked by no-teapots" in nearline(system, "why", "rita", "teapot-2")
    for rule_id in ("no-teapots", "gold"):
        nearline(system, "rules", "delete", rule_id)
    assert wait_until(lambda: "rules" not in answer(system, "rita")["items"][0], DEADLINE_S)
    assert last.event_id in nearline(system, "why", "rita", "teapot-2"), "the event that moved it"


def test_a_click_that_names_its_answer_is_in_the_report(system: System) -> None:
    found = answer(system, "remy", k=5)
    clicked = found["items"][0]
    told = replace(event("remy", clicked["item_id"]), request_id=found["request_id"])
    click(system, told)
    assert wait_until(lambda: uses(system, told), DEADLINE_S)

    def is_counted() -> bool:
        report = json.loads(nearline(system, "report", "--json"))
        lines = {line["source"]: line["clicked"]["hits"] for line in report["lines"]}
        return bool(report["met"] >= 1) and lines.get(clicked["source"], 0) >= 1

    assert wait_until(is_counted, DEADLINE_S)


def test_an_item_by_http_comes_is_hidden_and_goes(system: System) -> None:
    url = f"{system.ingest}/items/lantern%2Fnew"
    shop = httpx.Client(headers=bearer(system), timeout=10.0)

    def is_shown() -> bool:
        return "lantern/new" in shown(system, "nobody", k=500)

    assert shop.put(url, json={"title": "a new lantern", "category": "lanterns"}).status_code == 200
    assert wait_until(is_shown, DEADLINE_S)
    assert shop.patch(url, json={"available": False}).status_code == 200
    assert wait_until(lambda: not is_shown(), DEADLINE_S)
    near = httpx.get(f"{system.retrieval}/similar/lantern%2Fnew", headers=bearer(system), timeout=10.0)
    assert near.status_code == 200, "the page of a sold-out item still shows what is like it"
    assert len(near.json()["items"]) == 20
    assert shop.patch(url, json={"available": True}).json()["item"]["title"] == "a new lantern"
    assert wait_until(is_shown, DEADLINE_S)
    assert shop.delete(url).status_code == 200
    assert wait_until(lambda: not is_shown(), DEADLINE_S)


def test_a_click_before_its_items_vector_counts_when_the_vector_comes(system: System) -> None:
    only = event("hasty", "lantern-later")
    click(system, only)
    assert wait_until(lambda: uses(system, only), DEADLINE_S)
    assert answer(system, "hasty")["reason"] == "no_vector"
    append(system, ITEMS, [("lantern-later", encode_item(Item("a later lantern", category="lanterns")))])
    assert wait_until(lambda: answer(system, "hasty")["reason"] is None, DEADLINE_S)
    assert uses(system, only), "no other event was needed"
    append(system, ITEMS, [("lantern-later", None)])


def door(system: System, method: str, path: str, json: Any = None) -> dict[str, Any]:
    """What ingest answers, which must be a 200."""
    answered = httpx.request(method, f"{system.ingest}{path}", json=json, headers=bearer(system), timeout=10.0)
    assert answered.status_code == 200, answered.text
    return dict(answered.json())


def one_after_another(*events: Event) -> list[Event]:
    """*events* a millisecond apart: of two at one moment the newest is the one with the greater id."""
    return [replace(each, time_ms=each.time_ms - len(events) + n) for n, each in enumerate(events)]


def test_a_forgotten_user_is_a_stranger_and_what_comes_late_brings_nothing_back(system: System) -> None:
    old = one_after_another(*(event("fritz", f"lantern-{n}") for n in range(3)))
    door(system, "PUT", "/users/fritz", {"country": "GB"})
    click(system, *old)
    assert wait_until(lambda: uses(system, old[-1]), DEADLINE_S)
    door(system, "DELETE", "/users/fritz")
    assert wait_until(lambda: answer(system, "fritz", k=30).get("newest_event_id") is None, DEADLINE_S)
    click(system, *old)  # a producer that sends again
    late = event("fritz", "teapot-5")
    click(system, late)
    assert wait_until(lambda: uses(system, late), DEADLINE_S)
    items = shown(system, "fritz", k=30)
    assert {each.item_id for each in old} <= set(items)
    assert "teapot-5" not in items
    assert "1 events, new since the erasure" in checked(system, "fritz")
    assert "teapot-5" in nearline(system, "user", "show", "fritz")


def checked(system: System, user_id: str) -> str:
    """What ``nearline user forget --check`` prints, which must find nothing in use."""
    return nearline(system, "user", "forget", user_id, "--check")


def test_an_event_that_is_taken_back_was_never_seen(system: System) -> None:
    kept, regretted = one_after_another(event("greta", "lantern-1"), event("greta", "cushion-7"))
    click(system, kept, regretted)
    assert wait_until(lambda: uses(system, regretted), DEADLINE_S)
    assert "cushion-7" not in shown(system, "greta", k=30)
    door(system, "DELETE", f"/users/greta/events/{regretted.event_id}")
    assert wait_until(lambda: uses(system, kept), DEADLINE_S)
    assert wait_until(lambda: "cushion-7" in shown(system, "greta", k=30), DEADLINE_S)  # with the next snapshot
    assert "lantern-1" not in shown(system, "greta", k=30)


def test_a_session_becomes_the_user_at_login(system: System) -> None:
    anonymous, unsent = event("s-77", "teapot-7"), event("hanna", "cushion-2")
    click(system, anonymous)
    assert wait_until(lambda: uses(system, anonymous), DEADLINE_S)
    inline = {"event_id": unsent.event_id, "item_id": unsent.item_id, "type": "click"}
    merged = door(system, "POST", "/users/hanna/merge", {"session_id": "s-77", "events": [inline]})
    assert (merged["accepted"], merged["session_id"]) == (1, "s-77")
    both = {"teapot-7", "cushion-2"}
    assert wait_until(lambda: not both & set(shown(system, "hanna", k=30)), DEADLINE_S)
    assert wait_until(lambda: answer(system, "s-77").get("newest_event_id") is None, DEADLINE_S)
    assert "sessions: s-77" in nearline(system, "user", "show", "hanna")


def test_a_profile_alone_makes_a_user_known(system: System) -> None:
    door(system, "PUT", "/users/iris", {"country": "GB", "interests": ["teapots"]})
    assert wait_until(lambda: answer(system, "iris").get("history_version") is not None, DEADLINE_S)
    door(system, "DELETE", "/users/iris")
    assert wait_until(lambda: answer(system, "iris").get("history_version") is None, DEADLINE_S)


def test_an_erased_user_is_unknown_and_begins_anew(system: System) -> None:
    first = event("dora", "teapot-1")
    click(system, first)
    assert wait_until(lambda: uses(system, first), DEADLINE_S)
    append(system, CLICKS, [("dora", encode_command(Erase("erase-dora", "dora", time.time_ns() // 1_000_000)))])
    assert wait_until(lambda: answer(system, "dora").get("reason") == "unknown_user", DEADLINE_S)
    click(system, first)  # comes late: it happened before
    second = event("dora", "lantern-1")
    click(system, second)
    assert wait_until(lambda: uses(system, second), DEADLINE_S)
    items = shown(system, "dora", k=40)
    assert "teapot-1" in items
    assert "lantern-1" not in items


def test_each_document_is_told_of_once_the_store_has_it(system: System) -> None:
    last = event("emil", "teapot-2")
    click(system, last)
    assert wait_until(lambda: uses(system, last), DEADLINE_S)
    version = answer(system, "emil")["history_version"]

    async def told() -> UserUpdate:
        async with TableReader(system.bootstrap, user_updates_topic(Space(1, 64))) as reader:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    for record in await reader.poll():
                        update = decode_user_updates(record).get("emil")
                        if update is not None and update.history_version == version:
                            return update

    update = asyncio.run(told())
    assert update.vector_version == version
    assert update.stored_ms >= last.time_ms


def test_a_new_item_comes_and_a_deleted_one_goes(system: System) -> None:
    append(system, ITEMS, [("teapot-new", encode_item(Item("a new teapot", category="teapots")))])
    assert wait_until(lambda: "teapot-new" in shown(system, "nobody", k=500), DEADLINE_S)
    append(system, ITEMS, [("teapot-new", None)])
    assert wait_until(lambda: "teapot-new" not in shown(system, "nobody", k=500), DEADLINE_S)


def test_an_answer_keeps_to_a_filter_and_follows_an_attribute(system: System) -> None:
    wanted = 'attributes.colour in ("red", "blue") and price < 20 and category != "lanterns"'
    red_or_blue = {"teapot-0", "teapot-1", "cushion-0", "cushion-1"}
    assert set(shown(system, "nobody", filter=wanted)) == red_or_blue
    item = CATALOGUE["cushion-5"]
    append(system, ITEMS, [("cushion-5", encode_item(replace(item, attributes={"colour": "red"})))])
    assert wait_until(lambda: set(shown(system, "nobody", filter=wanted)) == red_or_blue | {"cushion-5"}, DEADLINE_S)
    append(system, ITEMS, [("cushion-5", encode_item(item))])
    assert wait_until(lambda: set(shown(system, "nobody", filter=wanted)) == red_or_blue, DEADLINE_S)


def test_nonsense_becomes_a_dead_letter_and_the_clicks_behind_it_count(system: System) -> None:
    good = event("berta", "cushion-3")
    append(system, CLICKS, [("berta", b"{"), ("berta", b'{"v":1,"user":"berta"}'), ("berta", encode_event(good))])
    assert wait_until(lambda: uses(system, good), DEADLINE_S)
    topics = Topics(system.bootstrap)
    try:
        assert wait_until(lambda: topics.end_offset(CLICKS_DLQ) >= 2, DEADLINE_S)
    finally:
        topics.close()


def nearline(system: System, *words: str) -> str:
    """What a command of this system prints; run in this process, for each of its own takes seconds to import."""
    done = CliRunner().invoke(app, list(words), env={**system.environment(), "COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.stdout


def status_of(system: System, user_id: str, presented: str) -> int:
    url = f"{system.retrieval}/recommend/{user_id}?k=1"
    return httpx.get(url, headers=bearer(system, presented), timeout=5.0).status_code


def test_requests_need_a_key_and_a_revoked_key_stops_working_within_a_second(system: System) -> None:
    assert httpx.get(f"{system.retrieval}/recommend/anna", timeout=5.0).status_code == 401
    key = nearline(system, "keys", "create", "--name", "page", "--scope", "read").strip()
    wait_until(lambda: status_of(system, "anna", key) == 200, 1.0, pause_s=0.01)
    assert status_of(system, "anna", key) == 200
    nearline(system, "keys", "revoke", key[3:15])
    wait_until(lambda: status_of(system, "anna", key) == 401, 1.0, pause_s=0.01)
    assert status_of(system, "anna", key) == 401


def test_a_users_token_is_answered_about_that_user_only(system: System, tmp_path: Path) -> None:
    signer = Ed25519PrivateKey.generate()
    public = signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public.pem").write_bytes(public)
    words = ("--name", "backend", "--scope", "read", "--public-key", str(tmp_path / "public.pem"))
    kid = nearline(system, "keys", "create", *words)[3:15]
    now = int(time.time())
    claims = {"user_id": "anna", "scope": "read", "iat": now, "exp": now + 600}
    token = jwt.encode(claims, signer, algorithm="EdDSA", headers={"kid": kid})
    assert wait_until(lambda: status_of(system, "anna", token) == 200, DEADLINE_S)
    assert status_of(system, "berta", token) == 403


def test_no_log_of_the_system_holds_a_key(system: System) -> None:
    logs = list(system.supervisor.logs.glob("*.log"))
    assert len(logs) >= len(system.parts())
    for log in logs:
        found = PATTERN.search(log.read_text(errors="replace"))
        assert found is None, f"{log} holds the key {found[1] if found else ''}"


@pytest.mark.parametrize("part", ["triton", "user_tower", "item_tower", "retrieval", "ingest", "last_n", "broker"])
def test_a_part_is_killed_and_no_click_is_lost(system: System, part: str) -> None:
    """Every user's newest click of before, amid and after the kill is used by that user's answer."""
    users = [f"{part}-{n}" for n in range(20)]
    click(system, *(event(user, "lantern-1") for user in users))
    pid = system.supervisor.pid_of(part)
    os.kill(pid, signal.SIGKILL)
    amid = [event(user, "cushion-1") for user in users]
    click(system, *amid[:10])
    assert wait_until(lambda: system.supervisor.pid_of(part) not in (0, pid), DEADLINE_S)
    after = [event(user, "teapot-2") for user in users[10:]]
    click(system, *amid[10:], *after)
    for last in (*amid[:10], *after):
        assert wait_until(partial(uses, system, last), DEADLINE_S), f"{part} killed: {last.user_id}'s is lost"


def test_every_part_is_ready_after_the_kills(system: System) -> None:
    for part in system.parts():
        assert wait_until(part.is_ready, DEADLINE_S), part.name
    assert http_ok(system.ports.retrieval, "/healthz")()


def test_every_port_of_the_system_is_known_and_bound_to_this_machine(system: System) -> None:
    found = listeners(processes_of(system.data))
    assert beyond_loopback(found) == set()
    named = {port for name, port in system.ports.by_name().items() if name != "canary"}
    ports = {port for _, port in found}
    assert named <= ports
    assert len(ports - named) == UNNAMED, found
