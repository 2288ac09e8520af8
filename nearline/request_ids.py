"""The id of an HTTP request: the caller's, if it is safe for logs and headers, else a new one."""

import secrets
from collections.abc import Iterable

HEADER = b"x-request-id"
_LONGEST = 128


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The caller's ``X-Request-ID`` if it has 1-128 printable ASCII characters, else a new one."""
    given = next((value for name, value in headers if name == HEADER), b"")
    text = bytes(given).decode("latin-1")
    return text if 0 < len(text) <= _LONGEST and text.isascii() and text.isprintable() else secrets.token_hex(8)
