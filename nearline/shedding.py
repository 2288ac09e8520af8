"""Shedding load early: who cannot be served soon is told so at once, and the others hardly notice.

Requests that came wait in one queue and begin a few at a time, so that between them those that come are noted with
their true time of arrival: an event loop left to itself begins all that came at once and looks up when it is done with
them. A queue that empties now and then is a burst, and bursts are served. One that has not been empty for a while is
too much work: from then on nobody is let in who would have to wait for more than a few milliseconds, for a longer
queue would serve no more of them and all of them later (after CoDel, Nichols and Jacobson 2012).
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from nearline.telemetry import counter

_SHED = counter("requests_shed_total", "Requests that were refused because there were too many, by when", "when")
_SMOOTHING = 1 / 16
_ON_ARRIVAL, _WAITED = _SHED.labels("on_arrival"), _SHED.labels("waited")


class Request(Protocol):
    """A request that has come."""

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for its answer any more."""

    def begin(self) -> None:
        """Serve it."""

    def refuse(self) -> None:
        """Answer that there is too much to do."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long requests may wait; seconds."""

    burst_s: float = 0.1  # a queue may take so long to empty: until then it is a burst
    waited_s: float = 0.1  # nobody is served who has waited longer, for who asked has given up or will ask again
    hurried_s: float = 0.002  # where there is too much: nobody is let in who would have to wait longer
    at_once: int = 2  # requests that begin before the loop looks up: 0.7 ms of plain ones
    most: int = 2_000  # requests that wait


class Gate:
    """Lets requests begin in the order in which they came.

    *call_soon* runs something once the loop has done what it has to do now, and looked up for more. *now_s* is any
    clock that goes steadily forward.
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        now_s: Callable[[], float],
        patience: Patience | None = None,
    ) -> None:
        self._call_soon = call_soon
        self._now_s = now_s
        self._patience = patience or Patience()
        self._queue: deque[tuple[float, Request]] = deque()
        self._since_s = 0.0  # since when there always was somebody in the queue
        self._hurried_until_s = 0.0
        self._turned_s = 0.0
        self._pace_s = 0.0  # from the beginning of one request to that of the next, lately
        self._begun = 0  # in this turn of the loop
        self._turning = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._queue)

    def come(self, request: Request) -> None:
        """*request* has come: it begins, waits or is refused."""
        if not self._queue and self._begun < self._patience.at_once:
            self._begin(request)
        elif self._is_full():
            _ON_ARRIVAL.inc()
            request.refuse()
        else:
            now_s = self._now_s()
            if not self._queue:
                self._since_s = now_s
            self._queue.append((now_s, request))

    def _is_full(self) -> bool:
        if len(self._queue) >= self._patience.most:
            return True
        return self._is_overload() and self._is_too_long(len(self._queue) * self._pace_s, self._patience.hurried_s)

    def _is_overload(self) -> bool:
        """Whether there is too much to do: the queue has not been empty for as long as a burst takes.

        And for as long again after somebody was refused for it: else a queue that was just emptied would pass for the
        beginning of a burst.
        """
        now_s = self._now_s()
        if now_s < self._hurried_until_s:
            return True
        return bool(self._queue) and now_s - self._since_s > self._patience.burst_s

    def _is_too_long(self, wait_s: float, longest_s: float) -> bool:
        if wait_s > longest_s:
            self._hurried_until_s = self._now_s() + self._patience.burst_s
        return wait_s > longest_s

    def _begin(self, request: Request) -> None:
        self._begun += 1
        request.begin()
        if not self._turning:
            self._turning = True
            self._turned_s = self._now_s()
            self._call_soon(self._turn)

    def _turn(self) -> None:
        """The loop has looked up: let the next begin."""
        self._turning = False
        self._pace_s += _SMOOTHING * ((self._now_s() - self._turned_s) / max(1, self._begun) - self._pace_s)
        self._begun = 0
        while self._queue and self._begun < self._patience.at_once:
            came_s, request = self._queue.popleft()
            if request.is_gone:
                continue
            if self._has_waited_too_long(self._now_s() - came_s):
                _WAITED.inc()
                request.refuse()
            else:
                self._begin(request)

    def _has_waited_too_long(self, waited_s: float) -> bool:
        if self._is_overload():
            return self._is_too_long(waited_s, 2 * self._patience.hurried_s)
        return waited_s > self._patience.waited_s
