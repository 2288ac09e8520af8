"""Measures how much of the machine other programs used during a measurement."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import psutil


def watch() -> Callable[[], float]:
    """Start watching; the returned function gives the mean number of cores that others have used since."""
    started, busy, ours = time.monotonic(), _busy_s(), _ours_s()

    def others() -> float:
        took = time.monotonic() - started
        return round(max(0.0, (_busy_s() - busy) - (_ours_s() - ours)) / max(took, 1e-3), 2)

    return others


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def _ours_s() -> float:
    """Processor time of this process and of everything below it, with what has ended and was waited for."""
    return sum(_of(process) for process in _family())


def _family() -> Iterator[psutil.Process]:
    me = psutil.Process()
    yield me
    yield from me.children(recursive=True)


def _of(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0
