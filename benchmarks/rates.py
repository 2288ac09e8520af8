"""Finds the highest rate of requests with p99 within a bound: sought in short runs, confirmed by a long one."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.load import Result, open_loop
from benchmarks.search import highest_passing
from benchmarks.stage import LoadedSystem
from nearline.errors import Unavailable

Trials = dict[float, list[Result]]
RunAtRate = Callable[[float, float], Result]  # (requests a second, seconds)

_TRIES = 2
_KEPT_UP = 0.97  # of the offered rate: less was answered is not that rate
_CONFIRMATIONS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)  # of the rate found in short runs


def figures(
    stage: LoadedSystem, what: str, url: str, requests: Sequence[bytes], bounds_ms: tuple[float, float], *, first: float
) -> dict[str, Any]:
    """The highest rates of *requests* to *url*'s server with p99 within each of *bounds_ms* (must, goal)."""

    def run(rate: float, seconds: float) -> Result:
        stage.say(f"{rate:,.0f} {what}/s for {seconds:g} s")
        return answered(open_loop(url, requests, rate, seconds))

    trials: Trials = {}
    must, goal = (
        highest_within(run, bound, trials, first=first, short_s=stage.scale.read_s, long_s=stage.scale.confirm_s)
        for bound in bounds_ms
    )
    return {
        "rps": round(must.achieved_rps) if must else 0,
        "p99_ms": round(must.p99_ms, 2) if must else None,
        "p50_ms": round(must.p50_ms, 2) if must else None,
        "generator_cpu": round(must.load_cpu, 2) if must else None,
        "generator_late_p99_ms": round(must.late_p99_ms, 2) if must else None,
        "rps_at_goal": round(goal.achieved_rps) if goal else 0,
        "p99_ms_at_goal": round(goal.p99_ms, 2) if goal else None,
        "trials_p99_ms": {str(rate): [round(one.p99_ms, 2) for one in trials[rate]] for rate in sorted(trials)},
    }


def answered(result: Result) -> Result:
    """*result* itself; ``Unavailable`` with the first error if nothing was answered at all."""
    if result.errors and not result.answered:
        raise Unavailable(f"{result.errors} requests, and none was answered; the first: {result.first_error}")
    return result


def highest_within(
    run: RunAtRate, bound_ms: float, trials: Trials, *, first: float, short_s: float, long_s: float
) -> Result | None:
    """The run at the highest open-loop rate with p99 within the bound, confirmed by a longer one.

    *trials* has the short runs by rate, and gets those that are made; nothing that it has is run again.
    """

    def passes(rate: float) -> bool:
        rate = round(rate)
        tried = trials.setdefault(rate, [])
        # One pause of the machine fails a short run: a rate is too high when it fails twice. The long run decides.
        while len(tried) < _TRIES and not any(is_within(one, bound_ms) for one in tried):
            tried.append(run(rate, short_s))
        return any(is_within(one, bound_ms) for one in tried)

    rate = highest_passing(passes, first=first, most_trials=8) or 0.0
    for share in _CONFIRMATIONS if rate else ():
        confirmed = run(rate * share, long_s)
        if is_within(confirmed, bound_ms):
            return confirmed
    return None


def is_within(result: Result, bound_ms: float) -> bool:
    """Whether the server kept up: everything answered in full, nothing refused, p99 within the bound."""
    in_full = not (result.errors or result.refused or result.degraded)
    return in_full and result.achieved_rps >= _KEPT_UP * result.wanted_rps and result.p99_ms <= bound_ms
