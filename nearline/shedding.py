"""Shedding load early: who cannot be served soon is told so at once, and the others hardly notice.

Requests that came wait in one queue and begin a few at a time, so that between them those that come are noted with
their true time of arrival: an event loop left to itself begins all that came at once and looks up when it is done with
them. A queue that empties now and then is a burst, and bursts are served. One that has not been empty for a while is
too much work: from then on nobody is let in who would have to wait for more than a few milliseconds, for a longer
queue would serve no more of them and all of them later (after CoDel, Nichols and Jacobson 2012). A queue kept so short
is empty now and then by chance; that it is over shows in that it is empty often.

To refuse takes time too. Where very many come, as many begin between two looks as take as long as the look did: half of
the time at least goes to those who are served.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from nearline.telemetry import counter

_SHED = counter(
    "requests_shed_total",
    "Requests that were refused because there were too many, by when",
    "when",
    known=("on_arrival", "waited"),
)
_ON_ARRIVAL, _WAITED = _SHED.labels("on_arrival"), _SHED.labels("waited")


class QueuedRequest(Protocol):
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

    burst_s: float = 0.05  # a queue may take so long to empty: until then it is a burst
    waited_s: float = 0.1  # nobody is served who has waited longer, for who asked has given up or will ask again
    hurried_s: float = 0.002  # where there is too much: nobody is let in who would have to wait longer
    at_once: int = 2  # requests that begin before the loop looks up: 0.7 ms of plain ones
    most: int = 2_000  # requests that wait


_LEAST = 4  # of them may wait in any case: a queue that is empty at every look would pass for the end of the overload
_MOST_AT_ONCE = 64
_LONGEST_TURN_S = 0.005
_RELIEF = 8  # in overload, how many seconds of a waiting queue one of an empty queue makes up for
_LEAST_TAKES_S = 0.00002  # nothing takes less: what waits for others at once, or a clock that stands still, seems to
_STEP = (
    1.05  # by which the median of what a request takes is followed: a stall of the whole machine moves it no further
)


class Gate:
    """Lets requests begin in the order in which they came.

    *call_soon* runs something once the loop has done what it has to do now, and looked up for more; in the order in
    which it was given. *now_s* is any clock that goes steadily forward.
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
        self._pressed_s = 0.0  # for how long the queue was not found empty; in overload, how far its end is
        self._is_overload = False
        self._judged_s = 0.0  # when that was looked at last
        self._begun = 0  # since the loop looked up last
        self._at_once = self._patience.at_once  # as many as begin now before it looks up again
        self._turning = False
        self._looked_s = self._worked_s = 0.0  # when the last look began, and when it was over and work went on
        self._within_s = 0.0  # of the look, what went to requests that were served as they began
        self._takes_s = 0.0003  # a request, until the loop can look up: the median, followed

    def __len__(self) -> int:
        """How many wait."""
        return len(self._queue)

    def come(self, request: QueuedRequest) -> None:
        """*request* has come: it begins, waits or is refused."""
        if self._is_overload and not self._turning:
            self._judge(self._now_s())  # nothing has come since the last turn
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
        """Begin *requests*, and look up after them."""
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
        """What began has gone as far as it gets by itself: let the next begin, and look up."""
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
        """Overload begins when the queue was not empty for as long as a burst takes, and ends when it often is.

        A turn counts for a few milliseconds at most: that the whole machine stood still is no overload.
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
        """The next to begin; who has hung up is passed over, who has waited too long is refused."""
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
