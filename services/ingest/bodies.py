"""Reads request bodies within bounds: bytes per body, bytes in flight, and time to arrive."""

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from nearline.errors import BadInput, Overloaded
from nearline.telemetry import gauge

# The least that a request counts: it takes some 10 KiB here, however small its body is.
LEAST = 16 * 1024
MIB = 1024 * 1024

_IN_FLIGHT = gauge("ingest_in_flight_bytes", "Bytes of requests that are not answered yet")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The largest body and all bodies in flight (bytes), and how long a body may take to arrive."""

    body: int = 4 * MIB
    in_flight: int = 32 * MIB
    arrival_s: float = 10.0


class Room:
    """The memory for bodies in flight; a request without room is refused at once."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._taken = 0

    def take(self, size: int) -> None:
        """Take *size* bytes, or raise ``Overloaded``."""
        if self._taken + size > self.bounds.in_flight:
            raise Overloaded(
                f"{self._taken:,} bytes of requests are in flight, at most {self.bounds.in_flight:,} are accepted; "
                "come again in a moment"
            )
        self._taken += size
        _IN_FLIGHT.set(self._taken)

    def give_back(self, size: int) -> None:
        """Give back *size* bytes."""
        self._taken -= size
        _IN_FLIGHT.set(self._taken)


class Reservation:
    """One request's share of the *room*, from its first byte to its answer."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._taken = 0

    def __enter__(self) -> Self:
        self._grow(LEAST)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._room.give_back(self._taken)
        self._taken = 0

    def _grow(self, size: int) -> None:
        if size > self._taken:
            self._room.take(size - self._taken)
            self._taken = size

    async def read(self, receive: Receive, announced: int) -> bytes:
        """Read the whole body; *announced* is the length in the request's header, 0 without one.

        ``BadInput`` if it is too large (``body_too_large``; at once, if announced) or too slow (``body_too_slow``);
        ``Overloaded`` if there is no room for it.
        """
        bounds = self._room.bounds
        self._refuse_larger(announced)
        self._grow(announced)
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(bounds.arrival_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    self._refuse_larger(size)
                    self._grow(size)
                    chunks.append(chunk)
                    if not message.get("more_body", False):
                        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        except TimeoutError:
            late = f"{size:,} bytes of the body came within {bounds.arrival_s:g} s; send it faster or in smaller parts"
            raise BadInput("body_too_slow", late) from None

    def _refuse_larger(self, size: int) -> None:
        if size > self._room.bounds.body:
            most = f"at most {self._room.bounds.body:,} are accepted; send several smaller ones"
            raise BadInput("body_too_large", f"the body has {size:,} bytes or more; {most}")
