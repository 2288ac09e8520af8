"""Measures the page by a browser's own clock: from a click to the changed row on screen, and to the first paint.

    .venv/services/bin/python -m benchmarks.page [--clicks 60] [--loads 10] [--page URL]

Chromium shows the demo's system, which is started and filled for it unless *--page* names a running one. Each visitor
is new and clicks five products with pauses, like a person; the machine is otherwise idle. The clock starts with the
click's own timestamp and stops when the frame with the changed row is drawn.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from benchmarks.about import about, load_average
from benchmarks.probe import percentiles_ms
from local import demo
from local.browsing import SHELF, browsing, changes, click, listen
from local.layout import BUILD
from local.system import embedded_system
from nearline.replay import load_recording
from nearline.settings import load_settings

SEED = 7
_CLICKS_EACH = 5
_PAUSE_S = (0.2, 0.5)
_PAINT = "performance.getEntriesByType('paint').find(told => told.name === 'first-contentful-paint')?.startTime ?? null"
OUT = BUILD / "bench-page.json"


def measure(browser: Browser, address: str, *, clicks: int, loads: int, seed: int = SEED) -> dict[str, Any]:
    """Percentiles in milliseconds: of *clicks* clicks, and of *loads* first paints with nothing in the cache."""
    luck = random.Random(seed)
    shown: list[float] = []
    used: list[float] = []
    while len(shown) < clicks:
        _visit(browser, address, luck, shown, used)
    paints = [_first_paint(browser, address) for _ in range(loads)]
    return {
        "click_to_row_ms": percentiles_ms(shown),
        "click_to_answer_ms": percentiles_ms(used),
        "first_paint_ms": percentiles_ms(paints),
        "clicks": len(shown),
        "loads": loads,
    }


def _visit(browser: Browser, address: str, luck: random.Random, shown: list[float], used: list[float]) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    page.goto(address, wait_until="load")
    listen(page)
    for _ in range(_CLICKS_EACH):
        time.sleep(luck.uniform(*_PAUSE_S))
        places = page.locator(SHELF)
        shown.append(click(page, places.nth(luck.randrange(min(12, places.count())))) / 1000)
    time.sleep(_PAUSE_S[1])  # the stream may bring the row before the click's own answer, which has the delay
    used += [float(told["used"]) / 1000 for told in changes(page) if told.get("used")]
    context.close()


def _first_paint(browser: Browser, address: str) -> float:
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    page.goto(address, wait_until="load")
    painted = None
    while painted is None:
        painted = page.evaluate(_PAINT)
    context.close()
    return float(painted) / 1000


@contextmanager
def filled(settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of the page before a system of its own, with *settings*, that holds the demo's shop.

    To be entered before a browser is: Playwright's loop allows no other.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded_system(Path(folder) / "data", settings=settings, say=print) as system,
    ):
        demo.fill(load_settings(system.settings), load_recording(demo.RECORDING))
        yield system.page


def table(found: dict[str, Any]) -> str:
    """The figures for people."""
    names = {
        "click_to_row_ms": f"click → changed row, the browser's clock ({found['clicks']} clicks)",
        "click_to_answer_ms": "of that: the page's server, click → answer that used it",
        "first_paint_ms": f"first paint, nothing in the cache ({found['loads']} loads)",
    }
    lines = [f"{'':<64} {'p50':>8} {'p99':>8} {'max':>8}"]
    for name, words in names.items():
        lines.append(f"{words:<64} " + " ".join(f"{found[name][each]:>8.1f}" for each in ("p50", "p99", "max")))
    return "\n".join(lines)


def main() -> None:
    """Measure, print a table, and keep it in build/."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=main.__doc__)
    parser.add_argument("--clicks", type=int, default=60)
    parser.add_argument("--loads", type=int, default=10)
    parser.add_argument("--page", default="", help="the address of a running page, such as http://127.0.0.1:8090/")
    asked = parser.parse_args()
    with filled() if not asked.page else nullcontext(asked.page) as address, browsing() as browser:
        before = load_average()
        found = measure(browser, address, clicks=asked.clicks, loads=asked.loads)
    print(table(found))
    kept = found | about(SEED, command="make bench-page") | {"load_before": before, "load_after": load_average()}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
