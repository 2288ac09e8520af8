"""A low-priority thread for long work on rows that do not change."""

import asyncio
import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_NICE = 5  # a third of a busy core: at 10 a build starves, and until it is done searches scan all rows


class Background:
    """One thread of low priority, started with its first work."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name, initializer=_yield_to_requests)

    async def run(self, work: Callable[[], T]) -> T:
        """The result of *work*, which the thread runs after earlier work."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Wait for the work under way and end the thread."""
        self._thread.shutdown()


def give_back() -> None:
    """Return freed memory to the system, if the C library can: a replaced graph leaves many free pages."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _yield_to_requests() -> None:
    """Give this thread a lower priority than the event loop's (Linux has one per thread)."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
