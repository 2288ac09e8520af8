"""The canary: what it clicks on, what it times, and that nobody else notices it."""

import asyncio
import threading
import time
from pathlib import Path

import orjson
import pytest

from local.addresses import Ports
from local.system import System
from nearline.adapters.api import Api
from nearline.errors import Unavailable
from nearline.events import decode_event
from nearline.topics import CLICKS
from services.canary.canary import CLICK_TO_ANSWER, COUNTED, USERS, Canary, ClickOutcome, click_for_ever
from services.canary.shop import CanaryShop, RecommendedRow
from tests.support.ingest_door import Door
from tests.support.served import CUT, Weather, served


class Row10:
    """A shop that shows the items i0 to i9 and uses each click after *used_after* looks; *down* refuses everything."""

    def __init__(self, used_after: int = 1, items: int = 10) -> None:
        self.used_after = used_after
        self.items = [f"i{n}" for n in range(items)]
        self.down = False
        self.clicks: list[tuple[str, str, str]] = []
        self.looks: list[tuple[str, str]] = []
        self.waiting = threading.Event()

    def click(self, user_id: str, item_id: str, event_id: str) -> None:
        if self.down:
            raise Unavailable("the shop was told to be down")
        self.clicks.append((user_id, item_id, event_id))

    def look(self, user_id: str, after: str = "", wait_ms: int = 0) -> RecommendedRow:
        if self.down:
            raise Unavailable("the shop was told to be down")
        self.looks.append((user_id, after))
        looked = sum(asked == after for _, asked in self.looks)
        self.waiting.set()
        return RecommendedRow(self.items, bool(after) and looked >= self.used_after)


def counts() -> dict[str, float]:
    return {outcome.value: counter._value.get() for outcome, counter in COUNTED.items()}


def grown(before: dict[str, float]) -> dict[str, float]:
    return {name: value - before[name] for name, value in counts().items()}


def test_a_round_clicks_on_what_is_shown_and_times_the_answer_that_used_it() -> None:
    shop = Row10(used_after=3)
    before, timed = counts(), CLICK_TO_ANSWER._sum.get()
    started = time.perf_counter()
    assert Canary(shop).click() is ClickOutcome.USED
    took = time.perf_counter() - started
    ((user_id, item_id, event_id),) = shop.clicks
    assert item_id in shop.items
    assert shop.looks == [(user_id, "")] + [(user_id, event_id)] * 3
    assert grown(before) == {"used": 1, "late": 0, "refused": 0}
    assert 0.04 <= CLICK_TO_ANSWER._sum.get() - timed <= took  # two pauses between three looks


def test_its_users_take_turns_and_no_two_clicks_are_the_same_event() -> None:
    shop, canary = Row10(), None
    canary = Canary(shop)
    for _ in range(2 * USERS):
        canary.click()
    users = [user for user, _, _ in shop.clicks]
    assert users[:USERS] == users[USERS:] == [f"canary:{n}" for n in range(USERS)]
    assert len({event for _, _, event in shop.clicks}) == 2 * USERS
    assert shop.looks[1:].count(("canary:0", "")) == 0  # what an answer showed is clicked on next


def test_a_click_that_no_answer_uses_in_time_is_late_and_in_no_percentile() -> None:
    before, timed = counts(), CLICK_TO_ANSWER._sum.get()
    assert Canary(Row10(used_after=10**6), deadline_s=0.1).click() is ClickOutcome.LATE
    assert grown(before) == {"used": 0, "late": 1, "refused": 0}
    assert CLICK_TO_ANSWER._sum.get() == timed


def test_while_the_shop_is_down_clicks_are_refused_and_afterwards_it_goes_on() -> None:
    shop = Row10()
    canary, before = Canary(shop), counts()
    shop.down = True
    assert canary.click() is ClickOutcome.REFUSED
    shop.down = False
    assert canary.click() is ClickOutcome.USED
    assert grown(before) == {"used": 1, "late": 0, "refused": 1}


def test_an_empty_shop_is_no_failure() -> None:
    before = counts()
    assert Canary(Row10(items=0)).click() is None
    assert grown(before) == {"used": 0, "late": 0, "refused": 0}


def test_every_outcome_is_there_from_the_start() -> None:
    assert set(counts()) == {"used", "late", "refused"}


@pytest.mark.anyio
async def test_rounds_overlap_while_answers_are_slow_and_end_when_they_are_told_to() -> None:
    shop = Row10(used_after=10**6)
    task = asyncio.create_task(click_for_ever(Canary(shop), 0.01))
    give_up = time.monotonic() + 10
    while len(shop.clicks) < 5 and time.monotonic() < give_up:
        await asyncio.sleep(0.005)
    task.cancel()
    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 3  # and not the five seconds that a click may take
    assert len(shop.clicks) >= 5


def test_an_outage_is_one_line_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    shop = Row10()
    canary = Canary(shop)
    for down in (True, True, True, False, False):
        shop.down = down
        canary.click()
    said = capsys.readouterr().out
    assert (said.count("clicks are refused"), said.count("clicks are used")) == (1, 1)


def test_it_is_a_part_of_the_system_unless_it_is_turned_off(tmp_path: Path) -> None:
    here = System(tmp_path, Ports())
    off = System(tmp_path, Ports(), {"NEARLINE_CANARY_EVERY_S": "0"})
    assert {part.name for part in here.parts()} - {part.name for part in off.parts()} == {"canary"}


# --- over HTTP --------------------------------------------------------------------------------------------------------


class Answers:
    """Stands for retrieval: an application that answers with what it is given, and keeps what was asked."""

    def __init__(self, status: int = 200, **answer: object) -> None:
        self.status, self.answer = status, answer
        self.asked: list[tuple[str, str, dict[bytes, bytes]]] = []

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        self.asked.append((scope["path"], scope["query_string"].decode(), dict(scope["headers"])))
        body = orjson.dumps(self.answer)
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": self.status, "headers": [length]})
        await send({"type": "http.response.body", "body": body})


def test_its_clicks_come_through_the_real_door_as_synthetic_events() -> None:
    door, answers = Door(), Answers(items=[{"item_id": "i-1"}], fresh=True)
    with served(door.app) as ingest, served(answers) as retrieval:
        shop = CanaryShop(Api(ingest, timeout_s=5), Api(retrieval, timeout_s=5), lambda: {"Authorization": "Bearer k"})
        assert Canary(shop).click() is ClickOutcome.USED
    ((key, value),) = door.outbox.sent[CLICKS]
    event = decode_event(value, append_ms=2_000_000_000_000)
    assert (key, event.item_id, event.synthetic) == (b"canary:0", "i-1", True)
    assert event.produced_ms is not None
    path, query, headers = answers.asked[-1]
    assert path == "/recommend/canary:0"
    assert f"after={event.event_id}" in query
    assert "exclude_seen=none" in query
    assert headers[b"authorization"] == b"Bearer k"


def test_a_503_and_a_closed_port_are_unavailable() -> None:
    answers = Answers(503)
    with served(answers) as retrieval:
        shop = CanaryShop(Api("http://127.0.0.1:1", timeout_s=1), Api(retrieval, timeout_s=5), dict)
        with pytest.raises(Unavailable, match="503"):
            shop.look("canary:0")
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
            shop.click("canary:0", "i", "e")


def test_a_kept_connection_that_was_closed_meanwhile_is_opened_anew() -> None:
    answers = Answers(items=[])
    weather = Weather(answers, 200, CUT)
    with served(weather) as url:
        api = Api(url, timeout_s=5)
        for _ in range(3):
            status, _ = api.call("GET", "/x", {})
            assert status == 200
        api.close()
    assert len(weather.asked) == 4
