"""Sends events in the background, many per request: a bounded queue and one sender.

An event leaves the queue once the service has answered for it. While the service or its log is down the sender keeps
retrying and the queue fills; a full queue refuses new events (``QueueFull``) and drops none.
"""

import asyncio
import atexit
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

from nearline_client.answers import Event, EventResults
from nearline_client.calls import MOST_BYTES_IN_A_BATCH, encoded
from nearline_client.errors import NearlineError, NotLetIn, Problem, QueueFull, Refused, TooMany, Unavailable
from nearline_client.results import refused_of
from nearline_client.retrying import Retries

RefusedEvents = Callable[[Sequence[tuple[Event, Problem]]], object]
Lost = Callable[[Sequence[Event], NearlineError | None], object]
_LOG = logging.getLogger("nearline_client")
_CLOSE_S = 10.0
_USUAL = Retries()


class WaitingEvents:
    """The waiting events, oldest first, and the last attempt's failure; not thread-safe."""

    def __init__(self, *, batch: int, most: int, retries: Retries, draw: Callable[[], float]) -> None:
        if not 1 <= batch <= most:
            raise ValueError(f"a batch must hold 1 to {most} events (as many as the queue), came {batch}")
        self.batch = batch
        self.most = most
        self.failure: NearlineError | None = None
        self._events: deque[tuple[Event, int]] = deque()  # with its encoded size
        self._retries = retries
        self._draw = draw
        self._failures = 0

    def __len__(self) -> int:
        return len(self._events)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another event."""
        return len(self._events) >= self.most

    def add(self, event: Event) -> None:
        """Queue *event*; ``QueueFull`` if there is no room, ``ValueError`` or ``TypeError`` if it is not valid JSON."""
        size = len(encoded(event)) + 1
        if self.is_full:
            why = f"; the last attempt to send failed: {self.failure}" if self.failure else ""
            raise QueueFull(f"{self.most:,} events wait to be sent, there is no room for another{why}")
        self._events.append((event, size))

    def next_batch(self) -> list[Event]:
        """The oldest events, as many as fit into one request; they stay queued until ``sent``."""
        chosen: list[Event] = []
        room = MOST_BYTES_IN_A_BATCH
        for event, size in islice(self._events, self.batch):
            if chosen and size > room:
                break
            chosen.append(event)
            room -= size
        return chosen

    def sent(self, count: int) -> None:
        """Remove the oldest *count* events: the service has answered for them."""
        for _ in range(count):
            self._events.popleft()
        self.failure, self._failures = None, 0

    def failed(self, failure: NearlineError) -> float:
        """Note a failed attempt; return the seconds to wait before the next one."""
        self.failure = failure
        self._failures = min(self._failures + 1, 30)
        told_s = failure.retry_after_s if isinstance(failure, TooMany | Unavailable) else None
        return (told_s or 0.0) + self._draw() * self._retries.bound_s(self._failures)

    def give_up(self) -> list[Event]:
        """Empty the queue and return its events, which will not be sent."""
        left = [event for event, _ in self._events]
        self._events.clear()
        return left


class Reports:
    """Calls the program's callbacks for refused and lost events; without callbacks, logs a line per batch."""

    def __init__(self, on_refused: RefusedEvents | None, on_lost: Lost | None) -> None:
        self._on_refused = on_refused
        self._on_lost = on_lost

    def answered(self, events: Sequence[Event], results: EventResults) -> None:
        """Report the refused ones of *events*."""
        refused = refused_of(events, results)
        if refused and self._on_refused is not None:
            self._told(self._on_refused, refused)
        elif refused:
            first = refused[0][1]
            _LOG.warning(
                "%d events were refused, the first because of %r: %s", len(refused), first.field, first.problem
            )

    def lost(self, events: Sequence[Event], failure: NearlineError | None) -> None:
        """Report that *events* will not be sent."""
        if events and self._on_lost is not None:
            self._told(self._on_lost, events, failure)
        elif events:
            _LOG.error("%d events were never sent: %s", len(events), failure)

    def waiting(self, count: int, failure: NearlineError) -> None:
        """Log that *count* events wait after a failed attempt."""
        _LOG.warning("%d events wait to be sent, after: %s", count, failure)

    def _told(self, listener: Callable[..., object], *about: object) -> None:
        try:
            listener(*about)
        except Exception:
            # The callback is the program's: its error must not end the sender.
            _LOG.exception("%r failed", listener)


def is_final(failure: NearlineError) -> bool:
    """Whether the same events would always fail. A key may be fixed, and an unexpected answer may be a proxy's."""
    return isinstance(failure, Refused) and not isinstance(failure, NotLetIn)


class EventQueue:
    """The queue of ``Client``, emptied by a thread that starts with the first event: a process may fork before it."""

    def __init__(
        self,
        send: Callable[[list[Event]], EventResults],
        *,
        batch: int,
        linger_s: float,
        most: int,
        on_refused: RefusedEvents | None = None,
        on_lost: Lost | None = None,
        retries: Retries = _USUAL,
        draw: Callable[[], float] = random.random,
        close_s: float = _CLOSE_S,
    ) -> None:
        self._send = send
        self._linger_s = linger_s
        self._close_s = close_s
        self._reports = Reports(on_refused, on_lost)
        self._waiting = WaitingEvents(batch=batch, most=most, retries=retries, draw=draw)
        self._turn = threading.Condition()
        self._flushing = 0
        self._ends_s: float | None = None  # once closed: until when the sender may try
        self._thread: threading.Thread | None = None

    def add(self, event: Event, *, block_s: float = 0.0) -> None:
        """Queue *event* to be sent soon; ``QueueFull`` if there is no room within *block_s*."""
        with self._turn:
            self._turn.wait_for(lambda: not self._waiting.is_full or self._is_closing, block_s)
            if self._is_closing:
                raise QueueFull("the client is closed: its queue accepts no more events")
            self._waiting.add(event)
            self._start()
            if len(self._waiting) in (1, self._waiting.batch):
                self._turn.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Send without lingering and wait until the queue is empty; return whether it was in time."""
        with self._turn:
            self._flushing += 1
            self._turn.notify_all()
            try:
                return self._turn.wait_for(lambda: not len(self._waiting), timeout_s)
            finally:
                self._flushing -= 1

    def close(self) -> None:
        """Send the queued events within the time limit; report the rest as lost. Safe to call twice."""
        with self._turn:
            if self._ends_s is None:
                self._ends_s = time.monotonic() + self._close_s
            self._turn.notify_all()
        if self._thread is not None:
            self._thread.join()  # each of its waits and requests has a deadline
        atexit.unregister(self.close)

    @property
    def _is_closing(self) -> bool:
        return self._ends_s is not None

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="nearline events", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    def _run(self) -> None:
        while batch := self._next():
            try:
                results = self._send(batch)
            except NearlineError as failure:
                if is_final(failure):
                    self._sent(batch)
                    self._reports.lost(batch, failure)
                elif not self._wait_after(failure):
                    return
            else:
                self._sent(batch)
                self._reports.answered(batch, results)

    def _next(self) -> list[Event]:
        """The next batch once it is due; an empty one if the queue is closed and empty."""
        with self._turn:
            self._turn.wait_for(lambda: len(self._waiting) or self._is_closing)
            self._turn.wait_for(self._is_due, self._linger_s)
            return self._waiting.next_batch()

    def _is_due(self) -> bool:
        return len(self._waiting) >= self._waiting.batch or self._flushing > 0 or self._is_closing

    def _sent(self, batch: list[Event]) -> None:
        with self._turn:
            self._waiting.sent(len(batch))
            self._turn.notify_all()

    def _wait_after(self, failure: NearlineError) -> bool:
        """Pause; False if the queue is closed without time for another attempt: its events are then lost."""
        with self._turn:
            if self._waiting.failure is None:
                self._reports.waiting(len(self._waiting), failure)
            again_s = time.monotonic() + self._waiting.failed(failure)
            self._turn.wait_for(lambda: self._must_end_before(again_s), again_s - time.monotonic())
            if not self._must_end_before(again_s):
                return True
            left = self._waiting.give_up()
            self._turn.notify_all()
        self._reports.lost(left, failure)
        return False

    def _must_end_before(self, moment_s: float) -> bool:
        return self._ends_s is not None and self._ends_s <= moment_s


class AsyncEventQueue:
    """The queue of ``AsyncClient``, emptied by a task that starts with the first event. Exiting does not close it."""

    def __init__(
        self,
        send: Callable[[list[Event]], Awaitable[EventResults]],
        *,
        batch: int,
        linger_s: float,
        most: int,
        on_refused: RefusedEvents | None = None,
        on_lost: Lost | None = None,
        retries: Retries = _USUAL,
        draw: Callable[[], float] = random.random,
        close_s: float = _CLOSE_S,
    ) -> None:
        self._send = send
        self._linger_s = linger_s
        self._close_s = close_s
        self._reports = Reports(on_refused, on_lost)
        self._waiting = WaitingEvents(batch=batch, most=most, retries=retries, draw=draw)
        self._turn = asyncio.Condition()
        self._flushing = 0
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None

    async def add(self, event: Event, *, block_s: float = 0.0) -> None:
        """Queue *event* to be sent soon; ``QueueFull`` if there is no room within *block_s*."""
        async with self._turn:
            await self._until(lambda: not self._waiting.is_full or self._is_closing, block_s)
            if self._is_closing:
                raise QueueFull("the client is closed: its queue accepts no more events")
            self._waiting.add(event)
            if self._task is None:
                self._task = asyncio.create_task(self._run(), name="nearline events")
            if len(self._waiting) in (1, self._waiting.batch):
                self._turn.notify_all()

    async def flush(self, timeout_s: float) -> bool:
        """Send without lingering and wait until the queue is empty; return whether it was in time."""
        async with self._turn:
            self._flushing += 1
            self._turn.notify_all()
            try:
                return await self._until(lambda: not len(self._waiting), timeout_s)
            finally:
                self._flushing -= 1

    async def close(self) -> None:
        """Send the queued events within the time limit; report the rest as lost. Safe to call twice."""
        async with self._turn:
            self._is_closing = True
            self._turn.notify_all()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=self._close_s)
            self._task.cancel()
            await asyncio.wait({self._task})
        self._reports.lost(self._waiting.give_up(), self._waiting.failure)

    async def _run(self) -> None:
        while batch := await self._next():
            try:
                results = await self._send(batch)
            except NearlineError as failure:
                if is_final(failure):
                    await self._sent(batch)
                    self._reports.lost(batch, failure)
                else:
                    await self._wait_after(failure)
            else:
                await self._sent(batch)
                self._reports.answered(batch, results)

    async def _next(self) -> list[Event]:
        """The next batch once it is due; an empty one if the queue is closed and empty."""
        async with self._turn:
            await self._turn.wait_for(lambda: len(self._waiting) > 0 or self._is_closing)
            await self._until(self._is_due, self._linger_s)
            return self._waiting.next_batch()

    def _is_due(self) -> bool:
        return len(self._waiting) >= self._waiting.batch or self._flushing > 0 or self._is_closing

    async def _sent(self, batch: list[Event]) -> None:
        async with self._turn:
            self._waiting.sent(len(batch))
            self._turn.notify_all()

    async def _wait_after(self, failure: NearlineError) -> None:
        if self._waiting.failure is None:
            self._reports.waiting(len(self._waiting), failure)
        await asyncio.sleep(self._waiting.failed(failure))

    async def _until(self, true: Callable[[], bool], seconds: float) -> bool:
        """Whether *true* held within *seconds*; call it with the condition's lock held."""
        try:
            async with asyncio.timeout(seconds):
                await self._turn.wait_for(true)
        except TimeoutError:
            return true()
        return True
