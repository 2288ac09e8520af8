"""The page in a real browser: a click changes the row before the eye, for everybody and on every screen."""

import re
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from local.browsing import SHELF, changes, click, listen, row, until
from local.system import System


def test_a_click_changes_the_row_and_shows_its_delay(open_page: Any) -> None:
    page = open_page()
    listen(page)
    before = row(page)
    chosen = page.locator(SHELF).nth(3)
    item_id = chosen.get_attribute("data-click")
    ms = click(page, chosen)
    assert item_id not in row(page), "what was clicked is seen, and leaves the row"
    assert row(page) != before
    expect(page.locator(".delay").first).to_have_text(f"{round(ms)} ms from your click to this row")
    expect(page.locator(".delay-system")).to_have_text(re.compile(r"\d+ ms until an answer used it"))
    expect(page.locator(".answer .about")).to_contain_text("Chosen from this shopper")
    expect(page.locator("#product-h")).to_be_visible()
    expect(page).to_have_url(re.compile(f"/product/{item_id}"))


def test_the_browsers_delay_reaches_the_operators_page(open_page: Any, system: System) -> None:
    page = open_page()
    listen(page)
    ms = click(page, page.locator(SHELF).first)
    user = page.evaluate("document.body.dataset.user")

    def told() -> Any:
        page.goto(f"{system.page}operator")
        cells = page.locator("tr", has_text=user).first.locator("td")
        return cells.count() == 6 and cells.last.inner_text() != "-" and cells.last.inner_text()

    assert re.fullmatch(r"[\d.]+ m?s", until(told, "the click on the operator's page"))
    assert ms > 0


def test_clicks_made_elsewhere_move_the_row_too(open_page: Any, system: System) -> None:
    page = open_page()
    before = row(page)
    user = page.evaluate("document.body.dataset.user")
    made = {"event_id": "from-elsewhere", "user_id": user, "item_id": "li-2", "type": "click"}
    headers = {"Authorization": f"Bearer {system.key}"}
    assert httpx.post(f"{system.ingest}/events", json=made, headers=headers).status_code == 200
    newest = "document.querySelector('.answer').dataset.newest"
    until(lambda: page.evaluate(newest) == "from-elsewhere", "the row by server-sent event")
    assert row(page) != before
    assert "li-2" not in row(page)


def test_hurried_clicks_all_arrive_and_the_row_ends_with_the_last(open_page: Any, system: System) -> None:
    page = open_page()
    listen(page)
    user = page.evaluate("document.body.dataset.user")
    items = [link.get_attribute("data-click") for link in page.locator(SHELF).all()[:5]]
    page.evaluate("ids => ids.forEach(id => document.querySelector(`#stage [data-click='${id}']`).click())", items)
    until(lambda: changes(page), "the changed row")
    until(lambda: not set(items) & set(row(page)), "a row without all that was clicked")
    headers = {"Authorization": f"Bearer {system.key}"}
    known = httpx.get(f"{system.retrieval}/users/{user}", headers=headers).json()
    assert known["events"] == 5


def test_a_click_that_another_overtook_is_measured_too(open_page: Any) -> None:
    page = open_page()
    page.route("**/stream?*", lambda route: None)  # never answered: the clicks' own answers bring the row
    page.reload()
    listen(page)
    held: list[Any] = []

    def second_before_first(route: Any) -> None:
        held.append(route)
        if len(held) == 2:
            answers = [each.fetch() for each in reversed(held)]
            for each, answer in zip(held, reversed(answers), strict=True):
                each.fulfill(response=answer)

    page.route("**/click", second_before_first)
    items = [link.get_attribute("data-click") for link in page.locator(SHELF).all()[:2]]
    page.evaluate("ids => ids.forEach(id => document.querySelector(`#stage [data-click='${id}']`).click())", items)
    until(lambda: changes(page), "the change by the second click, in a row that the first is the newest of")
    assert not set(items) & set(row(page))


def test_as_of_yesterday_is_the_row_without_todays_clicks(open_page: Any) -> None:
    page, stranger = open_page(), open_page()
    listen(page)
    click(page, page.locator(SHELF).nth(2))
    today = row(page)
    now, yesterday = (page.get_by_role("button", name=name) for name in ("Now", "As of yesterday"))

    def is_a_strangers() -> bool:
        """Both are asked in one moment: what is popular moves with everybody's clicks."""
        now.click()
        expect(page.locator(".about")).not_to_contain_text("As of yesterday")
        yesterday.click()
        expect(page.locator(".about")).to_contain_text("As of yesterday")
        stranger.reload()
        return row(page) == row(stranger)

    until(is_a_strangers, "the row of somebody who did nothing today")
    assert row(page) != today
    expect(page.locator(".about")).to_contain_text("1 event")
    expect(yesterday).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Now").click()
    until(lambda: row(page) == today, "the row of today")


def test_the_events_that_the_answer_used_and_why_an_item_is_there(open_page: Any) -> None:
    page = open_page()
    listen(page)
    title = page.locator(SHELF).nth(1).locator(".title").inner_text()
    click(page, page.locator(SHELF).nth(1))
    page.get_by_text("The events that this answer used").click()
    expect(page.locator("#used li").first).to_contain_text(title)
    page.locator("#row .why").first.click()
    expect(page.locator("#why")).to_be_visible()
    expect(page.locator("#why-body")).to_contain_text("At place 1")
    expect(page.locator("#why-body table")).to_contain_text(title)
    page.keyboard.press("Escape")
    expect(page.locator("#why")).to_be_hidden()


def test_search_and_categories_need_no_new_page(open_page: Any) -> None:
    page = open_page()
    page.evaluate("window.isTheSame = true")
    page.get_by_label("Search the shop").fill("red mug")
    page.keyboard.press("Enter")
    expect(page.locator("#list-h")).to_contain_text("“red mug”")
    expect(page.locator(SHELF).first).to_contain_text("Red spotty mug")
    page.get_by_role("link", name="Garden").click()
    expect(page.locator("#list-h")).to_contain_text("Garden")
    assert page.evaluate("window.isTheSame")
    page.go_back()
    expect(page.locator("#list-h")).to_contain_text("“red mug”")


def test_without_scripts_the_shop_can_be_walked(open_page: Any) -> None:
    page = open_page(java_script_enabled=False)
    page.locator(SHELF).first.click()
    expect(page.locator("#product-h")).to_be_visible()
    expect(page.locator("#row .card")).to_have_count(12)


def test_the_keyboard_does_all_of_it(open_page: Any) -> None:
    page = open_page()
    listen(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    focused = "document.activeElement.dataset.click"
    item_id = until(lambda: page.evaluate(focused), "a product that has the focus")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "one sees where the keyboard is"
    page.keyboard.press("Enter")
    until(lambda: changes(page), "the changed row")
    assert item_id not in row(page)
    expect(page.locator("#product-h")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.type") == "add_to_cart"
    page.keyboard.press("Enter")
    until(lambda: len(changes(page)) == 2, "the row after the basket")


def test_a_phone_shows_the_row_and_nothing_is_cut_off(open_page: Any, system: System) -> None:
    page: Page = open_page(width=390, height=844, has_touch=True, is_mobile=True)
    listen(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    click(page, page.locator(SHELF).nth(5))
    shown = page.locator("#row .card").first.bounding_box()
    assert shown is not None
    assert 0 <= shown["y"] < 500, "the row stays in sight when one clicks far below"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for path in ("operator", "operator/users", "operator/items", "operator/letters", "operator/rules"):
        page.goto(system.page + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_reduced_motion_is_respected(open_page: Any) -> None:
    page = open_page(reduced_motion="reduce")
    listen(page)
    page.evaluate("() => { window.moved = 0; Element.prototype.animate = () => { window.moved += 1; }; }")
    click(page, page.locator(SHELF).nth(3))
    assert page.evaluate("window.moved") == 0
    assert page.evaluate("document.getAnimations().length") == 0


@pytest.mark.parametrize("path", ["operator", "operator/users", "operator/items", "operator/letters", "operator/rules"])
def test_every_page_of_the_operator_opens(open_page: Any, path: str) -> None:
    expect(open_page(path).locator("main h1")).to_be_visible()


def test_the_operator_sees_live_figures_and_charts(open_page: Any) -> None:
    page = open_page("operator")
    expect(page.locator("#state")).to_have_text(re.compile("Every part answers"), timeout=20_000)
    expect(page.locator(".chart canvas")).to_have_count(4)
    until(lambda: page.locator("[data-figure=index_items]").inner_text() == "32", "the number of items")


def test_a_users_history_stands_beside_the_answer(open_page: Any, system: System) -> None:
    page = open_page()
    listen(page)
    title = page.locator(SHELF).first.locator(".title").inner_text()
    click(page, page.locator(SHELF).first)
    user = page.evaluate("document.body.dataset.user")
    page.goto(f"{system.page}operator/users/{user}")
    expect(page.locator("section[aria-labelledby=history-h]")).to_contain_text(title)
    expect(page.locator("section[aria-labelledby=answer-h] li")).not_to_have_count(0)
    page.goto(f"{system.page}operator/users")
    expect(page.get_by_role("link", name=user)).to_be_visible()
