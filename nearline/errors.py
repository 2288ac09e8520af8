"""Errors sorted by what the caller should do.

NearlineError
├── BadInput         someone sent nonsense: dead-letter it, count it, go on
├── BadAnswer        a dependency answered nonsense: bisect, retry, dead-letter; the old vector stays
├── Unavailable      a dependency is away: retry within the deadline, then degrade and say so
├── Overloaded       more is asked than this process takes on at once: refuse it now, the caller comes again
└── Misconfigured    two parts disagree for good: refuse to start
    └── SpaceMismatch    a vector, document or model of another embedding space or dimension

Every message carries what came, what was expected and, where there is one, the next step.
"""


class NearlineError(Exception):
    """The root of every error that Nearline raises on purpose."""


class BadInput(NearlineError):
    """An input that can never be accepted; *reason* is a short code to count by, the message says more.

    *field* is the field that the message is about, empty when it is about the input as a whole.
    """

    def __init__(self, reason: str, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field


class BadAnswer(NearlineError):
    """A dependency answered, but the answer cannot be true (wrong size, NaN, no unit norm)."""


class Unavailable(NearlineError):
    """A dependency did not answer; the same call may succeed later."""


class Overloaded(NearlineError):
    """This process has taken on as much as it may; the same call may succeed in a moment."""


class Misconfigured(NearlineError):
    """Two parts disagree in a way that retrying cannot mend."""


class SpaceMismatch(Misconfigured):
    """Something belongs to another embedding space, or has another dimension, than this process serves."""
