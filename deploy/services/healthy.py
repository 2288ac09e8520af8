"""A container's health check without curl: exit 0 when a URL answers 200 within eight seconds.

    python -IS /app/deploy/services/healthy.py http://127.0.0.1:8080/readyz

Standard library only, so that every image with a Python can use it, and of that only the sockets: each container runs
it for ever, and Python's HTTP client takes three times the processor time of this program.
"""

import socket
import sys

TIMEOUT_S = 8.0  # the wait for a busy machine; a check that passes its deadline makes a working part unhealthy
_SHOWN = 500


def problem_of(url: str) -> str | None:
    """What is wrong with the answer of *url* (plain HTTP), or ``None`` when it is 200."""
    address, _, path = url.removeprefix("http://").partition("/")
    host, _, port = address.partition(":")
    try:
        with socket.create_connection((host, int(port or 80)), timeout=TIMEOUT_S) as connection:
            connection.sendall(f"GET /{path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
            head, _, body = _all_of(connection).partition(b"\r\n\r\n")
    except OSError as unreachable:
        return f"{url}: {unreachable}"
    _, _, status = head.partition(b"\r\n")[0].decode(errors="replace").partition(" ")
    return None if status.startswith("200") else f"{url}: {status} {body[:_SHOWN].decode(errors='replace')}"


def _all_of(connection: socket.socket) -> bytes:
    """Everything that the other side sends; of a long answer the beginning."""
    received = b""
    while len(received) < 16_384 and (part := connection.recv(16_384)):
        received += part
    return received


if __name__ == "__main__":
    sys.exit(problem_of(sys.argv[1]))
