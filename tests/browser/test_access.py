"""Everybody can use the page: axe-core finds nothing to say, at the desk and on a phone."""

from typing import Any

import pytest
from playwright.sync_api import Page

from local.browser import AXE_FILE
from local.browsing import click, listen

TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
WIDTHS = {"desk": 1280, "phone": 390}


def violations(page: Page) -> list[str]:
    """What axe finds, as sentences."""
    page.evaluate(AXE_FILE.read_text())  # by the debugger's way: the page's policy stays as it is
    found = page.evaluate("tags => axe.run(document, { runOnly: { type: 'tag', values: tags } })", TAGS)
    return [
        f"{each['id']}: {each['help']}: {node['html'][:160]} {node['failureSummary']}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_shop_before_and_after_a_click(open_page: Any, width: int) -> None:
    page = open_page(width=width, reduced_motion="reduce")
    listen(page)
    assert violations(page) == []
    click(page, page.locator("#stage .card a").nth(2))
    page.get_by_text("The events that this answer used").click()
    page.locator("#used li").first.wait_for()
    assert violations(page) == []
    page.locator("#row .why").first.click()
    page.locator("#why-body .why-item").wait_for()
    assert violations(page) == []


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("path", ["operator", "operator/users", "operator/items", "operator/letters", "operator/rules"])
def test_the_operators_pages(open_page: Any, path: str, width: int) -> None:
    page = open_page(path, width=width, reduced_motion="reduce")
    assert violations(page) == []


def test_the_accessibility_check_reports_a_defect(open_page: Any) -> None:
    page = open_page()
    page.evaluate("document.documentElement.removeAttribute('lang')")
    assert [found.partition(":")[0] for found in violations(page)] == ["html-has-lang"]
