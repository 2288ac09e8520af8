"""Sheds load early: a request that would wait too long is refused at once, and others are hardly delayed.

Requests wait in one queue and begin a few at a time; in between, the loop polls for new requests, so that each gets its
true time of arrival: an event loop by itself would begin all waiting requests before it polls again. A queue that
empties now and then is a burst, and bursts are served. A queue that has not been empty for a while is overload: from
then on a request that would wait for more than a few milliseconds is refused, since a longer queue would only serve the
same number later (after CoDel, Nichols and Jacobson 2012). Such a short queue is sometimes empty by chance; the
overload is over when it is often empty.

Refusing takes time too. Under a flood, the requests begun between two polls take as long as the poll did, so that at
least half of the time goes to served requests.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from nearline.telemetry import counter

_SHED = counter(
    "requests_shed_total",
    "Requests refused because of overload, by when",
    "when",
    known=("on_arrival", "waited"),
)
_ON_ARRIVAL, _WAITED = _SHED.labels("on_arrival"), _SHED.labels("waited")


class QueuedRequest(Protocol):
    """A request that has arrived."""

    @property
    def is_gone(self) -> bool:
        """Whether its caller has disconnected."""

    def begin(self) -> None:
        """Serve it."""

    def refuse(self) -> None:
        """Answer that the process is overloaded."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long requests may wait, in seconds."""

    burst_s: float = 0.05  # a queue that empties within this time is a burst
    waited_s: float = 0.1  # a request that has waited longer is refused: its caller has given up or will retry
    hurried_s: float = 0.002  # in overload, a request that would wait longer is refused
    at_once: int = 2  # requests that begin between two polls of the loop: 0.7 ms of plain ones
    most: int = 2_000  # waiting requests


_LEAST = 4  # so many may always wait: a queue that is empty at every poll would look like the end of the overload
_MOST_AT_ONCE = 64
_LONGEST_TURN_S = 0.005
_RELIEF = 8  # in overload, one second of an empty queue offsets so many of a waiting one
_LEAST_TAKES_S = (
    0.00002  # lower bound of a request's time: one that awaits at once, or a coarse clock, seems to take none
)
_STEP = 1.05  # step by which the estimated median time of a request moves: a stall of the machine moves it no further


class Gate:
    """Begins requests in the order of their arrival.

    *call_soon* runs callbacks, in order, after the loop's current work and a poll for new requests. *now_s* is any
    monotonic clock.
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
        self._queue: deque[tuple[float, QueuedRequest]] = deque()
        self._pressed_s = 0.0  # how long the queue has not been empty; in overload, how far the end is
        self._is_overload = False
        self._judged_s = 0.0  # when that was last updated
        self._begun = 0  # since the loop's last poll
        self._at_once = self._patience.at_once  # how many begin before the next poll
        self._turning = False
        self._looked_s = self._worked_s = 0.0  # start and end of the last poll
        self._within_s = 0.0  # time of the poll that went to requests served as they began
        self._takes_s = 0.0003  # estimated median time from a request's begin to the next poll

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    def come(self, request: QueuedRequest) -> None:
        """Begin, queue or refuse a *request* that has just arrived."""
        if self._is_overload and not self._turning:
            self._judge(self._now_s())  # nothing has arrived since the last turn
        if not self._queue and self._begun < self._patience.at_once:
            self._begin([request])
        elif self._is_full():
            _ON_ARRIVAL.inc()
            request.refuse()
        else:
            self._queue.append((self._now_s(), request))

    def _is_full(self) -> bool:
        waiting = len(self._queue)
        if waiting >= self._patience.most:
            return True
        if not self._is_overload or waiting < max(_LEAST, self._at_once):
            return False
        return waiting * self._takes_s > self._patience.hurried_s

    def _begin(self, requests: list[QueuedRequest]) -> None:
        """Begin *requests*, then let the loop poll."""
        first, began_s = not self._turning, self._now_s()
        if first:
            self._turning = True
            self._looked_s, self._within_s = began_s, 0.0
            self._call_soon(self._look_is_over)
        for request in requests:
            request.begin()
        self._within_s += self._now_s() - began_s
        self._begun += len(requests)
        if first:
            self._call_soon(self._turn)

    def _look_is_over(self) -> None:
        self._worked_s = self._now_s()

    def _turn(self) -> None:
        """The begun requests have run until they wait: begin the next ones, then let the loop poll."""
        now_s = self._now_s()
        self._turning = False
        if self._begun:
            takes_s = (now_s - self._worked_s + self._within_s) / self._begun
            self._takes_s *= _STEP if takes_s > self._takes_s else 1 / _STEP
            self._takes_s = max(_LEAST_TAKES_S, self._takes_s)
        self._judge(now_s)
        self._begun = 0
        as_long = int((self._worked_s - self._looked_s - self._within_s) / self._takes_s)
        self._at_once = max(self._patience.at_once, min(as_long, _MOST_AT_ONCE))
        requests = self._next(now_s)
        if requests:
            self._begin(requests)

    def _judge(self, now_s: float) -> None:
        """Start overload when the queue was not empty for longer than a burst, and end it when it often is.

        A turn counts for a few milliseconds at most: a stall of the whole machine is not overload.
        """
        most_s = _RELIEF * self._patience.burst_s
        if self._queue:
            self._pressed_s = min(self._pressed_s + min(now_s - self._looked_s, _LONGEST_TURN_S), most_s)
            if not self._is_overload and self._pressed_s > self._patience.burst_s:
                self._pressed_s, self._is_overload = most_s, True
        elif self._is_overload:
            self._pressed_s -= _RELIEF * (now_s - self._judged_s)
            self._is_overload = self._pressed_s > 0
        else:
            self._pressed_s = 0.0
        self._judged_s = now_s

    def _next(self, now_s: float) -> list[QueuedRequest]:
        """The next requests to begin; skips callers that disconnected, refuses requests that waited too long."""
        longest_s = self._patience.waited_s
        if self._is_overload:
            longest_s = min(longest_s, 2 * max(self._patience.hurried_s, (_LEAST + 2 * self._at_once) * self._takes_s))
        requests: list[QueuedRequest] = []
        while self._queue and len(requests) < self._at_once:
            came_s, request = self._queue.popleft()
            if request.is_gone:
                continue
            if now_s - came_s > longest_s:
                _WAITED.inc()
                request.refuse()
            else:
                requests.append(request)
        return requests
