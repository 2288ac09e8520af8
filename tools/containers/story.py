"""What is tried on a running project, in order: each step raises ``Failed`` with what came and what was expected."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import httpx

from nearline_client import Client, Item, Unavailable, event
from tools.containers.commands import Failed, wait_for
from tools.containers.project import NAME, Project

PARTS = ("log", "ingest", "last_n", "user_tower", "item_tower", "retrieval", "web", "canary")
_TITLES = {
    "mug": "RED SPOTTY MUG, BLUE SPOTTY MUG, GREEN TEA CUP, WHITE CHINA MUG, MUG WITH A CAT, MUG WITH A DOG, BIG MUG",
    "lamp": "RED RETRO LAMP, BLUE DESK LAMP, PAPER LANTERN, NIGHT LIGHT, TALL FLOOR LAMP, STRING OF LIGHTS, OIL LAMP",
    "bag": "JUMBO BAG RED, LUNCH BAG BLUE, COTTON TOTE BAG, PAPER GIFT BAG, SMALL PURSE, SHOPPER WITH DOTS",
}
ITEMS: dict[str, Item] = {
    f"{category}-{number}": {"title": title, "category": category, "price": 2.5 + number}
    for category, titles in _TITLES.items()
    for number, title in enumerate(titles.split(", "))
}
# The ports on which a container listens for others; those for itself alone do not matter.
OPEN_PORTS: Mapping[str, frozenset[int]] = {
    "kafka": frozenset({9092, 19092, 29093, 9404}),
    "triton": frozenset({8001, 8002}),
    "jobmanager": frozenset({6123, 6124, 6130, 8081, 9249}),
    "taskmanager": frozenset({6121, 6122, 6130, 9249}),
    "item_tower": frozenset({9102}),
    "user_tower": frozenset({9101}),
    "retrieval": frozenset({8080}),
    "ingest": frozenset({8088}),
    "web": frozenset({8090}),
    "canary": frozenset({9104}),
}
_LISTENING = "0A"
_SOON_S = 60.0
_CLICK_S = 90.0  # after a kill: until the job has resumed from its checkpoint
# In the container of a replica, which publishes no port.
_GET = """
import sys, urllib.request
key = {"Authorization": "Bearer " + sys.argv[2]}
asked = urllib.request.Request("http://127.0.0.1:8080" + sys.argv[1], headers=key)
print(urllib.request.urlopen(asked).read().decode())
"""


class TrialShop:
    """The project as a shop uses it: by HTTP, with the key that the start made."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self.key = project.once("key", "cat", "/var/lib/nearline/key").strip()
        retrieval, ingest = (f"http://127.0.0.1:{project.ports[name]}" for name in ("RETRIEVAL_PORT", "INGEST_PORT"))
        self._client = Client(key=self.key, retrieval=retrieval, ingest=ingest)

    def list_items(self) -> None:
        """List twenty items, and wait until a new user's answer has all of them."""
        self._client.put_items({"item_id": item_id, **item} for item_id, item in ITEMS.items())
        self.wait_for_items()

    def wait_for_items(self) -> None:
        """Wait until a new user's answer has all items."""

        def problem() -> str | None:
            found = set(self._items("a-new-user", k=100))
            return None if found >= set(ITEMS) else f"{len(found)} of {len(ITEMS)} items"

        wait_for("all items in an answer", problem, _SOON_S)

    def click_changes_answer(self, user_id: str, item_id: str) -> float:
        """Click, and wait until an answer used that click and leaves its item out; the delay in seconds."""
        before = self._items(user_id)
        clicked = event(user_id, item_id, "click")
        wait_for("a click that ingest accepts", lambda: _unavailable(lambda: self._client.send_event(clicked)), _SOON_S)
        started = time.monotonic()

        def problem() -> str | None:
            newest, after = self.newest_of(user_id), self._items(user_id)
            if newest != clicked["event_id"]:
                return f"its newest event is {newest!r}, expected {clicked['event_id']!r}"
            return None if after != before and item_id not in after else f"the items are as before: {after}"

        wait_for(f"the click of {user_id} on {item_id} in an answer", problem, _CLICK_S, pause_s=0.05)
        return time.monotonic() - started

    def newest_of(self, user_id: str) -> str | None:
        """The newest event that the user's answer used; ``None`` without one, and while retrieval is away."""
        try:
            return self._client.recommend(user_id)["newest_event_id"]
        except Unavailable:
            return None

    def pages_are_shared(self, first: str, second: str) -> None:
        """The list that replica *first* begins is continued by replica *second*."""
        begun = self._page_of(first, "first")
        more = self._page_of(second, str(begun["next_page"]))
        repeated = set(_ids(begun)) & set(_ids(more))
        if not _ids(more) or repeated:
            raise Failed(f"{second} continued {first}'s list with {_ids(more)}, after {_ids(begun)}")

    def _page_of(self, replica: str, page: str) -> dict[str, Any]:
        answer = self._project.inside(replica, "python", "-c", _GET, f"/recommend/a-new-user?k=5&page={page}", self.key)
        return dict(json.loads(answer))

    def _items(self, user_id: str, k: int = 10) -> list[str]:
        try:
            return [item["item_id"] for item in self._client.recommend(user_id, k=k)["items"]]
        except Unavailable:
            return []


def status_knows_every_part(project: Project) -> None:
    """``nearline status``, from inside a container, finds every part ready."""

    def problem() -> str | None:
        try:
            said = project.once("key", "python", "-m", "nearline.cli", "status")
        except Failed as down:
            return str(down)
        ready = {words[1] for line in said.splitlines() if len(words := line.split()) > 3 and words[3] == "ready"}
        missing = set(PARTS) - ready
        return f"not ready: {', '.join(sorted(missing))}\n{said}" if missing else None

    wait_for("a status with every part ready", problem, _SOON_S)


def flink_refuses_other_sites(project: Project) -> None:
    """The published port of the job manager answers a program, and refuses what a page of another site sends."""
    address = f"http://127.0.0.1:{project.ports['FLINK_PORT']}/jobs/overview"
    for headers, expected in (({}, 200), ({"Origin": "https://elsewhere.example"}, 403), ({"Host": "elsewhere"}, 403)):
        status = httpx.get(address, headers=headers, timeout=10.0).status_code
        if status != expected:
            raise Failed(f"Flink answered {status} to a request with {headers}, expected {expected}")


def no_other_port_is_open(project: Project) -> None:
    """No container listens on a port that is not in ``OPEN_PORTS``, but for itself."""
    for service, meant in OPEN_PORTS.items():
        others = ports_for_others(project.inside(service, "cat", "/proc/net/tcp", "/proc/net/tcp6")) - meant
        if others:
            raise Failed(f"{service} listens on {sorted(others)}, expected {sorted(meant)} only")


def ports_for_others(table: str) -> set[int]:
    """The ports on which a process listens beyond the loopback addresses, in Linux' *table* of TCP sockets."""
    rows = [words for line in table.splitlines() if len(words := line.split()) > 3 and words[3] == _LISTENING]
    local = [words[1].split(":") for words in rows]
    return {int(port, 16) for address, port in local if not _is_loopback(address)}


def _is_loopback(address: str) -> bool:
    """Whether *address* is one of 127.0.0.0/8, also within IPv6, or ::1; in words of 32 bits, the last byte first."""
    return address == "0" * 24 + "01000000" or (address.endswith("7F") and address[:-8] in ("", "0" * 16 + "FFFF0000"))


def no_nameless_volumes(project: Project, before: Iterable[str]) -> None:
    """Every volume that came since *before* has a name of ours."""
    nameless = [name for name in project.volumes() if name not in set(before) and not name.startswith(NAME)]
    if nameless:
        raise Failed(f"volumes without a name of ours: {', '.join(nameless)}")


def _ids(answer: Mapping[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def _unavailable(call: Callable[[], object]) -> str | None:
    try:
        call()
    except Unavailable as away:
        return str(away)
    return None
