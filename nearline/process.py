"""Starts and stops a long-running part, and waits for its dependencies."""

import asyncio
import contextlib
import gc
import resource
import signal
import sys
from collections.abc import Awaitable, Callable

from nearline.errors import Misconfigured, NearlineError, Unavailable
from nearline.log import Record
from nearline.settings import Settings, load_settings
from nearline.telemetry import configure_logs, get_logger

RETRY_S = 0.5


def run_part(name: str, main: Callable[[Settings], Awaitable[None]]) -> None:
    """Run *main* until it ends or SIGTERM/SIGINT cancels it, and exit.

    Exit status: 0 after a signal, 2 if a setting or another part is misconfigured (one line says which), 1 if a
    dependency was still down at its deadline; a supervisor then restarts the part.
    """
    try:
        settings = load_settings()
        configure_logs(name, **settings.log_options)
        raise_open_files()
        asyncio.run(_until_signalled(main(settings)))
    except Misconfigured as error:
        sys.exit(_say(name, error, 2))
    except NearlineError as error:
        sys.exit(_say(name, error, 1))


def raise_open_files() -> None:
    """Allow this process as many open files, and so connections, as its hard limit; the usual soft one is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a system that allows fewer than its own hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _say(name: str, error: NearlineError, status: int) -> int:
    print(f"{name}: {error}", file=sys.stderr)
    return status


async def _until_signalled(work: Awaitable[None]) -> None:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        get_logger().info("stopped")
    except BaseExceptionGroup as group:
        raise _most_telling(group) from group


def _most_telling(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Our own error in an exception group, if there is one, since its message helps the operator; else any."""
    ours = group.subgroup(NearlineError)
    while ours is not None and isinstance(ours.exceptions[0], BaseExceptionGroup):
        ours = ours.exceptions[0]
    return ours.exceptions[0] if ours is not None else group


async def open_within(deadline_s: float, what: str, open_it: Callable[[], Awaitable[None]]) -> None:
    """Await ``open_it()`` until it stops raising ``Unavailable``; raise the last one when the deadline passes."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while True:
        try:
            await open_it()
            return
        except Unavailable as error:
            if loop.time() > end:
                raise Unavailable(f"waited {deadline_s:g} s for {what}: {error}") from None
            get_logger().info("waiting", what=what, reason=str(error))
        await asyncio.sleep(RETRY_S)


async def follow(poll: Callable[[], Awaitable[list[Record]]], apply: Callable[[list[Record]], object]) -> None:
    """Pass every polled batch to *apply*, for ever; if the log is down, poll again."""
    while True:
        try:
            records = await poll()
        except Unavailable as error:
            get_logger().warning("log away", reason=str(error))
            await asyncio.sleep(RETRY_S)
            continue
        if records:
            apply(records)


def settle_memory() -> None:
    """Exclude all current objects from garbage collection, and collect less often.

    A full collection over 100,000 items pauses answers for 0.1 s. A collection now comes after 50,000 new objects, not
    after 700, which a part under load allocates in a few milliseconds.
    """
    gc.set_threshold(50_000, 20, 100)
    gc.collect()
    gc.freeze()


async def until(condition: Callable[[], bool], *, every_s: float = 0.02) -> None:
    """Return once *condition* holds."""
    while not condition():
        await asyncio.sleep(every_s)
