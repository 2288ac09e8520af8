"""A thread for what takes long and reads only rows that do not change; it yields to the requests."""

import asyncio
import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_NICE = 5  # a third of a busy core: at 10 a build starves, and a scan serves until it is done


class Background:
    """One thread of low priority, started with its first work."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name, initializer=_yield_to_requests)

    async def run(self, work: Callable[[], T]) -> T:
        """The result of *work*, done in the thread after what it was given before."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Wait for the work under way and end the thread."""
        self._thread.shutdown()


def give_back() -> None:
    """Give freed memory back to the system, where the C library can: what a graph was made of lies about in pages."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _yield_to_requests() -> None:
    """Give this thread a lower priority than the event loop's (Linux keeps one for each thread)."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
