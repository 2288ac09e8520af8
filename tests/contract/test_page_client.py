"""The page's client against the real door behind the guard: in node, and in Chromium where there is one."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.routing import Mount, Route

from local.layout import ROOT
from local.processes import wait_until
from nearline.adapters.http_front import _for_pages
from nearline.adapters.limits import AddressLimits
from nearline.adapters.tokens import UserTokens
from nearline.guard import Guard
from nearline.key_ring import KeyRing
from nearline.keys import encode_key, make_key
from nearline.log import Record
from services.ingest.api import RULES
from tests.support.ingest_door import Door
from tests.support.served import served

MODULE = ROOT / "clients" / "js" / "nearline.js"
NODE = shutil.which("node")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DEADLINE_S = 60.0


class Shop:
    """A door that only a publishable key opens, which pages of other origins may call, and its log at ``/log``."""

    def __init__(self) -> None:
        self.door = Door()
        self.key, kept = make_key("page", ["events"], now_ms=1, per_minute=0)
        ring = KeyRing()
        ring.apply(Record("api-keys", 0, 0, 0, kept.id.encode(), encode_key(kept)))
        guard = Guard(
            self.door.app, RULES, ring, tokens=UserTokens(), spend=AddressLimits().spend, is_near=lambda scope: False
        )

        async def log(_: Any) -> JSONResponse:
            return JSONResponse(self.events)

        self.app = Starlette(routes=[Route("/log", log), Mount("/", _for_pages(guard, "*"))])

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(value or b"{}") for _, value in self.door.clicks]


@pytest.fixture
def shop() -> Iterator[tuple[Shop, str]]:
    shop = Shop()
    with served(shop.app) as url:
        yield shop, url


@pytest.mark.skipif(NODE is None, reason="node is not installed: apt install nodejs")
def test_the_page_client_in_node(shop: tuple[Shop, str]) -> None:
    """The story is told in tests/js/page.mjs, one test for each promise."""
    assert NODE is not None
    told = {**os.environ, "DOOR": shop[1], "KEY": shop[0].key, "MODULE": MODULE.as_uri()}
    command = [NODE, "--test", "--test-reporter=tap", str(ROOT / "tests" / "js" / "page.mjs")]
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    assert "# fail 0" in done.stdout
    assert len(shop[0].events) > 100


PAGE = """<!doctype html><title>shop</title><script type="module">
import {{ Nearline }} from "/nearline.js";
const nearline = new Nearline({{ events: "{door}", key: "{key}", lingerMs: 60000 }});
nearline.track("click", "before consent");
nearline.consent(true);
nearline.track("view", "lamp");
await nearline.flush();
nearline.track("click", "lamp");
location.href = "/left";  // the page is left with an event that waits
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt install chromium")
def test_a_page_in_chromium_sends_what_happens_and_what_waits_when_it_is_left(
    shop: tuple[Shop, str], tmp_path: Path
) -> None:
    assert CHROMIUM is not None
    there, door = shop
    left: list[bool] = []

    async def page(_: Any) -> HTMLResponse:
        return HTMLResponse(PAGE.format(door=door, key=there.key))

    async def module(_: Any) -> FileResponse:
        return FileResponse(MODULE, media_type="text/javascript")

    async def other(_: Any) -> HTMLResponse:
        left.append(True)
        return HTMLResponse("another page")

    site = Starlette(routes=[Route("/", page), Route("/nearline.js", module), Route("/left", other)])
    with served(site) as origin:
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        command += ["--disable-dev-shm-usage", f"--user-data-dir={tmp_path}", "--remote-debugging-port=0", origin]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert wait_until(lambda: len(there.events) == 2, DEADLINE_S), (there.events, left)
        finally:
            browser.terminate()
            browser.wait(20)
    assert [(event["type"], event["item_id"]) for event in there.events] == [("view", "lamp"), ("click", "lamp")]
    assert len({event["user_id"] for event in there.events}) == 1
    assert left
