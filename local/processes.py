"""Finds the processes of one running system by a mark in their environment, not by their names.

Every process that the supervisor starts inherits the mark, so grandchildren are found too, no other process is, and no
file of process ids can be stale.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

MARK = "NEARLINESYSTEM"  # without the underscore: NEARLINE_* are settings, and unknown settings are refused


def mark(data: Path) -> dict[str, str]:
    """The variable that marks a process as one of the system in folder *data*."""
    return {MARK: str(data)}


def processes_of(data: Path) -> list[int]:
    """The ids of all running processes of the system in folder *data*, except this process."""
    wanted = f"{MARK}={data}".encode()
    return [pid for pid in _all_pids() if pid != os.getpid() and wanted in _environment(pid)]


def describe(pid: int) -> str:
    """The start of a process's command line, for messages."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"pid {pid} ({words.strip()[:80]})"
    return f"pid {pid}"


def end_all(data: Path, deadline_s: float) -> list[int]:
    """Terminate every process of the system, kill those that do not end, and return the killed ones."""
    for pid in processes_of(data):
        _signal(pid, signal.SIGTERM)
    if wait_until(lambda: not processes_of(data), deadline_s):
        return []
    forced = processes_of(data)
    for pid in forced:
        _signal(pid, signal.SIGKILL)
    wait_until(lambda: not processes_of(data), 5.0)
    return forced


def wait_until(condition: Callable[[], bool], deadline_s: float, *, pause_s: float = 0.05) -> bool:
    """Wait for *condition*; return whether it became true within *deadline_s*."""
    give_up = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(pause_s)
    return True


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _all_pids() -> list[int]:
    proc = Path("/proc")
    return [int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()] if proc.is_dir() else []


def _environment(pid: int) -> list[bytes]:
    # Zombies and other users' processes read as nothing.
    with suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return []
