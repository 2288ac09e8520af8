"""A probe: sends a record, requests answers until one shows it, and measures the time."""

import asyncio
import http.client
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

import numpy as np
import orjson

from nearline.adapters.kafka.producer import Producer
from nearline.errors import Unavailable
from nearline.events import Event, encode_event
from nearline.log import Message
from nearline.topics import CLICKS

# Between two questions; an answer may be this much older than it seems. Asking costs the cores that are measured.
ASK_EVERY_S = 0.003
_DEADLINE_S = 60.0
_ANSWER_S = 10.0  # an answer may wait for a click before it comes
_MARKERS = 64  # enough that every partition of clicks gets some

Answer = dict[str, Any]


class Probe:
    """A producer and a keep-alive connection to retrieval; used by one thread, closed by ``with``."""

    def __init__(self, kafka: str, retrieval: str, key: str = "") -> None:
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._kafka = kafka
        self._address = urlsplit(retrieval).netloc
        self._sent = 0

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        self._producer = Producer(self._kafka)
        self._runner.run(self._producer.open())
        self._http = http.client.HTTPConnection(self._address, timeout=_ANSWER_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()
        self._runner.run(self._producer.close())
        self._runner.close()

    def send(self, topic: str, messages: Sequence[Message]) -> None:
        """Append *messages*; returns when they are in the log."""
        self._runner.run(self._producer.send_all(topic, messages))

    def ask(self, user_id: str, *, k: int = 10, exclude_seen: str = "all", **more: str | int) -> Answer:
        """The answer of this moment, with *more* parameters; ``Unavailable`` if it is not a 200."""
        path = f"/recommend/{quote(user_id)}?{urlencode({'k': k, 'exclude_seen': exclude_seen, **more})}"
        try:
            status, body = self._get(path)
        except (http.client.RemoteDisconnected, ConnectionError):
            self._http.close()  # retrieval closes a connection idle for five seconds
            status, body = self._get(path)
        if status != 200:
            raise Unavailable(f"GET {path} answered {status}: {body[:200]!r}")
        answer: Answer = orjson.loads(body)
        return answer

    def _get(self, path: str) -> tuple[int, bytes]:
        self._http.request("GET", path, headers=self._headers)
        response = self._http.getresponse()
        return response.status, response.read()

    def click(self, user_id: str, item_id: str) -> Event:
        """A click of this moment, not sent yet."""
        self._sent += 1
        now = time.time_ns() // 1_000_000
        return Event(f"probe-{now:x}-{self._sent}", user_id, item_id, "click", now)

    def click_to_answer(self, user_id: str, item_id: str) -> float:
        """Seconds from before the send to the first answer whose newest event is this click."""
        started = time.perf_counter()
        event = self.click(user_id, item_id)
        self.send(CLICKS, [(user_id.encode(), encode_event(event))])
        self.ask_until(user_id, lambda answer: answer["newest_event_id"] == event.event_id)
        return time.perf_counter() - started

    def ask_until(
        self,
        user_id: str,
        holds: Callable[[Answer], bool],
        *,
        k: int = 10,
        exclude_seen: str = "all",
        deadline_s: float = _DEADLINE_S,
        every_s: float = ASK_EVERY_S,
    ) -> Answer:
        """The first answer of which *holds* is true; ``Unavailable`` when none comes before the deadline."""
        end = time.monotonic() + deadline_s
        while not holds(answer := self.ask(user_id, k=k, exclude_seen=exclude_seen)):
            if time.monotonic() > end:
                raise Unavailable(f"no such answer for {user_id} within {deadline_s:g} s; the last: {answer!r:.300}")
            time.sleep(every_s)
        return answer

    def settle(self, item_id: str, *, deadline_s: float = 300.0, every_s: float = ASK_EVERY_S) -> float:
        """Seconds until every click that is in the log now is in a stored vector: what was sent last comes last.

        Sends one click in each partition (of users of its own) and waits until all of them are used.
        """
        started = time.perf_counter()
        events = [self.click(f"marker-{n:02d}", item_id) for n in range(_MARKERS)]
        self.send(CLICKS, [(event.user_id.encode(), encode_event(event)) for event in events])
        for event in events:
            self.ask_until(
                event.user_id,
                lambda answer, event=event: answer["newest_event_id"] == event.event_id,  # type: ignore[misc]
                k=1,
                deadline_s=deadline_s,
                every_s=every_s,
            )
        return time.perf_counter() - started


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the greatest of *seconds*, in ms."""
    p50, p99, most = np.percentile(seconds, [50, 99, 100]) * 1000
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1), "max": round(float(most), 1)}
