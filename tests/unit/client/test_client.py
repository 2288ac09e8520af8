"""The Python client: what it sends, when it asks again, and what it says of a failure."""

import ast
import asyncio
import inspect
import json
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

import nearline_client
from nearline_client import (
    NEVER,
    AsyncClient,
    Client,
    NearlineError,
    NotLetIn,
    NotThere,
    OtherVersion,
    Refused,
    Retries,
    TooMany,
    Unavailable,
    UnexpectedAnswer,
    calls,
    event,
)
from nearline_client.retrying import Attempts, retry_after_s
from tests.support.ingest_door import LAMP, Door
from tests.support.served import ANSWERED, CUT, Stage, Weather, served, staged

PACKAGE = Path(nearline_client.__file__).parent
CLICK = event("u", "i")


class Met:
    """A client, the door that it calls, what lies between them, and the pauses that it made."""

    def __init__(self, client: Client, door: Door, weather: Weather, pauses: list[float]) -> None:
        self.client = client
        self.door = door
        self.weather = weather
        self.pauses = pauses

    @property
    def ids_in_log(self) -> list[str]:
        return [json.loads(value or b"{}")["event_id"] for _, value in self.door.clicks]


@pytest.fixture(scope="module", autouse=True)
def stage() -> Iterator[None]:
    """One server for all tests of this file."""
    with staged() as STAGES["one"]:
        yield


STAGES: dict[str, Stage] = {}


@contextmanager
def met(*script: tuple[int, dict[str, str]] | int, **options: Any) -> Iterator[Met]:
    """A client of a real door through *script*'s weather; it notes its pauses instead of making them."""
    door = Door()
    weather = Weather(door.app, *script)
    pauses: list[float] = []
    stage = STAGES["one"]
    stage.app = weather
    usual: dict[str, Any] = {"retrieval": stage.url, "ingest": stage.url, "sleep": pauses.append, "draw": lambda: 0.5}
    with Client(**(usual | options)) as client:
        yield Met(client, door, weather, pauses)


# --- one call for each route -----------------------------------------------------------------------------------------


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    def signatures(kind: type) -> dict[str, inspect.Signature]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {name: inspect.signature(method) for name, method in methods if not name.startswith("_")}

    assert signatures(Client) == signatures(AsyncClient)
    assert len(signatures(Client)) > 20


def test_an_event_is_in_the_log_when_it_is_sent() -> None:
    with met() as here:
        event_id = here.client.send_event({"user_id": "u", "item_id": "i", "type": "like"})
        assert here.ids_in_log == [event_id]


def test_many_events_go_out_in_requests_that_the_service_takes() -> None:
    with met() as here:
        many = [event("u", "i", context={"note": "x" * 6_000}) for _ in range(1_200)]
        results = here.client.send_events(many)
        assert (results["accepted"], results["refused"]) == (1_200, 0)
        assert here.ids_in_log == [one["event_id"] for one in many]
        sizes = [len(asked["body"]) for asked in here.weather.asked]
        assert max(sizes) <= calls.MOST_BYTES_IN_A_BATCH + 2
        assert 4 <= len(sizes) <= 6


@pytest.mark.parametrize("item_id", ["a/b", "...", "a b?c#d%2F", "ü/☃", "events"])
def test_any_characters_in_an_id_name_its_item(item_id: str) -> None:
    with met() as here:
        here.client.put_item(item_id, {"title": "A lamp"})
        here.door.come_back()
        assert [key.decode() for key, _ in here.door.changes] == [item_id]
        assert here.client.get_item(item_id)["item"]["title"] == "A lamp"


def test_items_are_put_changed_and_taken_away() -> None:
    with met() as here:
        version = here.client.put_item("lamp", LAMP)["version"]  # type: ignore[arg-type]
        changed = here.client.patch_item("lamp", {"price": 9.0, "attributes": {"watts": None}}, if_match=version)
        assert changed["item"]["price"] == 9.0
        assert changed["item"]["attributes"] == {"colour": "red"}
        with pytest.raises(OtherVersion) as refused:
            here.client.patch_item("lamp", {"price": 1.0}, if_match=version)
        assert refused.value.field == "If-Match"
        here.client.delete_item("lamp", purge=True)
        with pytest.raises(NotThere):
            here.client.get_item("lamp")
        items: list[Any] = [{"item_id": f"i{n}", "title": "t"} for n in range(600)]
        many = here.client.put_items([*items, {"item_id": "x"}])  # type: ignore[typeddict-item]  # it is to be refused
        assert (many["accepted"], many["refused"]) == (600, 1)
        assert many["results"][-1]["field"] == "title"


def test_the_client_updates_merges_and_deletes_users() -> None:
    with met() as here:
        here.client.put_user("u/1", {"country": "GB", "interests": ["tea"]})
        assert here.client.get_user("u/1")["profile"]["interests"] == ["tea"]
        merged = here.client.merge("u/1", session_id="s-1", events=[event("s-1", "i")])
        assert (merged["accepted"], merged["session_id"]) == (1, "s-1")
        here.client.remove_event("u/1", "e/1")
        here.client.erase_user("u/1")
        commands = [json.loads(value or b"{}").get("command") for _, value in here.door.clicks]
        assert [command for command in commands if command] == ["merge", "remove", "erase"]


def test_a_query_says_what_the_options_say() -> None:
    call = calls.recommend(
        "u", {"k": 3, "exclude": ["a", "b&c"], "fields": ["title", "price"], "context": {"device": "phone"}}
    )
    with met(404) as here, pytest.raises(NotThere):
        here.client._ask(call)
    assert parse_qs(here.weather.asked[0]["query"]) == {
        "k": ["3"],
        "exclude": ["a", "b&c"],
        "fields": ["title,price"],
        "context.device": ["phone"],
    }


def test_the_key_is_presented_and_never_shown() -> None:
    with met(key="nl_secret") as here:
        here.client.send_event(CLICK)
        assert here.weather.asked[0]["headers"]["authorization"] == "Bearer nl_secret"
        assert "nl_secret" not in repr(here.client._service)


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_refused_event_names_its_field_and_the_nearest_known_one() -> None:
    wrong: Any = {"user_id": "u", "itemid": "i", "type": "click"}
    with met() as here:
        with pytest.raises(Refused, match="did you mean 'item_id'") as refused:
            here.client.send_event(wrong)
        assert (refused.value.status, refused.value.field, refused.value.reason) == (422, "itemid", "unknown_field")
        results = here.client.send_events([wrong, CLICK])
        assert [one["status"] for one in results["results"]] == ["refused", "accepted"]


def test_a_refused_item_names_its_field() -> None:
    with met() as here, pytest.raises(Refused) as refused:
        here.client.put_item("lamp", {"title": "A lamp", "price": -1.0})
    assert refused.value.field == "price"
    assert here.pauses == [], "what can never be accepted is not sent again"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, NotLetIn),
        (403, NotLetIn),
        (404, NotThere),
        (412, OtherVersion),
        (418, Refused),
        (429, TooMany),
        (500, UnexpectedAnswer),
        (503, Unavailable),
        (504, Unavailable),
    ],
)
def test_each_status_is_an_error_that_says_what_to_do(status: int, kind: type[NearlineError]) -> None:
    with met(status, retries=NEVER) as here, pytest.raises(kind) as failed:
        here.client.get_item("lamp")
    assert type(failed.value) is kind


def test_a_response_that_is_not_json_is_reported() -> None:
    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"<html>Welcome</html>"})

    with (
        served(proxy) as url,
        Client(retrieval=url) as client,
        pytest.raises(UnexpectedAnswer, match="Welcome"),
    ):
        client.recommend("u")


# --- asking again ----------------------------------------------------------------------------------------------------


def test_a_lost_answer_is_asked_for_again_and_counts_once() -> None:
    """Both requests reach the log, under the ids that the client gave."""
    with met(CUT, CUT) as here:
        event_id = here.client.send_event({"user_id": "u", "item_id": "i", "type": "click"})
        assert here.ids_in_log == [event_id] * 3
        assert len(here.pauses) == 2


@pytest.mark.parametrize("weather", [503, 429, 502, CUT])
def test_reads_puts_and_deletes_are_asked_again(weather: int) -> None:
    with met(weather, weather, weather) as here:
        here.client.put_item("lamp", {"title": "A lamp"})
        here.client.get_item("lamp")
        assert len(here.weather.asked) == 5


def test_a_conditional_change_is_not_retried() -> None:
    """A change under a condition is lost: the second of two would fail, and say so of the first."""
    for weather, asked in ((CUT, 1), (503, 1), (429, 2)):
        with met(ANSWERED, weather) as here:
            version = here.client.put_item("lamp", {"title": "A lamp"})["version"]
            if weather == 429:
                here.client.patch_item("lamp", {"price": 2.0}, if_match=version)
            else:
                with pytest.raises(Unavailable):
                    here.client.patch_item("lamp", {"price": 2.0}, if_match=version)
            assert len(here.weather.asked) == 1 + asked


def test_events_without_ids_would_not_be_repeatable() -> None:
    assert calls.send_events([CLICK]).is_repeatable
    assert not calls.send_events([CLICK, {"user_id": "u", "item_id": "i", "type": "click"}]).is_repeatable


def test_a_request_that_never_left_is_retried() -> None:
    from local.ports import free_ports

    pauses: list[float] = []
    closed = f"http://127.0.0.1:{free_ports(1)[0]}"
    with Client(ingest=closed, sleep=pauses.append) as client, pytest.raises(Unavailable) as failed:
        client.patch_item("lamp", {"price": 2.0}, if_match=1)
    assert not failed.value.was_sent
    assert len(pauses) == Retries().attempts - 1


def clocks_in(weather: Weather) -> list[dict[str, list[str]]]:
    return [parse_qs(asked["query"]) for asked in weather.asked]


def test_a_retry_repeats_when_the_request_was_first_sent_and_says_how_long_it_waited() -> None:
    before_ms = time.time_ns() // 1_000_000
    with met(503, CUT) as here:
        here.client.send_event(CLICK)
        first, *retries = clocks_in(here.weather)
    assert list(first) == ["sent_ms"]
    assert 0 <= int(first["sent_ms"][0]) - before_ms < 10_000
    assert [one["sent_ms"] for one in retries] == [first["sent_ms"]] * 2
    assert all(0 <= int(one["waited_ms"][0]) < 10_000 for one in retries)


def test_a_merge_says_when_it_was_sent_and_a_request_without_events_does_not() -> None:
    with met() as here:
        here.client.merge("u", session_id="s", events=[CLICK])
        here.client.put_item("lamp", {"title": "A lamp"})
        assert [list(one) for one in clocks_in(here.weather)] == [["sent_ms"], []]


def test_retry_after_is_waited_for() -> None:
    with met((429, {"retry-after": "3"}), (503, {"retry-after": "2"})) as here:
        here.client.send_event(CLICK)
        assert [int(pause) for pause in here.pauses] == [3, 2]


def test_a_longer_wait_than_the_client_is_patient_is_the_callers_to_make() -> None:
    with met((429, {"retry-after": "60"})) as here, pytest.raises(TooMany) as failed:
        here.client.send_event(CLICK)
    assert failed.value.retry_after_s == 60
    assert here.pauses == []


def test_pauses_grow_to_a_bound_and_are_drawn_from_all_of_it() -> None:
    patient = Retries(attempts=9, first_s=0.1, most_s=1.0, total_s=100)
    failure = Unavailable("away")
    draws = iter([0.0, 1.0, 0.5, 1.0, 1.0, 1.0, 0.0, 1.0])
    attempts = Attempts(patient, is_repeatable=True, now_s=lambda: 0.0, draw=lambda: next(draws))
    pauses = [attempts.pause_s(failure) for _ in range(8)]
    assert pauses == pytest.approx([0.0, 0.2, 0.2, 0.8, 1.0, 1.0, 0.0, 1.0])
    with pytest.raises(Unavailable):
        attempts.pause_s(failure)


def test_attempts_end_when_the_time_is_over() -> None:
    moments = iter([0.0, 1.0, 14.9, 15.1])
    attempts = Attempts(Retries(attempts=99), is_repeatable=True, now_s=lambda: next(moments), draw=lambda: 0.0)
    attempts.pause_s(Unavailable("away"))
    attempts.pause_s(Unavailable("away"))
    with pytest.raises(Unavailable):
        attempts.pause_s(Unavailable("away"))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)]
    + [(header, None) for header in ("", None, "soon", "-1", "1.5")],
)
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, 60.0) == seconds


def test_the_async_client_asks_again_likewise() -> None:
    door = Door()
    weather = Weather(door.app, CUT, (429, {"retry-after": "3"}))
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    async def story(url: str) -> None:
        async with AsyncClient(ingest=url, sleep=pause, draw=lambda: 0.5) as client:
            event_id = await client.send_event({"user_id": "u", "item_id": "i", "type": "click"})
            assert [json.loads(value or b"{}")["event_id"] for _, value in door.clicks] == [event_id] * 2
            with pytest.raises(Refused) as refused:
                await client.put_item("lamp", {"title": " "})
            assert refused.value.field == "title"

    with served(weather) as url:
        asyncio.run(story(url))
    assert [int(pause) for pause in pauses] == [0, 3]


# --- the package -----------------------------------------------------------------------------------------------------


def test_the_package_needs_httpx_and_nothing_else() -> None:
    about = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    assert [one.partition(">")[0] for one in about["dependencies"]] == ["httpx"]
    assert about["version"] == nearline_client.__version__
    assert (PACKAGE / "py.typed").is_file()
    known = {*sys.stdlib_module_names, "httpx", "nearline_client"}
    foreign = {module for file in PACKAGE.glob("*.py") for module in imported(file) if module not in known}
    assert foreign == set()


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def test_the_check_reports_a_foreign_import(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def late():\n    from nearline.events import Event\n    import orjson.x")
    assert set(imported(file)) == {"nearline", "orjson"}


def test_everything_that_is_public_is_there() -> None:
    assert all(hasattr(nearline_client, name) for name in nearline_client.__all__)
