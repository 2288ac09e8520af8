"""Runs work on the current state in a forked process: the event loop is blocked only while it forks.

Copying 100,000 items and their graph would block it for a tenth of a second (hnswlib saves under Python's lock, in
whatever thread). A forked process gets the copy for free: the system copies a page only when it is written.
"""

import asyncio
import gc
import os
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from nearline.errors import Unavailable

_NICE = 10
_MOST_BYTES = 4_096


async def in_fork(work: Callable[[], object], *, deadline_s: float = 60.0) -> float:
    """Run *work* in a forked process and wait for its end; return for how many seconds forking blocked this thread.

    ``Unavailable`` with the error if *work* failed or took longer than *deadline_s*. *work* must not log, use a
    connection or wait for a lock that another thread may hold: the fork has no other threads.
    """
    started = time.perf_counter()
    error_end, child_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about fork with threads: hence the rules above
        child = os.fork()
    if child == 0:
        _run_child(work, child_end)
    held_s = time.perf_counter() - started
    os.close(child_end)
    try:
        status = await _ended(child, started + deadline_s)
        problem = os.read(error_end, _MOST_BYTES).decode(errors="replace")
    finally:
        os.close(error_end)
    if status != 0:
        raise Unavailable(f"the forked process ended with status {status}: {problem or 'no error was reported'}")
    return held_s


async def _ended(child: int, deadline: float) -> int:
    """The exit status of *child*, which is killed at *deadline* or if this call is cancelled."""
    try:
        while time.perf_counter() < deadline:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            await asyncio.sleep(0.02)
    except BaseException:
        _kill(child)
        raise
    return _kill(child)


def _kill(child: int) -> int:
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run_child(work: Callable[[], object], error_end: int) -> NoReturn:
    """Run *work* and exit; all inherited files are closed first, so that none stays open after the parent."""
    status = 1
    try:
        gc.disable()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        for opened in map(int, os.listdir("/dev/fd")):  # a port that the fork kept open could not be bound again
            if opened > 2 and opened != error_end:
                with suppress(OSError):
                    os.close(opened)
        with suppress(OSError):
            os.nice(_NICE)
        work()
        status = 0
    except BaseException as error:
        os.write(error_end, f"{error!r}"[:1_000].encode())
    finally:
        os._exit(status)
