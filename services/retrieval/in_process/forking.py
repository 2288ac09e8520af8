"""Work on the state of this moment, in a process of its own: the served thread is held only while it forks.

A copy of 100,000 items and their graph would hold it for a tenth of a second (hnswlib saves under Python's lock,
whatever thread it runs in). A forked process has that copy for free: the system copies a page only when it is written.
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
_MOST_ANSWER = 4_096


async def in_fork(work: Callable[[], object], *, deadline_s: float = 60.0) -> float:
    """Run *work* in a forked process and wait for its end; return for how many seconds forking held this thread.

    ``Unavailable`` with its words if it failed or took longer than *deadline_s*. *work* must not log, use a connection
    or wait for a lock that another thread may hold: in the fork there is no other thread.
    """
    started = time.perf_counter()
    answer, asked = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork: hence the rules above
        child = os.fork()
    if child == 0:
        _be_child(work, asked)
    held_s = time.perf_counter() - started
    os.close(asked)
    try:
        status = await _ended(child, started + deadline_s)
        words = os.read(answer, _MOST_ANSWER).decode(errors="replace")
    finally:
        os.close(answer)
    if status != 0:
        raise Unavailable(f"the forked process ended with status {status}: {words or 'without a word'}")
    return held_s


async def _ended(child: int, deadline: float) -> int:
    """The exit status of *child*, which is killed if it is late or if nobody waits for it any more."""
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


def _be_child(work: Callable[[], object], asked: int) -> NoReturn:
    """Do *work* and leave at once; nothing that the parent opened may be used, or kept open beyond its life."""
    status = 1
    try:
        gc.disable()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        for opened in map(int, os.listdir("/dev/fd")):  # a port that the fork held open could not be bound again
            if opened > 2 and opened != asked:
                with suppress(OSError):
                    os.close(opened)
        with suppress(OSError):
            os.nice(_NICE)
        work()
        status = 0
    except BaseException as error:
        os.write(asked, f"{error!r}"[:1_000].encode())
    finally:
        os._exit(status)
