"""Decides whether and when to retry a call; nothing here waits or sends."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from nearline_client.errors import NearlineError, TooMany, Unavailable


@dataclass(frozen=True, slots=True)
class Retries:
    """The limits of retrying: at most *attempts* calls in *total_s*, with pauses growing from *first_s* to *most_s*.

    A pause is drawn between 0 and its bound ("full jitter"), so that callers that failed together retry at different
    times. ``Retry-After`` is always waited for, unless it exceeds *total_s*: then there is no retry.
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
    """Whether calling again cannot do the same thing twice.

    True for a call that was refused before anything was done (429, no connection). A call without an answer, or whose
    answer says that the log is down, may have been done, so it must be idempotent.
    """
    if isinstance(failure, TooMany):
        return True
    return isinstance(failure, Unavailable) and (is_repeatable or not failure.was_sent)


class Attempts:
    """The attempts of one call: ``pause_s`` returns the pause after a failure, or raises a final failure."""

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
    """The seconds in a Retry-After *header*, a number or a date; ``None`` if it is neither."""
    if not header:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now_s)
    except ValueError:
        return None
