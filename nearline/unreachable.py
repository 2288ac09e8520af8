"""The one message for a part that does not answer: its name, its address, why, and what to do."""

import socket

from nearline.errors import Unavailable

_LOOPBACK = ("127.", "localhost", "::1")


def unreachable(part: str, address: str, error: Exception, hint: str = "") -> Unavailable:
    """The error of *part* at *address*, for which *error* was raised; *hint* replaces what to do."""
    mend = hint or ("`make up` starts the system" if is_here(address) else "is it running, and is this its address?")
    return Unavailable(f"{part} at {address} does not answer ({why(error)}); {mend}")


def is_here(address: str) -> bool:
    """Whether *address* (a URL, or host and port, or several of these) is of this machine alone."""
    hosts = [one.rpartition("//")[2].strip("[") for one in address.split(",")]
    return all(host.startswith(_LOOPBACK) for host in hosts)


def why(error: BaseException) -> str:
    """What *error* means, without the name of its class where that says nothing to people."""
    said, kind = str(error), type(error).__name__
    if isinstance(error, ConnectionRefusedError) or "refused" in said:
        return "connection refused"
    if isinstance(error, TimeoutError) or "Timeout" in kind or "timed out" in said:
        return "no answer in time"
    if isinstance(error, socket.gaierror) or "Name or service not known" in said or "getaddrinfo" in said:
        return "no such host"
    return " ".join(said.split())[:120] or kind
