"""Asks a Kafka broker whether it is ready, with one small request.

    python -S -m local.broker_ready HOST PORT      exit 0 when the broker there is ready (the container's health check)

Standard library only, and little of it: a check by Kafka's own tools starts a JVM, which costs 2.4 s of processor time.
"""

import socket
import struct
import sys

from local.ports import HOST


def is_ready(port: int, timeout_s: float = 1.0, *, host: str = HOST) -> bool:
    """Whether the broker on *port* answers a metadata request that lists itself."""
    # A connection alone is not enough: the port is open some seconds before the broker is registered (unfenced).
    # Metadata v1: api key 3, version 1, correlation 1, no client id, no topics.
    request = struct.pack(">hhihi", 3, 1, 1, -1, 0)
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            connection.settimeout(timeout_s)
            size = struct.unpack(">i", _receive(connection, 4))[0]
            _, brokers = struct.unpack(">ii", _receive(connection, size)[:8])
    except (OSError, struct.error):
        return False
    return bool(brokers > 0)


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise OSError(f"the connection closed after {len(received)} of {size} bytes")
        received += part
    return received


if __name__ == "__main__":
    where, at = sys.argv[1], int(sys.argv[2])
    sys.exit(None if is_ready(at, 5.0, host=where) else f"the broker on {where}:{at} is not ready")
