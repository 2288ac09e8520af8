"""Follows a compacted topic, such as the catalogue's or the keys', while requests are served.

Records are applied on the event loop that serves requests, in slices of about a millisecond, so that no burst of
records delays an answer.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from nearline.errors import BadInput, NearlineError, Unavailable
from nearline.log import Record
from nearline.telemetry import begin, counter, get_logger

_SLICE_S = 0.001
_SHARE, _LONGEST_SLICE_S = 0.2, 0.02
LONGEST_PAUSE_S = 0.25
_BACKLOG = 1_000  # a poll with so many records is followed by the next at once
_REPORT_EVERY = 1_000  # refused records between two log lines of one reason

_APPLIED = counter("records_applied_total", "Records of a followed topic that were applied", "topic")
_REFUSED = counter("records_refused_total", "Records that can never be applied", "topic", "reason")


class CompactedTopic(Protocol):
    """A compacted topic read from its beginning (nearline/adapters/kafka/table_reader.py)."""

    caught_up: bool

    async def open(self) -> None:
        """Connect and note the end offsets."""

    async def poll(self) -> list[Record]:
        """The next records; empty if none come for a while."""

    async def close(self) -> None:
        """Disconnect."""


class Follower:
    """Applies every record of a topic once, in order, from its beginning; reconnects after the log was down.

    Once caught up it pauses for *pause_s* after each poll with records, to batch them: a poll costs a millisecond or
    two, a record a hundredth of that. It does not pause while *is_awaited*, and ``hurry`` ends a pause. Under load it
    pauses longer, so that this process (*used_s*: its processor time) takes about *most_cores* of a core, and up to
    ``LONGEST_PAUSE_S``. *reasons* are those that *apply* may refuse a record with.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], CompactedTopic],
        apply: Callable[[Record], None],
        *,
        pause_s: float = 0.0,
        most_cores: float = 1.0,
        used_s: Callable[[], float] = time.process_time,
        is_awaited: Callable[[], bool] = lambda: False,
        reasons: Iterable[str] = (),
    ) -> None:
        begin(_APPLIED, [name])
        begin(_REFUSED, [(name, reason) for reason in (*reasons, "space_mismatch")])
        self._pause_s = pause_s
        self._pauses_per_use = 1 / most_cores - 1
        self._used_s = used_s
        self._used_before_s = used_s()
        self._is_awaited = is_awaited
        self._hurried = asyncio.Event()
        self.name = self._name = name
        self._connect = connect
        self._apply = apply
        self._applied_to: dict[int, int] = {}  # partition -> newest offset
        self._refused: dict[str, int] = {}
        self.caught_up = False

    def positions(self) -> dict[int, int]:
        """The next offset of each partition that has been read."""
        return {partition: offset + 1 for partition, offset in self._applied_to.items()}

    def start_at(self, positions: dict[int, int]) -> None:
        """Count records before *positions* as applied; call it before ``run``."""
        self._applied_to = {partition: offset - 1 for partition, offset in positions.items()}

    def hurry(self) -> None:
        """End the current pause, because a request waits for the next records."""
        self._hurried.set()

    async def run(self, retry_s: float = 1.0) -> None:
        """Follow the topic until cancelled."""
        while True:
            table = self._connect()
            try:
                await table.open()
                await self._follow(table)
            except Unavailable as error:
                get_logger().warning("cannot follow the topic", topic=self._name, reason=str(error))
            finally:
                await asyncio.shield(table.close())
            await asyncio.sleep(retry_s)

    async def _follow(self, table: CompactedTopic) -> None:
        while True:
            records = await table.poll()
            await self.apply_all(records)
            self.caught_up = self.caught_up or table.caught_up
            if records and self.caught_up:
                await self._rest(len(records))

    async def _rest(self, polled: int) -> None:
        self._hurried.clear()
        if not self._pause_s or polled >= _BACKLOG or self._is_awaited():
            await asyncio.sleep(0)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._next_pause_s()):
                await self._hurried.wait()

    def _next_pause_s(self) -> float:
        now_s = self._used_s()
        used_s, self._used_before_s = now_s - self._used_before_s, now_s
        return max(self._pause_s, min(used_s * self._pauses_per_use, LONGEST_PAUSE_S))

    async def apply_all(self, records: Sequence[Record]) -> None:
        """Apply *records* in slices; skip those applied before, count those refused.

        A slice takes a millisecond, or a fifth of the time that it waited for other tasks, so as not to fall behind.
        """
        started, slice_s = time.perf_counter(), _SLICE_S
        for record in records:
            if record.offset <= self._applied_to.get(record.partition, -1):
                continue
            self._take_in(record)
            self._applied_to[record.partition] = record.offset
            if time.perf_counter() - started > slice_s:
                paused = time.perf_counter()
                await asyncio.sleep(0)
                started = time.perf_counter()
                slice_s = max(_SLICE_S, min(_SHARE * (started - paused), _LONGEST_SLICE_S))
        _APPLIED.labels(self._name).inc(len(records))

    def _take_in(self, record: Record) -> None:
        try:
            self._apply(record)
        except NearlineError as error:
            reason = error.reason if isinstance(error, BadInput) else "space_mismatch"
            _REFUSED.labels(self._name, reason).inc()
            count = self._refused[reason] = self._refused.get(reason, 0) + 1
            if count % _REPORT_EVERY == 1:
                get_logger().error("a record was refused", topic=self._name, reason=str(error), so_far=count)
