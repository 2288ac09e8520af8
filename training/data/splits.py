"""Splits a log into the events to fit on and the baskets to judge on, by time or by leaving one out.

By time: fit before ``validate_from`` and judge on what follows up to ``test_from``; then refit on all before
``test_from`` and judge on each known user's first basket after it. Leave one out: of each user's baskets the last is
the test, the one before it the validation, the rest is for training; a user of fewer than three trains only.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nearline.dataset_description import LEAVE_ONE_OUT, SplitRule
from nearline.errors import Misconfigured
from training.arrays import Ints
from training.data.examples import Baskets
from training.data.log import Log, chunks

VALIDATION, TEST = "validation", "test"
STAGES = (VALIDATION, TEST)
FOR_EVER_MS = 2**62
_SAMPLE = 4_000_000  # times that a quantile is taken of


@dataclass(frozen=True)
class TimeSplit:
    """Two moments; with *refit* the test's model also sees what validation was judged on."""

    validate_from_ms: int
    test_from_ms: int
    refit: bool = True


@dataclass(frozen=True)
class LeaveOneOut:
    """The last basket of each user; without *refit* (as the papers do) the test's model is that of the validation."""

    refit: bool = False


Split = TimeSplit | LeaveOneOut


def split_by(rule: SplitRule, log: Log) -> Split:
    """The split of *log* that *rule* describes: shares of its events become moments."""
    if rule.kind == LEAVE_ONE_OUT:
        return LeaveOneOut(refit=bool(rule.refit))
    validate_ms, test_ms = _moment(log, rule.validate_from), _moment(log, rule.test_from)
    return TimeSplit(validate_ms, test_ms, refit=rule.refit is not False)


def _moment(log: Log, told: int | float) -> int:
    if isinstance(told, int) or not len(log):
        return int(told)
    return int(np.quantile(log.time_ms[:: 1 + len(log) // _SAMPLE], told, method="higher"))


@dataclass(frozen=True)
class Stage:
    """What one model is fitted on and judged on.

    ``fitted`` marks the events (rows of the log) that the model may know of: counts, popularity and neighbours come
    from these alone. ``fit`` are the examples among them with a history, ``fit_first`` those without one: a user's
    first basket. ``judge`` holds one basket for each judged user; ``judge_all`` every basket of a user with a history
    in the judged window, so it also shows histories that reach into it; ``newcomers`` the first baskets of users that
    the window brings. ``cut_ms`` is ``None`` where no moment parts the two sides.
    """

    name: str
    fitted: NDArray[np.bool_]
    fit: Baskets
    fit_first: Baskets
    judge: Baskets
    judge_all: Baskets
    newcomers: Baskets
    cut_ms: int | None


def stage_of(log: Log, split: Split, name: str) -> Stage:
    """The stage ``validation`` or ``test`` of *split*; ``Misconfigured`` for another name."""
    if name not in STAGES:
        raise Misconfigured(f"a stage is one of {', '.join(STAGES)}, came {name!r:.80}")
    if isinstance(split, TimeSplit):
        return _by_time(log, split, name)
    return _leaving_one_out(log, split, name)


def _by_time(log: Log, split: TimeSplit, name: str) -> Stage:
    cut_ms = split.test_from_ms if name == TEST else split.validate_from_ms
    end_ms = FOR_EVER_MS if name == TEST else split.test_from_ms
    fit_ms = cut_ms if split.refit else split.validate_from_ms
    return Stage(
        name=name,
        fitted=events_before(log, fit_ms),
        fit=baskets(log, before_ms=fit_ms),
        fit_first=newcomers(log, before_ms=fit_ms),
        judge=first_baskets_after(log, from_ms=cut_ms, before_ms=end_ms),
        judge_all=all_baskets_after(log, from_ms=cut_ms, before_ms=end_ms),
        newcomers=newcomers(log, from_ms=cut_ms, before_ms=end_ms),
        cut_ms=cut_ms,
    )


def _leaving_one_out(log: Log, split: LeaveOneOut, name: str) -> Stage:
    parts = leave_one_out(log)
    judge = parts.test if name == TEST else parts.validation
    held = [parts.test] if name == TEST and split.refit else [parts.validation, parts.test]
    every = every_basket(log)
    fit = every.take(~np.isin(every.start, np.concatenate([part.start for part in held])))
    nobody = every.take(np.zeros(0, dtype=np.int64))
    return Stage(
        name=name,
        fitted=_but(log, held),
        fit=fit.take(fit.start > fit.user_start),
        fit_first=fit.take(fit.start == fit.user_start),
        judge=judge,
        judge_all=judge,
        newcomers=nobody,
        cut_ms=None,
    )


def _but(log: Log, held: list[Baskets]) -> NDArray[np.bool_]:
    """All events but those of the *held* baskets."""
    rest = np.ones(len(log), dtype=bool)
    for start, end in _ranges(held):
        rest[start:end] = False
    return rest


def _ranges(held: list[Baskets]) -> Iterator[tuple[int, int]]:
    for part in held:
        yield from zip(part.start.tolist(), part.end.tolist(), strict=True)


def events_before(log: Log, before_ms: int, *, from_ms: int = 0) -> NDArray[np.bool_]:
    """A mask over the log's rows: the events in ``[from_ms, before_ms)``."""
    inside = np.zeros(len(log), dtype=bool)
    for rows in chunks(len(log)):
        inside[rows] = (log.time_ms[rows] >= from_ms) & (log.time_ms[rows] < before_ms)
    return inside


def every_basket(log: Log) -> Baskets:
    """All baskets of the log, in its order."""
    begins = [np.flatnonzero(log.basket_start[rows] == _indices(rows)) + rows.start for rows in chunks(len(log))]
    start = np.concatenate([np.zeros(0, dtype=np.int64), *begins])
    return Baskets(start, np.append(start[1:], len(log))[: len(start)], np.asarray(log.user_start[start]))


def _indices(rows: slice) -> Ints:
    return np.arange(rows.start, rows.stop)


def baskets(log: Log, *, before_ms: int, from_ms: int = 0) -> Baskets:
    """The baskets in ``[from_ms, before_ms)`` whose users have an earlier one."""
    found = _between(log, from_ms, before_ms)
    return found.take(found.user_start < found.start)


def newcomers(log: Log, *, before_ms: int, from_ms: int = 0) -> Baskets:
    """The very first baskets of the users who came in ``[from_ms, before_ms)``: they have no history."""
    found = _between(log, from_ms, before_ms)
    return found.take(found.user_start == found.start)


def _between(log: Log, from_ms: int, before_ms: int) -> Baskets:
    found = every_basket(log)
    time_ms = log.time_ms[found.start]
    return found.take((time_ms >= from_ms) & (time_ms < before_ms))


def first_baskets_after(log: Log, *, from_ms: int, before_ms: int = FOR_EVER_MS) -> Baskets:
    """Each known user's first basket in ``[from_ms, before_ms)``: known means with an event before *from_ms*."""
    found = baskets(log, from_ms=from_ms, before_ms=before_ms)
    known = log.time_ms[found.user_start] < from_ms
    first = np.zeros(len(found), dtype=bool)
    first[np.unique(found.user_start, return_index=True)[1]] = True
    return found.take(known & first)


def all_baskets_after(log: Log, *, from_ms: int, before_ms: int = FOR_EVER_MS) -> Baskets:
    """Every basket in ``[from_ms, before_ms)`` of a user who has an earlier one, be it in that window or before it."""
    return baskets(log, from_ms=from_ms, before_ms=before_ms)


@dataclass(frozen=True)
class LeftOut:
    """Of each user with three baskets or more the last, the one before it, and all that remains with a history."""

    train: Baskets
    validation: Baskets
    test: Baskets


def leave_one_out(log: Log) -> LeftOut:
    """The three parts; a history is what stands earlier in the order, also at the same time."""
    every = every_basket(log)
    first_of = np.searchsorted(every.start, every.user_start)  # index of the user's first basket
    last_of = np.append(np.flatnonzero(np.diff(every.user_start)), len(every) - 1)
    last = last_of[np.searchsorted(last_of, np.arange(len(every)))] if len(every) else first_of
    judged = last - first_of >= 2
    from_end = last - np.arange(len(every))
    train = (~judged | (from_end >= 2)) & (every.start > every.user_start)
    return LeftOut(
        train=every.take(train),
        validation=every.take(judged & (from_end == 1)),
        test=every.take(judged & (from_end == 0)),
    )
