"""The sockets on which processes listen, by Linux."""

from collections.abc import Iterable

import psutil

Listener = tuple[str, int]  # address, port


def listeners(pids: Iterable[int]) -> set[Listener]:
    """Where the processes *pids* listen for TCP; an IPv4 address that IPv6 carries is given as IPv4."""
    found: set[Listener] = set()
    for pid in pids:
        connections = psutil.Process(pid).net_connections(kind="tcp")
        listening = [each.laddr for each in connections if each.status == psutil.CONN_LISTEN]
        found |= {(address.ip.removeprefix("::ffff:"), address.port) for address in listening}
    return found


def beyond_loopback(found: Iterable[Listener]) -> set[Listener]:
    """Those that another machine can reach."""
    return {(address, port) for address, port in found if address not in ("127.0.0.1", "::1")}
