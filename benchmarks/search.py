"""The highest rate that still passes, found by few trials."""

from collections.abc import Callable


def highest_passing(
    passes: Callable[[float], bool],
    *,
    first: float,
    factor: float = 1.6,
    precision: float = 0.1,
    most_trials: int = 12,
) -> float | None:
    """The highest rate found for which *passes* is true, to within *precision* (a share), or ``None`` if none is.

    Starts at *first*, goes up (or down) by *factor* until the answer turns, then halves what is between; a trial is
    taken at its word, so *passes* should be patient.
    """
    good: float | None = None
    bad: float | None = None
    rate = first
    for _ in range(most_trials):
        if passes(rate):
            good = rate
        else:
            bad = rate
        if good is not None and bad is not None:
            if bad <= good * (1 + precision):
                break
            rate = (good + bad) / 2
        elif bad is None:
            rate *= factor
        else:
            rate /= factor
    return good
