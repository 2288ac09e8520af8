"""Errors sorted by what the caller should do.

NearlineError
├── Refused          the request is invalid: *field* names the field to change
│   ├── NotThere         404: there is no such item, user or route
│   └── OtherVersion     412: the item has changed since it was read
├── NotLetIn         401, 403: the key is missing, wrong, revoked or has another scope
├── TooMany          429: nothing was done; try again after *retry_after_s*
├── Unavailable      the service or its log is down: try again. With *was_sent* it may have been done
├── UnexpectedAnswer an answer outside the API: a proxy's page, or a bug of ours
└── QueueFull        events are added faster than they are sent; this one was not added

The first five are raised after the retries, so trying again at once does not help.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class NearlineError(Exception):
    """The base of every error that this package raises."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: the field, a short code if there is one, and what was expected."""

    field: str
    problem: str
    reason: str = ""
    came: str = ""
    position: int | None = None  # index of the character in a filter


class Refused(NearlineError):
    """The request is invalid; *field*, *reason* and the message are those of the first of *problems*."""

    def __init__(self, status: int, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(_words(one) for one in problems) or f"refused with status {status}")
        self.status = status
        self.problems = tuple(problems)

    @property
    def field(self) -> str:
        """The invalid field; empty for the whole request."""
        return self.problems[0].field if self.problems else ""

    @property
    def reason(self) -> str:
        """A short code for counters; empty if the service gives none."""
        return self.problems[0].reason if self.problems else ""


class NotThere(Refused):
    """There is no such item, user or route."""


class OtherVersion(Refused):
    """The item's version is not ``if_match``: read it again."""


class NotLetIn(Refused):
    """The key is missing, wrong, revoked, or not for this route, user or origin."""


class TooMany(NearlineError):
    """Nothing was done, because of too many requests; try again after *retry_after_s*."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(NearlineError):
    """The service, or the log behind it, is down. If *was_sent* is false, nothing has left this process."""

    def __init__(self, message: str, *, was_sent: bool = True, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.was_sent = was_sent
        self.retry_after_s = retry_after_s


class UnexpectedAnswer(NearlineError):
    """An answer outside the API."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class QueueFull(NearlineError):
    """The queue is full; this event was not added."""


def _words(problem: Problem) -> str:
    return f"{problem.field}: {problem.problem}" if problem.field else problem.problem
