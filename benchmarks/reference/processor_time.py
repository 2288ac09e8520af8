"""Processor time of processes with all that they started, from ``/proc/<pid>/stat``.

Linux counts in hundredths of a second there, of all threads, those that ended too. It is what a process computed, not
how long that took: on a machine that others use as well it moves far less than any latency does.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nearline.errors import Unavailable

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Stat:
    """What is read of one process: its parent and the seconds that it computed, with its children that have ended."""

    parent: int
    used_s: float


def parsed(line: str) -> Stat:
    """The content of a ``stat`` file; the name of the program, in brackets, may hold spaces and brackets."""
    fields = line.rpartition(")")[2].split()
    # man 5 proc: state ppid … utime stime cutime cstime are the fields 3, 4, 14 to 17; the first one here is number 3.
    return Stat(int(fields[1]), sum(map(int, fields[11:15])) / _TICKS_PER_S)


def read_all() -> dict[int, Stat]:
    """Every process of this machine, by its id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            found[int(folder.name)] = parsed((folder / "stat").read_text())
    return found


def used_s(roots: Mapping[str, int]) -> dict[str, float]:
    """Seconds that each process in *roots* (id by name) and all its descendants have computed since they started."""
    stats = read_all()
    missing = [name for name, pid in roots.items() if pid not in stats]
    if missing:
        raise Unavailable(f"{', '.join(missing)} ended while it was measured")
    return {name: _of_family(pid, stats) for name, pid in roots.items()}


def _of_family(root: int, stats: Mapping[int, Stat]) -> float:
    children = [pid for pid, stat in stats.items() if stat.parent == root]
    return stats[root].used_s + sum(_of_family(child, stats) for child in children)
