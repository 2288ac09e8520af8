"""Appends to the log in groups: messages that arrive while one group is being sent form the next.

So a single event does not wait, and concurrent ones share the log's acknowledgement, without a linger to configure.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from nearline.errors import BadInput, NearlineError, Unavailable
from nearline.log import Appended
from nearline.telemetry import begin, gauge, get_logger, seconds, sizes

# The key and the value (None = tombstone); and the partition, if it is not that of the key.
KeyedMessage = tuple[bytes, bytes | None] | tuple[bytes, bytes | None, int]
Headers = tuple[tuple[str, bytes], ...]
SendGroup = Callable[[str, list[KeyedMessage], Headers], Coroutine[Any, Any, Sequence[Appended]]]
_MOST = 2_000  # messages in a group: 60 ms of the client's work, so that no caller waits long for another group

_ACKNOWLEDGED = seconds(
    "ingest_acknowledged_seconds", "From the end of a request's validation to the log's acknowledgement", "topic"
)
_GROUP = sizes("ingest_group_messages", "Messages sent to the log together", "topic")
_WAITING = gauge("ingest_waiting_messages", "Messages that the log has not acknowledged yet", "topic")
_LOG_UP = gauge("ingest_log_up", "1 while the log acknowledges appended messages", "topic")


@dataclass(slots=True)
class _Entry:
    """One caller's messages, and the future of their places in the log."""

    messages: list[KeyedMessage]
    headers: Headers
    done: asyncio.Future[list[Appended]]


class Appender:
    """Appends to *topic* with *send*, one group at a time, in the order of the calls.

    *send* returns once all of its messages are acknowledged. After an ``Unavailable`` all waiting calls fail with it,
    and new calls fail at once while the next attempt runs: no call waits for a log that is down.
    """

    def __init__(self, topic: str, send: SendGroup) -> None:
        self._topic = topic
        self._send = send
        self._waiting: deque[_Entry] = deque()
        self._task: asyncio.Task[None] | None = None
        self._away: Unavailable | None = None
        for metric in (_ACKNOWLEDGED, _GROUP, _WAITING, _LOG_UP):
            begin(metric, [topic])
        _LOG_UP.labels(topic).set(1)

    @property
    def is_up(self) -> bool:
        """Whether the last send to the log succeeded."""
        return self._away is None

    async def append(self, messages: Sequence[KeyedMessage], headers: Headers = ()) -> list[Appended]:
        """Append *messages* and return their places in the log once all are acknowledged.

        ``Unavailable`` if the log did not acknowledge them all; some or all may still be in it, now or later.
        ``BadInput`` if a message is too large for the log.
        """
        if self._away is not None and self._task is not None:
            raise Unavailable(str(self._away))
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        entry = _Entry(list(messages), headers, loop.create_future())
        self._waiting.append(entry)
        _WAITING.labels(self._topic).inc(len(messages))
        if self._task is None:
            self._task = loop.create_task(self._run())
        try:
            places = await entry.done
        finally:
            _WAITING.labels(self._topic).dec(len(messages))
        _ACKNOWLEDGED.labels(self._topic).observe(time.perf_counter() - started)
        return places

    async def drain(self) -> None:
        """Return once every waiting call has been acknowledged or has failed."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._append_group(self._next_group())
        finally:
            self._task = None

    def _next_group(self) -> list[_Entry]:
        """The oldest entries with the same headers, up to the limit; at least one."""
        group = [self._waiting.popleft()]
        count = len(group[0].messages)
        while self._waiting and self._waiting[0].headers == group[0].headers and count < _MOST:
            group.append(self._waiting.popleft())
            count += len(group[-1].messages)
        return group

    async def _append_group(self, group: list[_Entry]) -> None:
        messages = [message for one in group for message in one.messages]
        _GROUP.labels(self._topic).observe(len(messages))
        try:
            places = list(await self._send(self._topic, messages, group[0].headers))
        except BadInput as error:
            await self._append_one_by_one(group, error)
        except Unavailable as error:
            self._note_away(error)
            self._fail([*group, *self._waiting], error)
            self._waiting.clear()
        except Exception as error:  # a bug of ours must not leave callers waiting for ever
            get_logger().exception("the log's client failed", topic=self._topic)
            self._fail(group, Unavailable(f"the log's client failed with {error!r:.200}"))
        else:
            self._note_up()
            for entry in group:
                taken, places = places[: len(entry.messages)], places[len(entry.messages) :]
                if not entry.done.done():
                    entry.done.set_result(taken)

    async def _append_one_by_one(self, group: list[_Entry], error: BadInput) -> None:
        """Append each entry by itself: one is too large for the log, and the others must not be refused with it."""
        if len(group) == 1:
            self._fail(group, error)
            return
        for entry in group:
            await self._append_group([entry])

    @staticmethod
    def _fail(group: Sequence[_Entry], error: NearlineError) -> None:
        for entry in group:
            if not entry.done.done():
                entry.done.set_exception(error)

    def _note_away(self, error: Unavailable) -> None:
        if self._away is None:
            get_logger().warning("the log is down", topic=self._topic, reason=str(error))
        self._away = error
        _LOG_UP.labels(self._topic).set(0)

    def _note_up(self) -> None:
        if self._away is not None:
            get_logger().info("the log is up again", topic=self._topic)
            self._away = None
        _LOG_UP.labels(self._topic).set(1)
