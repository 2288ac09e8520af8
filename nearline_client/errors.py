"""Errors sorted by what the caller should do.

NearlineError
├── Refused          it can never be done as it is: *field* says what is wrong with; change it
│   ├── NotThere         404: there is no such item, user or route
│   └── OtherVersion     412: somebody changed the item since it was read
├── NotLetIn         401, 403: the key is missing, wrong, revoked or of another scope
├── TooMany          429: nothing was done; come again after *retry_after_s*
├── Unavailable      the service or its log is away: come again. With *was_sent* it may have been done
├── UnexpectedAnswer an answer that no version of the API gives: a proxy's page, or a fault of ours
└── QueueFull        events are added faster than they are taken; this one was not

The first five are raised after the retries, so to ask again at once is no use.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class NearlineError(Exception):
    """The root of every error that this package raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that was wrong: with which field, a short code if there is one, and what was expected."""

    field: str
    problem: str
    reason: str = ""
    came: str = ""
    position: int | None = None  # the character of a filter, from 0


class Refused(NearlineError):
    """What was asked can never be done as it is; the first of *problems* is also *field*, *reason* and the message."""

    def __init__(self, status: int, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(_words(one) for one in problems) or f"refused with status {status}")
        self.status = status
        self.problems = tuple(problems)

    @property
    def field(self) -> str:
        """What is wrong with; empty if it is the request as a whole."""
        return self.problems[0].field if self.problems else ""

    @property
    def reason(self) -> str:
        """A short code, to count by; empty where the service gives none."""
        return self.problems[0].reason if self.problems else ""


class NotThere(Refused):
    """There is no such item, user or route."""


class OtherVersion(Refused):
    """The item is in another version than ``if_match`` says: read it again."""


class NotLetIn(Refused):
    """The key is missing, wrong, revoked, or not for this route, user or origin."""


class TooMany(NearlineError):
    """Nothing was done, because too much is asked; *retry_after_s* says when to come again."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(NearlineError):
    """The service, or the log behind it, is away. With *was_sent* false, nothing has left this process."""

    def __init__(self, message: str, *, was_sent: bool = True, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.was_sent = was_sent
        self.retry_after_s = retry_after_s


class UnexpectedAnswer(NearlineError):
    """An answer that no version of the API gives."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class QueueFull(NearlineError):
    """The queue holds as many events as it may; this one was not added."""


def _words(problem: Problem) -> str:
    return f"{problem.field}: {problem.problem}" if problem.field else problem.problem
