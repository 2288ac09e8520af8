"""Errors sorted by what the caller should do.

NearlineError
├── BadInput         an input is invalid: dead-letter it, count it, go on
├── BadAnswer        a dependency's answer is invalid: bisect, retry, dead-letter; the old vector stays
├── Unavailable      a dependency is down: retry within the deadline, then degrade and say so
├── Overloaded       this process has too much to do: refuse now, the caller retries
└── Misconfigured    two parts disagree and no retry helps: refuse to start
    └── SpaceMismatch    a vector, document or model of another embedding space or dimension

Every message says what came, what was expected and, if there is one, the next step.
"""


class NearlineError(Exception):
    """The base of every error that Nearline raises itself."""


class BadInput(NearlineError):
    """An input that can never be accepted; *reason* is a short code for counters, the message gives details.

    *field* is the field that the message is about, empty if it is about the whole input.
    """

    def __init__(self, reason: str, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field


class BadAnswer(NearlineError):
    """A dependency's answer is invalid (wrong size, NaN, no unit norm)."""


class Unavailable(NearlineError):
    """A dependency did not answer; the same call may succeed later."""


class Overloaded(NearlineError):
    """This process is at its limit; the same call may succeed in a moment."""


class Misconfigured(NearlineError):
    """Two parts disagree, and retrying cannot help."""


class SpaceMismatch(Misconfigured):
    """Something has another embedding space or dimension than this process serves."""
