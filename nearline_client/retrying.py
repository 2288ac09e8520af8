"""When a call may be made again, and after how long: nothing here waits or sends."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from nearline_client.errors import NearlineError, TooMany, Unavailable


@dataclass(frozen=True, slots=True)
class Retries:
    """How patient a client is: at most *attempts* calls in *total_s*, the pauses growing from *first_s* to *most_s*.

    A pause is drawn between nothing and its bound ("full jitter"), so that callers who failed together do not come
    back together. What ``Retry-After`` says is waited for in any case, or not at all if it passes *total_s*.
    """

    attempts: int = 4
    first_s: float = 0.1
    most_s: float = 5.0
    total_s: float = 15.0

    def bound_s(self, tries: int) -> float:
        """The longest pause after *tries* calls."""
        return min(self.most_s, self.first_s * 2.0 ** (tries - 1))


NEVER = Retries(attempts=1)


def may_repeat(failure: NearlineError, *, is_repeatable: bool) -> bool:
    """Whether to call again cannot do twice what was asked once.

    A call that was turned away before anything was done (429, no connection) always may; one whose answer is missing
    or says that the log is away may have been done, so it may only if doing it twice is the same.
    """
    if isinstance(failure, TooMany):
        return True
    return isinstance(failure, Unavailable) and (is_repeatable or not failure.was_sent)


class Attempts:
    """The attempts of one call: ``pause_s`` is how long to wait after a failure, or raises it when it is final."""

    def __init__(
        self,
        retries: Retries,
        *,
        is_repeatable: bool,
        now_s: Callable[[], float],
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._retries = retries
        self._is_repeatable = is_repeatable
        self._now_s = now_s
        self._draw = draw
        self._started_s = now_s()
        self._tries = 0

    def pause_s(self, failure: NearlineError) -> float:
        """Seconds until the next attempt; *failure* itself is raised if there is none."""
        self._tries += 1
        if self._tries >= self._retries.attempts or not may_repeat(failure, is_repeatable=self._is_repeatable):
            raise failure
        told_s = failure.retry_after_s if isinstance(failure, TooMany | Unavailable) else None
        wait_s = (told_s or 0.0) + self._draw() * self._retries.bound_s(self._tries)
        if self._now_s() - self._started_s + wait_s > self._retries.total_s:
            raise failure
        return wait_s


def retry_after_s(header: str | None, now_s: float) -> float | None:
    """The seconds that a Retry-After *header* asks for, as a number or as a date; ``None`` if it says neither."""
    if not header:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now_s)
    except ValueError:
        return None
