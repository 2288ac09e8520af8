"""The operator's pages: what they show of users, items, letters and rules, and the live figures."""

import asyncio
import re

import orjson
import pytest

from nearline.dead_letters import encode_dead_letter, letter_about
from nearline.errors import BadInput, Unavailable
from nearline.filters import parse
from nearline.live import Delay, LiveFigures, read_page
from nearline.log import Record
from nearline.rules import Action, Rule, Scenario, encode_rule, encode_scenario
from services.web.letters import RuleList, by_reason, letters_in
from services.web.live_metrics import LiveMetrics, point_of
from services.web.operator_routes import taste
from tests.support.web_shop import HOUR_MS, NOW_MS, USER, Page, history

PAST = history(("e-0", "1", 30), ("e-1", "2", 26), ("e-2", "4", 2))


def letter(value: bytes, reason: str = "unknown_field", offset: int = 0, ago_ms: int = 0) -> Record:
    refused = Record("clicks", 3, 17, NOW_MS - ago_ms, b"u", value)
    return Record(
        "clicks-dlq", 0, offset, NOW_MS, b"u", encode_dead_letter(letter_about(refused, reason, "no 'itemid'"))
    )


def rule_record(key: str, value: bytes | None) -> Record:
    return Record("rules", 0, 0, NOW_MS, key.encode(), value)


# --- users and items ---


def test_a_users_history_stands_beside_the_answer() -> None:
    page = Page(u17850=PAST)
    page.click("3", "e-2")
    shown = page.get(f"/operator/users/{USER}").text
    did, answered = shown.split('id="answer-h"')
    assert "Blue lamp" in did
    assert "Red spotty mug" in answered
    assert "for you" in answered
    assert "<b>3</b> events in the window" in shown


def test_a_user_of_whom_nothing_is_known_has_a_page_that_says_so() -> None:
    shown = Page().get("/operator/users/visitor-1")
    assert shown.status_code == 200
    assert "Nothing is stored about this user" in shown.text


def test_looking_for_a_user_leads_to_the_page_even_of_an_odd_id() -> None:
    page = Page()
    location = page.get("/operator/users?id=a/b%20c").headers["location"]
    assert location == "/operator/users/a%2Fb%20c"
    assert page.get(location).status_code == 200
    assert page.get("/operator/users?id=" + "x" * 200).status_code == 422


def test_an_item_shows_what_is_listed_and_who_would_like_it() -> None:
    shown = Page().get("/operator/items/1").text
    assert "well made" in shown
    assert f'<a href="/operator/users/{USER}">' in shown


def test_tastes_are_counted_by_category_most_first() -> None:
    page = Page(u17850=history(("a", "1", 3), ("b", "2", 2), ("c", "1", 1)))
    assert taste(asyncio.run(page.shop.used(USER, "c"))) == [("tableware", 2), ("lighting", 1)]


def test_the_pages_own_clicks_are_listed_with_their_delays() -> None:
    page = Page()
    page.click("2", "web-1")
    assert re.search(r"Blue lamp.*<td class=\"number\">-</td></tr>", page.get("/operator").text, re.DOTALL)
    page.ask("POST", "/measured", json={"event": "web-1", "ms": 47.5})
    assert "48 ms</td></tr>" in page.get("/operator").text


# --- dead letters ---


def test_dead_letters_are_shown_newest_first_with_reason_and_bytes() -> None:
    page = Page()
    page.letters = [
        letter(b"\xff<old>", ago_ms=9 * HOUR_MS),
        letter(b'{"itemid": 1}', offset=1),
        letter(b"x", "bad_id"),
    ]
    shown = page.get("/operator/letters").text
    assert shown.index("itemid&#34;: 1") < shown.index("\\xff&lt;old&gt;")
    assert by_reason(letters_in(page.letters)) == [("clicks-dlq", "unknown_field", 2), ("clicks-dlq", "bad_id", 1)]


def test_undecodable_dead_letters_are_left_out() -> None:
    strays = [Record("clicks-dlq", 0, n, NOW_MS, b"u", value) for n, value in enumerate((b"", b"no", b"{}", b"[]"))]
    assert letters_in([*strays, letter(b"x")])[0].text == "x"
    assert len(letters_in([*strays, letter(b"x")])) == 1


def test_the_page_says_when_kafka_is_down() -> None:
    page = Page()

    async def away() -> list[Record]:
        raise Unavailable("no broker at 127.0.0.1:9")

    page.letters_of = away
    assert "no broker at 127.0.0.1:9" in page.get("/operator/letters").text


# --- rules ---


def test_rules_and_scenarios_are_shown_as_the_log_tells_them() -> None:
    page = Page()
    cheap = Rule("cheap", Action.BOOST, filter=parse("price < 3"), factor=1.5, until_ms=NOW_MS - 10**12)
    page.rules.take_in(rule_record("cheap", encode_rule(cheap)))
    page.rules.take_in(rule_record("scenario:home", encode_scenario(Scenario("home", {"k": 5}, ("cheap",)))))
    shown = page.get("/operator/rules").text
    assert "boost by 1.5" in shown
    assert "price &lt; 3" in shown
    assert "not now" in shown
    assert "k = 5" in shown
    page.rules.take_in(rule_record("cheap", None))
    assert "boost by 1.5" not in page.get("/operator/rules").text


def test_a_record_that_is_no_rule_ends_the_rule_of_its_id() -> None:
    rules = RuleList()
    rules.take_in(rule_record("x", encode_rule(Rule("x", Action.BLOCK, items=("1",)))))
    with pytest.raises(BadInput):
        rules.take_in(rule_record("x", b"{}"))
    assert rules.rules == []


# --- live figures ---

BEFORE = """
nearline_recommend_seconds_bucket{le="0.001"} 0
nearline_recommend_seconds_bucket{le="0.002"} 0
nearline_recommend_seconds_bucket{le="+Inf"} 0
nearline_recommend_seconds_count 0
"""
AFTER = BEFORE.replace(" 0\n", " 10\n").replace('le="0.001"} 10', 'le="0.001"} 0')


def test_the_page_tells_what_anybody_can_say_of_the_last_minute() -> None:
    page = Page()

    async def story() -> None:
        for text in (BEFORE, AFTER):
            page.metrics = {"retrieval": read_page(text)}
            await page.live.beat()

    assert page.live.words() == {}
    asyncio.run(story())
    assert page.live.words()["an answer takes, p50"] == "1.5 ms"
    assert not any("canary" in name for name in page.live.words())
    assert "1.5 ms" in page.get(f"/?user={USER}").text


def test_the_parts_are_asked_every_time_only_while_somebody_looks() -> None:
    asked: list[float] = []
    clock = [0.0]

    async def read() -> dict[str, None]:
        asked.append(clock[0])
        return {}

    async def story() -> None:
        pulse = LiveMetrics(read, every_s=0, clock=lambda: clock[0])
        running = asyncio.create_task(pulse.run())
        for second in range(60):
            clock[0] = second
            if 30 <= second < 40:
                pulse.words()
            for _ in range(5):
                await asyncio.sleep(0)
        running.cancel()

    asyncio.run(story())
    assert asked == [0, 20, *range(30, 40), 59]


def test_a_point_of_the_charts_is_in_milliseconds_and_plain_json() -> None:
    figures = LiveFigures(60, freshness=Delay(0.018, 0.04, 9), recall={10: 0.99}, lag={"last_n": 3}, down=("canary",))
    point = orjson.loads(orjson.dumps(point_of(figures, NOW_MS)))
    assert (point["freshness_p50"], point["freshness_p99"], point["canary_p50"]) == (18, 40, None)
    assert point["recall"] == {"10": 0.99}
    assert point["lag"] == {"last_n": 3}
    assert point["down"] == ["canary"]


def test_a_listener_gets_earlier_readings_first_then_the_next() -> None:
    page = Page()

    async def story() -> list[str]:
        await page.live.beat()
        points = page.operator_routes._points()
        first = await anext(points)
        following = asyncio.ensure_future(anext(points))
        while not following.done():
            await page.live.beat()
            await asyncio.sleep(0)
        await points.aclose()  # type: ignore[attr-defined]
        return [str(first.event), str((await following).event)]

    assert asyncio.run(story()) == ["history", "point"]
