"""Which TCP ports of this machine are free, held or answered."""

import random
import socket
from contextlib import ExitStack, suppress

HOST = "127.0.0.1"
# Below the range from which Linux picks the ports of outgoing connections, so that none of those takes one meanwhile.
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
    """*count* different ports that nobody holds at this moment."""
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
    """Whether somebody accepts connections on *port*."""
    with suppress(OSError), socket.create_connection((HOST, port), timeout=timeout_s):
        return True
    return False
