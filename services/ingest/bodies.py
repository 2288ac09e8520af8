"""Reads request bodies within bounds: bytes per body, bytes in flight, and time to arrive.

Room is taken as bytes arrive: an announced length takes none, so a body that never comes keeps no other out.
"""

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from nearline.errors import BadInput, Overloaded
from nearline.shares import BoundedShares
from nearline.telemetry import gauge
from services.ingest.callers import ANYBODY, Caller

# The least that a request counts: it takes some 10 KiB here, however small its body is.
LEAST = 16 * 1024
MIB = 1024 * 1024

_IN_FLIGHT = gauge("ingest_in_flight_bytes", "Bytes of requests that are not answered yet")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The largest body and all bodies in flight (bytes), and how long a body may take to arrive.

    *public_body* is the largest body of a page's key or a user's token, as large as browsers send while a page closes.
    """

    body: int = 4 * MIB
    in_flight: int = 32 * MIB
    arrival_s: float = 10.0
    public_body: int = 64 * 1024

    @property
    def share(self) -> int:
        """How much of the room the bodies of one key for other than admin may take, or those of all public callers."""
        return max(self.in_flight // 2, min(self.body, self.in_flight))

    @property
    def reserve(self) -> int:
        """How much of the room is kept for erasures and removals."""
        return max(0, min(self.in_flight // 16, self.in_flight - self.body)) // LEAST * LEAST

    def most(self, caller: Caller) -> int:
        """The largest body of *caller*."""
        return min(self.body, self.public_body) if caller.is_public else self.body


class Room:
    """The memory for bodies in flight; a request without room is refused at once."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        most = bounds.in_flight - bounds.reserve
        self._shares = BoundedShares(most, bounds.share, changed=_IN_FLIGHT.set)

    def take(self, size: int, holder: str | None = None, *, erases: bool = False) -> None:
        """Take *size* bytes for *holder*, or raise ``Overloaded``; what *erases* may use the reserve."""
        if not self._shares.take(size, holder, beyond=self.bounds.reserve if erases else 0):
            raise Overloaded(
                f"{self._shares.taken:,} bytes of requests are in flight, at most {self.bounds.in_flight:,} are "
                f"accepted, and {self.bounds.share:,} of one key; come again in a moment"
            )

    def give_back(self, size: int, holder: str | None = None) -> None:
        """Give back *size* bytes of *holder*."""
        self._shares.give_back(size, holder)


class Reservation:
    """One request's part of the *room*, from its first byte to its answer; what *erases* may use the reserve."""

    def __init__(self, room: Room, caller: Caller = ANYBODY, *, erases: bool = False) -> None:
        self._room = room
        self._holder = caller.holder
        self._most = room.bounds.most(caller)
        self._erases = erases
        self._taken = 0

    def __enter__(self) -> Self:
        self._grow(LEAST)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._room.give_back(self._taken, self._holder)
        self._taken = 0

    def _grow(self, size: int) -> None:
        if size > self._taken:
            self._room.take(size - self._taken, self._holder, erases=self._erases)
            self._taken = size

    async def read(self, receive: Receive, announced: int) -> bytes:
        """Read the whole body; *announced* is the length in the request's header, 0 without one.

        ``BadInput`` if it is too large (``body_too_large``; at once, if announced) or too slow (``body_too_slow``);
        ``Overloaded`` if there is no room for it.
        """
        bounds = self._room.bounds
        self._refuse_larger(announced)
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
        if size > self._most:
            most = f"at most {self._most:,} are accepted; send several smaller ones"
            raise BadInput("body_too_large", f"the body has {size:,} bytes or more; {most}")
