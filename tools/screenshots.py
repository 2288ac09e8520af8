"""Makes the README's pictures of the page: a new visitor's clicks in the demo's shop, and the operator's view.

    .venv/services/bin/python -m tools.screenshots [--page URL]

Writes docs/pictures/*.png of the demo's system, which it starts and fills unless *--page* names a running one.
"""

import argparse
import time
from contextlib import nullcontext
from pathlib import Path

from playwright.sync_api import Browser, Page

from benchmarks.page import filled
from local.browsing import SHELF, browsing, click, listen
from local.layout import ROOT

FOLDER = ROOT / "docs" / "pictures"
DESK, PHONE = (1280, 860), (390, 844)
_SEARCHES = ("lantern", "garden", "tea light")
_SETTLED_S = 0.7  # animations take .38 s
_MARKED_S = 90.0  # until the operator's charts have points, and the filling is more than a minute ago


def shoot(browser: Browser, address: str) -> list[Path]:
    """Take and write the pictures; return their files."""
    page = _opened(browser, address, DESK)
    for words in _SEARCHES:
        page.get_by_label("Search the shop").fill(words)
        page.keyboard.press("Enter")
        page.locator("#list-h", has_text=words).wait_for()
        click(page, page.locator(SHELF).first)
        time.sleep(_SETTLED_S)
    page.locator("#product-h").wait_for()
    user = page.evaluate("document.body.dataset.user")
    pictures = [_shot(page, "shop.png")]
    page.locator("#row .why").first.click()
    page.locator("#why-body table").wait_for()
    pictures.append(_shot(page, "why.png"))
    phone = _opened(browser, f"{address}?user={user}", PHONE)
    click(phone, phone.locator(SHELF).nth(2))
    time.sleep(_SETTLED_S)
    pictures.append(_shot(phone, "phone.png"))
    page.goto(f"{address}operator", wait_until="load")
    page.locator("#state", has_text="Every part answers").wait_for()
    time.sleep(_MARKED_S)
    pictures.append(_shot(page, "operator.png"))
    page.goto(f"{address}operator/users/{user}", wait_until="load")
    pictures.append(_shot(page, "user.png"))
    return pictures


def _opened(browser: Browser, address: str, size: tuple[int, int]) -> Page:
    page = browser.new_context(viewport={"width": size[0], "height": size[1]}).new_page()
    page.goto(address, wait_until="load")
    listen(page)
    return page


def _shot(page: Page, name: str) -> Path:
    path = FOLDER / name
    page.screenshot(path=path)
    return path


def main() -> None:
    """Take the pictures and print their sizes."""
    parser = argparse.ArgumentParser(prog="python -m tools.screenshots", description=main.__doc__)
    parser.add_argument("--page", default="", help="the address of a running page, such as http://127.0.0.1:8090/")
    address = parser.parse_args().page
    FOLDER.mkdir(parents=True, exist_ok=True)
    started = nullcontext(address) if address else filled({"NEARLINE_CANARY_EVERY_S": "1"})
    with started as page, browsing() as browser:
        pictures = shoot(browser, page)
    for picture in pictures:
        print(f"  {picture.relative_to(ROOT)}  {picture.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
