"""The queue of exposures: an answer adds one in a microsecond, a background task encodes them and sends them to Kafka.

The queue is bounded. When the log is away or slower than the answers, exposures that do not fit are dropped and
counted: an answer never waits for its exposure.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nearline.errors import NearlineError
from nearline.exposures import Exposure, encode_exposure, records_of
from nearline.hashing import hash64
from nearline.telemetry import counter, gauge, get_logger
from nearline.topics import EXPOSURES
from services.retrieval.provenance import Provenance
from services.retrieval.result import Group

MOST = 20_000  # exposures that wait: some 20 MB
_BATCH = 1_000  # sent together, in a handful of records
_AT_ONCE = 10  # encoded before the event loop serves answers again: 0.2 ms
_PAUSE_S = 0.2  # between batches: small batches cost as much as large ones, very large ones delay answers
_RETRY_S = 1.0

_SENT = counter("exposures_total", "Exposures sent to the log")
_DROPPED = counter(
    "exposures_dropped_total",
    "Exposures that were not sent, by reason",
    "reason",
    known=("log_away", "queue_full", "shut_down"),
)
_WAITING = gauge("waiting_exposures", "Exposures in the queue, not sent yet")

KeylessRecord = tuple[bytes | None, bytes | None]
SendRecords = Callable[[str, list[KeylessRecord]], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class PendingExposure:
    """One answer, to be encoded as an exposure later; immutable."""

    about: Provenance
    time_ms: int
    groups: Sequence[Group]
    scenario: str | None = None
    propensities: Sequence[float | None] = ()
    page: int = 0


class ExposureLog:
    """Sends the exposures of a *share* of all answers through *send* while ``run`` runs."""

    def __init__(self, share: float, send: SendRecords, *, most: int = MOST, retry_s: float = _RETRY_S) -> None:
        self._below = int(share * 2**64)
        self._send = send
        self._most = most
        self._retry_s = retry_s
        self._waiting: deque[PendingExposure] = deque()

    @property
    def waiting(self) -> int:
        """How many exposures are in the queue."""
        return len(self._waiting)

    def note(self, pending: PendingExposure) -> None:
        """Queue *pending* if its request is in the sampled share, which depends on the request id alone."""
        if self._below < 2**64 and hash64(pending.about.request_id) >= self._below:
            return
        if len(self._waiting) >= self._most:
            _DROPPED.labels("queue_full").inc()
            return
        self._waiting.append(pending)

    async def run(self) -> None:
        """Send queued exposures until cancelled, with pauses in between so that batches are large."""
        while True:
            await asyncio.sleep(_PAUSE_S)
            for _ in range(-(-len(self._waiting) // _BATCH)):
                await self.send_some()

    async def drain(self, most_s: float = 2.0) -> None:
        """Send the queue for at most *most_s*; the rest is dropped and counted."""
        try:
            async with asyncio.timeout(most_s):
                while self._waiting:
                    await self.send_some()
        except TimeoutError:
            _DROPPED.labels("shut_down").inc(len(self._waiting))
            self._waiting.clear()

    async def send_some(self) -> None:
        """Send the oldest batch; if the log does not accept it, it is dropped and counted, and a pause follows."""
        taken = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        _WAITING.set(len(self._waiting))
        lines = []
        for nth, pending in enumerate(taken, start=1):
            lines.append(line_of(pending))
            if nth % _AT_ONCE == 0:
                await asyncio.sleep(0)
        try:
            await self._send(EXPOSURES, [(None, record) for record in records_of(lines)])
        except NearlineError as error:
            _DROPPED.labels("log_away").inc(len(taken))
            get_logger().warning("exposures were dropped", reason=str(error), dropped=len(taken))
            await asyncio.sleep(self._retry_s)
        else:
            _SENT.inc(len(taken))


def line_of(pending: PendingExposure) -> bytes:
    """*pending* as a line of a record in the topic ``exposures``."""
    about = pending.about
    items: list[str] = []
    sources: list[str] = []
    for group in pending.groups:
        items += group.items.item_ids
        sources += [group.source.value] * len(group.items)
    scores = [group.items.scores.astype(np.float32) for group in pending.groups]
    exposure = Exposure(
        request_id=about.request_id,
        user_id=about.user_id or "",
        time_ms=pending.time_ms,
        space=about.space,
        items=items,
        sources=sources,
        scores=np.concatenate(scores) if scores else (),
        scenario=pending.scenario,
        propensities=pending.propensities,
        rules=about.rules,
        page=pending.page,
    )
    return encode_exposure(exposure)
