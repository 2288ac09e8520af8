"""Following a compacted topic while requests are served: the catalogue's, and that of the keys.

Everything runs on the event loop that serves requests, in slices of about a millisecond, so that no burst of records
stalls an answer.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from nearline.errors import BadInput, NearlineError, Unavailable
from nearline.log import Record
from nearline.telemetry import begin, counter, get_logger

_SLICE_S = 0.001
_SHARE, _LONGEST_SLICE_S = 0.2, 0.02
_REPORT_EVERY = 1_000  # refused records between two log lines of one reason

_APPLIED = counter("records_applied_total", "Records of a followed topic that were taken in", "topic")
_REFUSED = counter("records_refused_total", "Records that can never be taken in", "topic", "reason")


class CompactedTopic(Protocol):
    """A compacted topic read from its beginning (nearline/adapters/kafka/table_reader.py)."""

    caught_up: bool

    async def open(self) -> None:
        """Connect and note the end offsets."""

    async def poll(self) -> list[Record]:
        """The next records; none if nothing comes for a while."""

    async def close(self) -> None:
        """Disconnect."""


class Follower:
    """Applies every record of a topic once, in order, from its beginning; connects anew when the log was away.

    Once caught up it rests for *pause_s* after each poll that brought something, so that more comes at once. *reasons*
    are those that *apply* may refuse a record with.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], CompactedTopic],
        apply: Callable[[Record], None],
        *,
        pause_s: float = 0.0,
        reasons: Iterable[str] = (),
    ) -> None:
        begin(_APPLIED, [name])
        begin(_REFUSED, [(name, reason) for reason in (*reasons, "space_mismatch")])
        self._pause_s = pause_s
        self.name = self._name = name
        self._connect = connect
        self._apply = apply
        self._applied_to: dict[int, int] = {}  # partition -> newest offset
        self._refused: dict[str, int] = {}
        self.caught_up = False

    def positions(self) -> dict[int, int]:
        """The next offset of each partition of which anything was read."""
        return {partition: offset + 1 for partition, offset in self._applied_to.items()}

    def start_at(self, positions: dict[int, int]) -> None:
        """Take what lies before *positions* for applied; before the topic is followed."""
        self._applied_to = {partition: offset - 1 for partition, offset in positions.items()}

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
                await asyncio.sleep(self._pause_s)

    async def apply_all(self, records: Sequence[Record]) -> None:
        """Apply *records* in slices; those applied before change nothing, those that make no sense are counted.

        A slice takes a millisecond, or a fifth of the time for which others kept it waiting, lest it falls behind them.
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
