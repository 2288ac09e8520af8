"""The shop's page: what it asks, what it shows, and what a click changes."""

import asyncio
import html
import re
from dataclasses import replace

import pytest

from nearline.adapters.limits import AddressLimits
from nearline.adapters.tokens import UserTokens
from nearline.errors import BadInput
from nearline.guard import Guard, callers_in, unruled
from nearline.key_ring import KeyRing
from nearline.keys import encode_key, make_key
from nearline.log import Record
from nearline.sequences import encode_sequence
from nearline.user_updates import UserUpdate, encode_user_updates
from services.web.api import RULES
from services.web.histories import SequenceCache, session_events, until
from services.web.templating import ago, milliseconds, name_of
from tests.support.web_shop import ADDRESS, HOUR_MS, ITEMS, NOW_MS, USER, Page, history

TWO_DAYS = history(("e-0", "1", 30), ("e-1", "2", 26), ("e-2", "3", 2))


def titles(page: str) -> list[str]:
    return [html.unescape(title) for title in re.findall(r'<span class="title">(.*?)</span>', page)]


# --- who comes ---


def test_a_request_without_a_user_gets_a_new_visitor_id() -> None:
    page = Page()
    first, second = (page.get("/").headers["location"] for _ in range(2))
    assert re.fullmatch(r"/\?user=visitor-[0-9a-f]{10}", first)
    assert first != second


def test_the_page_shows_the_row_the_shelves_and_the_users_who_are_known() -> None:
    page = Page().get(f"/?user={USER}")
    assert page.status_code == 200
    assert "Red spotty mug" in titles(page.text)
    assert "Shopper 17850" in page.text
    assert "likes lighting and storage" in page.text
    assert "Shopper nobody" not in page.text


def test_an_invalid_id_is_refused_with_the_rule() -> None:
    answer = Page().get("/?user=" + "x" * 129)
    assert answer.status_code == 422
    assert "1-128 UTF-8 bytes" in answer.text


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (f"/?usr={USER}", "did you mean 'user'?"),
        (f"/?user_id={USER}", "did you mean 'user'?"),
        (f"/search?user={USER}&query=mug", "did you mean 'q'?"),
        (f"/row?user={USER}&as_off=yesterday", "did you mean 'as_of'?"),
        (f"/row?user={USER}&as_of=tuesday", "as_of must be now or yesterday, came 'tuesday'"),
        ("/row", "the address names no user"),
        ("/operator/items?query=mug", "did you mean 'q'?"),
    ],
)
def test_a_misspelt_parameter_is_refused_with_the_one_that_was_meant(target: str, problem: str) -> None:
    answer = Page().get(target)
    assert answer.status_code == 422
    assert problem in html.unescape(answer.text)


def test_a_parameter_of_another_tool_is_let_through() -> None:
    assert Page().get(f"/?user={USER}&utm_source=letter&fbclid=1").status_code == 200


def test_catalogue_text_is_escaped() -> None:
    page = Page().get(f"/?user={USER}").text
    assert "<b>bold</b>" not in page
    assert '<b>bold</b> & "quoted"' in [title for title in titles(page)]


def test_an_odd_id_finds_its_page() -> None:
    page = Page()
    found = re.search(r'href="(/product/a%2Fb%20c[^"]*)"', page.get(f"/?user={USER}").text)
    assert found is not None
    answer = page.get(html.unescape(found[1]))
    assert answer.status_code == 200
    assert "Jar with an odd id" in answer.text


def test_an_unknown_product_page_says_so() -> None:
    assert Page().get(f"/product/nothing?user={USER}").status_code == 404


def test_a_page_that_is_there_already_gets_the_stage_alone() -> None:
    page = Page()
    whole, part = (page.get(f"/search?user={USER}&q=mug", headers=more).text for more in ({}, {"HX-Request": "true"}))
    assert "<!doctype html>" in whole
    assert "<!doctype html>" not in part
    assert "“mug”" in part


def test_a_search_for_nothing_asks_nobody() -> None:
    page = Page()
    assert "Type what you are looking for" in page.get(f"/search?user={USER}&q=%20").text
    assert not any(path == "/search" for _, path, _, _ in page.api.asked)


def test_a_category_shows_what_trends_in_it_and_then_the_rest() -> None:
    shown = titles(Page().get(f"/category/lighting?user={USER}", headers={"HX-Request": "true"}).text)
    assert shown == ["Blue lamp"]


def test_the_page_is_there_while_the_store_is_away() -> None:
    """Which of the offered users are known is in the store; row and shelves are popular items then."""
    page = Page()
    page.api.is_store_away = True
    answer = page.get(f"/?user={USER}")
    assert answer.status_code == 200
    assert "Red spotty mug" in titles(answer.text)


def test_the_page_says_when_retrieval_is_down() -> None:
    page = Page()
    page.api.is_away = True
    answer = page.get(f"/?user={USER}")
    assert answer.status_code == 503
    assert "is down" in answer.text


# --- a click ---


def test_a_click_is_sent_and_answered_with_the_row_that_used_it() -> None:
    page = Page()
    answer = page.click("2", "web-1", request="r-0")
    assert page.api.events == [
        {"event_id": "web-1", "user_id": USER, "item_id": "2", "type": "click", "request_id": "r-0"}
    ]
    assert 'data-newest="web-1"' in answer.text
    assert "Blue lamp" not in titles(answer.text)
    assert re.search(r"log;dur=[\d.]+;.*, used;dur=[\d.]+;", answer.headers["server-timing"])


def test_the_answer_after_a_click_waits_for_the_click() -> None:
    page = Page()
    page.click("2", "web-1")
    asked = [(method, path) for method, path, _, _ in page.api.asked]
    assert asked == [("POST", "/events"), ("GET", f"/recommend/{USER}")]
    assert page.api.asked[1][2] == {"k": 12, "after": "web-1", "wait_ms": 2000}


def test_a_click_that_no_answer_used_in_time_tells_no_delay() -> None:
    page = Page()
    page.api.is_slow = True
    answer = page.click("2", "web-1")
    assert answer.status_code == 200
    assert "used;dur" not in answer.headers["server-timing"]
    assert page.clicks.newest[0].used_ms is None


@pytest.mark.parametrize(
    ("told", "status", "words"),
    [
        ({"type": "stare"}, 422, "type must be one of view, click"),
        ({"item_id": "refused"}, 422, "no such"),
        ({"item_id": "x" * 129}, 422, "1-128"),
        ({"request": "x" * 5000}, 422, "at most 4096 bytes"),
    ],
)
def test_an_invalid_click_is_refused_with_the_reason(told: dict[str, str], status: int, words: str) -> None:
    answer = Page().click(**told)
    assert answer.status_code == status
    assert words in answer.text


def test_the_browsers_measurement_of_a_click_is_taken_once_and_only_if_it_can_be() -> None:
    page = Page()
    page.click(event_id="web-1")
    for told, status in (({"event": "web-1", "ms": 0}, 204), ({"event": "web-9", "ms": 9}, 204), ({"ms": 9}, 422)):
        assert page.ask("POST", "/measured", json=told).status_code == status
        assert page.clicks.newest[0].shown_ms is None
    page.ask("POST", "/measured", json={"event": "web-1", "ms": 47.5})
    page.ask("POST", "/measured", json={"event": "web-1", "ms": 99})
    assert page.clicks.newest[0].shown_ms == 47.5


# --- what was used, why, and yesterday ---


def test_the_events_are_shown_newest_first_and_those_not_used_yet_are_marked() -> None:
    page = Page(u17850=TWO_DAYS).get(f"/used?user={USER}&newest=e-1").text
    assert [*re.findall(r"</span> (.*?)\n", page)] == ["Pink heart bunting", "Blue lamp", "Red spotty mug"]
    assert page.count('class="unused"') == 1
    assert "not used yet" in page
    assert "2 h ago" in page


def test_a_visitor_without_events_sees_an_empty_history() -> None:
    assert "nothing is known about this shopper yet" in Page().get("/used?user=visitor-1&newest=").text


def test_as_of_yesterday_the_row_is_made_of_the_older_events_alone() -> None:
    page = Page(u17850=TWO_DAYS)
    row = page.get(f"/row?user={USER}&as_of=yesterday").text
    body = next(each[-1] for each in page.api.asked if each[1] == "/recommend")
    assert [event["item_id"] for event in body["events"]] == ["1", "2"]
    assert "without the 1 event of the last day" in row
    assert "Pink heart bunting" in titles(row)
    assert 'data-mode="yesterday"' in row


def test_an_item_tells_which_events_moved_it() -> None:
    page = Page(u17850=TWO_DAYS)
    told = page.get(f"/why?user={USER}&item=1").text
    assert "At place <strong>2</strong>" in told
    assert "+0.0123" in told
    sent = next(body for _, path, _, body in page.api.asked if path == "/why")["sequence"]
    assert sent["event_ids"] == ["e-0", "e-1", "e-2"]


def test_without_events_the_explanation_says_why_it_is_missing() -> None:
    assert "no events were given" in Page().get(f"/why?user={USER}&item=1").text


# --- histories ---


def test_a_sequence_that_arrives_replaces_the_one_being_looked_up() -> None:
    async def story() -> None:
        histories = SequenceCache(found)
        newer = encode_sequence(history(("e-9", "2", 0)))

        async def look_while_it_comes() -> None:
            await histories.of(USER)

        looking = asyncio.create_task(look_while_it_comes())
        await asyncio.sleep(0)
        histories.take_in(Record("user-sequences", 0, 5, NOW_MS, USER.encode(), newer))
        release.set()
        await looking
        known = await histories.of(USER)
        assert known is not None
        assert known.event_ids == ["e-9"]

    release = asyncio.Event()

    async def found(user_id: str) -> bytes | None:
        await release.wait()
        return encode_sequence(TWO_DAYS)

    asyncio.run(story())


def test_only_so_many_users_are_kept_and_an_erased_one_has_no_events() -> None:
    async def nothing(user_id: str) -> bytes | None:
        return None

    async def story() -> None:
        histories = SequenceCache(nothing, most=2)
        for user_id in ("a", "b", "c"):
            raw = encode_sequence(replace(TWO_DAYS, user_id=user_id))
            histories.take_in(Record("user-sequences", 0, 1, NOW_MS, user_id.encode(), raw))
        assert len(histories) == 2
        assert await histories.of("a") is None
        assert await histories.of("c") is not None
        gone = encode_sequence(replace(TWO_DAYS, erased=True))
        histories.take_in(Record("user-sequences", 0, 2, NOW_MS, b"c", gone))
        assert await histories.of("c") is None

    asyncio.run(story())


def test_the_end_is_not_among_the_older_events() -> None:
    assert until(TWO_DAYS, NOW_MS - 26 * HOUR_MS).event_ids == ["e-0"]
    assert until(TWO_DAYS, NOW_MS - 26 * HOUR_MS + 1).event_ids == ["e-0", "e-1"]
    assert session_events(until(TWO_DAYS, 0)) == []


def test_context_goes_with_the_events_that_brought_it() -> None:
    told = replace(TWO_DAYS, contexts=[None, {"country": "GB"}, None])
    assert [event.get("context") for event in session_events(told)] == [None, {"country": "GB"}, None]


# --- the stream ---


def test_a_change_of_the_user_brings_the_row_and_another_users_does_not() -> None:
    async def story() -> list[str]:
        page = Page()
        changes = page.shop_routes._changes(USER)
        events = [(await anext(changes)).event]
        for user_id in ("other", USER):
            update = encode_user_updates({user_id: UserUpdate(8, 8, 8, NOW_MS)})
            page.watchers.hear(Record("user-updates.1", 0, 1, NOW_MS, None, update))
        row = await anext(changes)
        events.append(row.event)
        assert 'class="answer"' in str(row.data)
        await changes.aclose()  # type: ignore[attr-defined]
        assert page.watchers.recent == [(USER, NOW_MS), ("other", NOW_MS)]
        return [str(event) for event in events]

    assert asyncio.run(story()) == ["pulse", "row"]


# --- other sites, and headers ---


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": ADDRESS},
    ],
)
def test_another_site_cannot_click(headers: dict[str, str]) -> None:
    page = Page()
    for path in ("/click", "/measured"):
        answer = page.ask("POST", path, data={"user": USER, "item": "2", "event": "e"}, headers=headers)
        assert answer.status_code == 403
        assert "only pages of this address" in answer.text
    assert page.api.events == []


def test_a_page_of_ours_can_click() -> None:
    page = Page()
    headers = {"Origin": ADDRESS, "Sec-Fetch-Site": "same-origin"}
    assert (
        page.ask("POST", "/click", data={"user": USER, "item": "2", "event": "e"}, headers=headers).status_code == 200
    )


@pytest.mark.parametrize(
    ("host", "status"),
    [("evil.example", 403), ("evil.example:8090", 403), ("localhost:8090", 200), ("[::1]:8090", 200), ("", 403),
     ("127.0.0.1", 200), ("shop.example", 200), ("[", 403)],
)  # fmt: skip
def test_a_foreign_name_for_this_machine_opens_nothing(host: str, status: int) -> None:
    answer = Page().get(f"/?user={USER}", headers={"Host": host})
    assert answer.status_code == status
    assert Page().get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("target", [f"/?user={USER}", "/operator", "/static/page.css", "/nowhere"])
def test_every_answer_forbids_what_is_not_served_here(target: str) -> None:
    headers = Page().get(target).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_pages_are_not_cached_and_assets_are_immutable() -> None:
    page = Page()
    whole = page.get(f"/?user={USER}")
    assert whole.headers["cache-control"] == "no-store"
    found = re.search(r'href="(/static/page\.css[^"]*)"', whole.text)
    assert found is not None
    assert "immutable" in page.get(found[1]).headers["cache-control"]
    assert page.get("/static/page.css").headers["cache-control"] == "no-cache"
    assert page.get("/static/../app.py").status_code == 404


def test_no_key_is_in_any_page() -> None:
    page = Page(u17850=TWO_DAYS)
    for target in (f"/?user={USER}", "/operator", f"/operator/users/{USER}", f"/why?user={USER}&item=1"):
        assert not re.search(r"nl_[0-9a-z]+|bearer|authorization", page.get(target).text, re.IGNORECASE)


def test_every_route_has_a_rule_and_every_rule_a_route() -> None:
    page = Page()
    routes = [*page.shop_routes.routes(), *page.operator_routes.routes()]
    served = [(method, route.path) for route in routes for method in sorted(set(route.methods or ()) - {"HEAD"})]
    served += [("GET", path) for path in ("/static/{path:path}", "/healthz", "/readyz", "/metrics")]
    assert unruled(served, RULES) == []
    assert unruled([*served, ("GET", "/new")], RULES) == ["GET /new has no rule"]
    assert {rule.scope for rule in RULES if rule.template.startswith("/operator")} == {"admin"}


@pytest.mark.parametrize(
    ("method", "target", "scopes"),
    [
        ("GET", f"/row?user={USER}", {"read"}),
        ("POST", "/click", {"events", "read"}),
        ("POST", "/measured", {"events"}),
        ("GET", f"/used?user={USER}", {"admin"}),
        ("GET", f"/why?user={USER}&item=1", {"admin"}),
    ],
)
def test_no_answer_says_more_than_its_callers_key_may_read(method: str, target: str, scopes: set[str]) -> None:
    page, ring = Page(u17850=TWO_DAYS), KeyRing()
    page.app = Guard(page.app, RULES, ring, tokens=UserTokens(), spend=AddressLimits().spend, is_near=callers_in(""))  # type: ignore[assignment]
    for given in ({"events"}, {"read"}, {"admin"}, {"events", "read"}):
        text, key = make_key("k", given, now_ms=1)
        ring.apply(Record("api-keys", 0, 0, 0, key.id.encode(), encode_key(key)))
        answer = page.ask(method, target, headers={"Authorization": f"Bearer {text}"})
        assert (answer.status_code == 403) == (not scopes <= given), given


# --- words ---


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (-5, "0 s"),
        (1_999, "1 s"),
        (60_000, "1 min"),
        (3_599_999, "59 min"),
        (90_000_000, "25 h"),
        (172_800_001, "2 days"),
    ],
)
def test_durations_are_told_in_one_unit(ms: int, words: str) -> None:
    assert ago(ms) == words


@pytest.mark.parametrize(("seconds", "words"), [(None, "-"), (0.00062, "0.62 ms"), (0.0184, "18 ms"), (1.25, "1.2 s")])
def test_delays_are_told_as_people_read_them(seconds: float | None, words: str) -> None:
    assert milliseconds(seconds) == words


def test_a_title_that_shouts_speaks_as_others_do() -> None:
    assert name_of("RED LAMP") == "Red lamp"
    assert name_of("iPhone 9") == "iPhone 9"


def test_a_missing_item_keeps_its_id() -> None:
    page = Page()
    found = asyncio.run(page.shop.items(["gone", "1"]))
    assert found["gone"]["title"] == "gone"
    assert found["1"]["title"] == ITEMS[0]["title"]
    with pytest.raises(BadInput):
        asyncio.run(page.shop.item("never"))
