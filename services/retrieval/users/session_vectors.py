"""The user tower on the request path: anonymous sessions, encoded in batches.

While requests are in flight to Triton, further sessions wait for the next one, which encodes up to 64 of them. So few
sessions do not wait for a batching window, and many sessions need few requests. While Triton is down, sessions do not
wait: a few failures in a row open its breaker (breaker.py), and only ``watch`` keeps trying.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nearline.errors import BadAnswer, Misconfigured, NearlineError, Overloaded, Unavailable
from nearline.features import Features
from nearline.item_vectors import Vector
from nearline.salvage import salvage
from nearline.sequences import UserSequence
from nearline.telemetry import counter, gauge, get_logger, seconds
from services.retrieval.breaker import Breaker

IN_FLIGHT = 2  # requests to Triton
BATCH = 64
MOST_WAITING = 512  # sessions

_UP = gauge("session_tower_up", "1 while the user tower answers sessions")
_ENCODED = counter("sessions_encoded_total", "Sessions that the user tower encoded")
_REQUESTS = counter("session_requests_total", "Requests to the user tower for sessions")
_FAILED = counter("session_failures_total", "Requests for sessions that failed within or at their deadline")
_TOOK = seconds("session_encode_seconds", "One request to the user tower for sessions")


class SessionEncoder(Protocol):
    """The user tower of this space (nearline/adapters/triton.py)."""

    @property
    def features(self) -> Features:
        """The tower's features; known once ``open`` has returned."""

    async def open(self) -> None:
        """Connect and check; ``Unavailable`` while Triton is down, ``Misconfigured`` if the model does not fit."""

    async def close(self) -> None:
        """Close the connection."""

    async def encode_users(self, batch: Mapping[str, NDArray[Any]]) -> Vector:
        """The vectors of the users in *batch*."""


class HistoryRows(Protocol):
    """The items' history vectors, by row."""

    @property
    def matrix(self) -> NDArray[np.float16]:
        """All rows."""


class KnownItems(Protocol):
    """The items' history vectors (in_process/catalogue.py)."""

    @property
    def histories(self) -> HistoryRows:
        """The vectors."""

    def history_rows(self, item_ids: Iterable[str]) -> dict[str, int]:
        """The row of each of *item_ids* that is known."""


class SessionVectors:
    """Encodes sessions, concurrent ones in one request; ``watch`` has to run."""

    def __init__(self, towers: SessionEncoder, items: KnownItems, *, most_waiting: int = MOST_WAITING) -> None:
        self._towers = towers
        self._items = items
        self._most_waiting = most_waiting
        self._waiting: list[tuple[UserSequence, asyncio.Future[Vector | None]]] = []
        self._in_flight: set[asyncio.Task[None]] = set()
        self._is_starting = False
        self._breaker = Breaker("the user tower", self._connect, up=_UP, failed=_FAILED)
        self._misfit = ""  # the misconfiguration that was logged last

    async def vector(self, session: UserSequence) -> Vector | None:
        """The session's vector, (dimension,), or ``None`` if the tower knows none of its items or context.

        ``Unavailable`` at once while the breaker is open, ``Overloaded`` if too many sessions wait, ``BadAnswer`` if
        the tower's answer for this session is invalid.
        """
        self._breaker.check()
        if len(self._waiting) >= self._most_waiting:
            raise Overloaded(f"{len(self._waiting)} sessions wait for the user tower")
        loop = asyncio.get_running_loop()
        vector: asyncio.Future[Vector | None] = loop.create_future()
        self._waiting.append((session, vector))
        if not self._is_starting and len(self._in_flight) < IN_FLIGHT:
            self._is_starting = True
            loop.call_soon(self._start)  # sessions of the same turn of the loop share a request
        return await vector

    async def watch(self, every_s: float = 0.25) -> None:
        """Connect to the tower, and retry every *every_s* while it is down; runs until cancelled."""
        try:
            await self._breaker.watch(every_s)
        finally:
            self._breaker.open()
            await self._towers.close()

    async def probe(self) -> None:
        """Check once whether the tower answers."""
        await self._breaker.probe()

    async def _connect(self) -> None:
        try:
            await self._towers.open()
        except Misconfigured as error:
            if str(error) != self._misfit:
                self._misfit = str(error)
                get_logger().error("sessions get no vectors", reason=self._misfit)
            raise Unavailable(str(error)) from None

    def _start(self) -> None:
        self._is_starting = False
        while self._waiting and len(self._in_flight) < IN_FLIGHT:
            part, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            task = asyncio.ensure_future(self._settle(part))
            self._in_flight.add(task)
            task.add_done_callback(self._go_on)

    def _go_on(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._start()

    async def _settle(self, part: Sequence[tuple[UserSequence, asyncio.Future[Vector | None]]]) -> None:
        """Resolve each future of *part* with its vector or error."""
        part = [each for each in part if not each[1].done()]  # the others were cancelled
        try:
            vectors = await self._breaker.ask(lambda: self._encode([session for session, _ in part]))
        except NearlineError as error:
            vectors = [error] * len(part)
        for (_, future), vector in zip(part, vectors, strict=True):
            if not future.done():
                _resolve(future, vector)

    async def _encode(self, sessions: Sequence[UserSequence]) -> list[Vector | NearlineError | None]:
        features = self._towers.features
        row_of = self._items.history_rows({item_id for session in sessions for item_id in session.items})
        rows, ages, types = features.user_rows(sessions, row_of)
        context = features.contexts_of(sessions)
        known = (rows >= 0) & (types > 0) & (types <= features.types)
        encodable = np.flatnonzero(known.any(axis=1) | context.any(axis=1))

        async def encode(part: Sequence[int]) -> list[Vector]:
            picked = np.asarray(part)
            matrix = self._items.histories.matrix
            batch = features.user_batch(matrix, rows[picked], ages[picked], types[picked], context[picked])
            _REQUESTS.inc()
            with _TOOK.time():
                return list(await self._towers.encode_users(batch))

        good, bad = await salvage(encode, encodable.tolist())
        _ENCODED.inc(len(good))
        found: dict[int, Vector | NearlineError] = {**dict(good), **dict(bad)}
        return [found.get(nth) for nth in range(len(sessions))]


def _resolve(future: asyncio.Future[Vector | None], vector: Vector | NearlineError | None) -> None:
    if isinstance(vector, BadAnswer):
        future.set_exception(BadAnswer(str(vector)))  # a new exception, because each is raised in another task
    elif isinstance(vector, NearlineError):
        future.set_exception(Unavailable(str(vector)))
    else:
        future.set_result(vector)
