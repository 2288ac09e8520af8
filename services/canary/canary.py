"""The canary: a synthetic user that clicks on recommended items and measures when a recommendation has used the click.

Several users click in turn, since each partition of the log and its worker has its own users. Rounds overlap if one
takes too long, so that an outage is measured by as many clicks as normal operation.
"""

import asyncio
import random
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from itertools import count
from typing import Protocol

from nearline.errors import Unavailable
from nearline.ids import SYNTHETIC_USERS
from nearline.telemetry import FINE_BUCKETS_S, counter, gauge, get_logger, seconds
from services.canary.shop import RecommendedRow

USERS = 16
DEADLINE_S = 5.0  # a click not used by an answer by then is late
_ASK_MS = 1_000  # the longest wait of one request, and so of ending the canary
_AGAIN_S = 0.02
_MOST = 8  # concurrent rounds
_JITTER = 0.2  # share of the interval, so that clicks do not synchronise with anything

CLICK_TO_ANSWER = seconds(
    "canary_click_to_answer_seconds",
    "From just before the canary sends a click to the first answer that used it",
    buckets=FINE_BUCKETS_S,
)
_UP = gauge("canary_up", "1 if an answer used the canary's last click")


class ClickOutcome(StrEnum):
    """The outcome of a click."""

    USED = "used"
    LATE = "late"  # no answer used it within DEADLINE_S
    REFUSED = "refused"  # the click was refused, or there was no answer


_CLICKS = counter("canary_clicks_total", "Clicks of the canary by outcome", "outcome", known=ClickOutcome)
COUNTED = {outcome: _CLICKS.labels(outcome.value) for outcome in ClickOutcome}


class ShopCalls(Protocol):
    """The calls of the canary's users; each blocks."""

    def click(self, user_id: str, item_id: str, event_id: str) -> None: ...
    def look(self, user_id: str, after: str = "", wait_ms: int = 0) -> RecommendedRow: ...


class Canary:
    """Clicks in *shop*; ``click`` is one round, and any number of threads may call it."""

    def __init__(
        self, shop: ShopCalls, *, deadline_s: float = DEADLINE_S, pick: Callable[[list[str]], str] = random.choice
    ) -> None:
        self._shop = shop
        self._deadline_s = deadline_s
        self._pick = pick
        self._turns = count()
        self._items: list[str] = []
        self._ends = threading.Event()
        self._said = ""  # the last logged problem: an outage is one line, not one per second

    def end(self) -> None:
        """End running rounds at their next step; they are not counted."""
        self._ends.set()

    def click(self) -> ClickOutcome | None:
        """Click once, wait for its answer and count it; ``None`` without an item to click on, or if the canary ends."""
        user_id = f"{SYNTHETIC_USERS}{next(self._turns) % USERS}"
        try:
            items = self._items or self._shop.look(user_id).items
            if not items:
                self._say("nothing to click on: is there a catalogue?")
                return None
            outcome = self._timed(user_id, self._pick(items))
        except Unavailable as error:
            outcome = ClickOutcome.REFUSED
            self._say("clicks are refused", reason=str(error))
        if outcome is not None:
            if outcome is not ClickOutcome.REFUSED:
                self._say(f"clicks are {outcome}")
            COUNTED[outcome].inc()
            _UP.set(outcome is ClickOutcome.USED)
        return outcome

    def _say(self, what: str, **about: str) -> None:
        if what != self._said:
            self._said = what
            get_logger().info(what, **about)

    def _timed(self, user_id: str, item_id: str) -> ClickOutcome | None:
        event_id = f"canary-{uuid.uuid4().hex}"
        started = time.perf_counter()
        self._shop.click(user_id, item_id, event_id)
        while (left_s := started + self._deadline_s - time.perf_counter()) > 0:
            row = self._shop.look(user_id, event_id, max(1, min(_ASK_MS, int(left_s * 1000))))
            if row.has_used:
                CLICK_TO_ANSWER.observe(time.perf_counter() - started)
                self._items = row.items
                return ClickOutcome.USED
            if self._ends.wait(_AGAIN_S):  # the answer came at once: too many requests wait, or the store is down
                return None
        return ClickOutcome.LATE


async def click_for_ever(canary: Canary, every_s: float) -> None:
    """Run a round about every *every_s* until cancelled; at most ``_MOST`` at a time."""
    loop = asyncio.get_running_loop()
    under_way: set[asyncio.Future[ClickOutcome | None]] = set()
    pool = ThreadPoolExecutor(_MOST, thread_name_prefix="canary")
    try:
        while True:
            if len(under_way) < _MOST:
                one = loop.run_in_executor(pool, canary.click)
                under_way.add(one)
                one.add_done_callback(under_way.discard)
            await asyncio.sleep(every_s * random.uniform(1 - _JITTER, 1 + _JITTER))
    finally:
        canary.end()
        pool.shutdown(wait=True, cancel_futures=True)
