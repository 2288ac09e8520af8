"""Finds out which TCP ports of this machine are free or in use."""

import os
import random
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

HOST = "127.0.0.1"
# Below Linux' range of ports for outgoing connections, so that none of those takes one meanwhile.
_CANDIDATES = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Whether a server could listen on *port* now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_ports(count: int) -> list[int]:
    """*count* different ports that are free at this moment."""
    ports: list[int] = []
    with ExitStack() as held:
        for port in random.SystemRandom().sample(_CANDIDATES, len(_CANDIDATES)):
            if len(ports) == count:
                return ports
            probe = held.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind((HOST, port))
                ports.append(port)
    raise OSError(f"fewer than {count} free ports between {_CANDIDATES.start} and {_CANDIDATES.stop}")


def answers(port: int, timeout_s: float = 0.5) -> bool:
    """Whether a server accepts connections on *port*."""
    with suppress(OSError), socket.create_connection((HOST, port), timeout=timeout_s):
        return True
    return False


def holder(port: int) -> str:
    """The process that listens on *port*: `pid 12 (name)`, or `another user's process` if Linux does not show it."""
    inodes = _listening_inodes(port)
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(os.readlink(fd) in inodes for fd in (process / "fd").iterdir()):
                return f"pid {process.name} ({(process / 'comm').read_text().strip()})"
    return "another user's process"


def _listening_inodes(port: int) -> set[str]:
    listening = "0A"
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for row in map(str.split, Path(table).read_text().splitlines()[1:]):
                if row[3] == listening and int(row[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{row[9]}]")
    return inodes
