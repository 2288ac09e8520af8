"""What every client of the log shares: its login, its thread, and the meaning of its errors."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from kafka.errors import KafkaError, MessageSizeTooLargeError

from nearline.errors import BadInput, Unavailable
from nearline.tls import Brokers, ssl_context
from nearline.unreachable import unreachable

T = TypeVar("T")
REQUEST_MS = 10_000
_PROBE_S = 0.5
BOOTSTRAP_MS = 3_000  # how long a client looks for a broker before it gives up


def brokers_of(where: Brokers | str) -> Brokers:
    """*where* as ``Brokers``: a plain address means no TLS and no login."""
    return Brokers(where) if isinstance(where, str) else where


def connection(brokers: Brokers) -> dict[str, Any]:
    """The arguments of every kafka-python client: the brokers' addresses, TLS and the login."""
    login: dict[str, Any] = {}
    if brokers.user:
        login = {
            "sasl_mechanism": brokers.mechanism,
            "sasl_plain_username": brokers.user,
            "sasl_plain_password": brokers.password,
        }
    protocol = ("SASL_" if brokers.user else "") + ("SSL" if brokers.tls else "PLAINTEXT")
    secured = {"ssl_context": ssl_context(brokers.tls)} if brokers.tls else {}
    return {"bootstrap_servers": brokers.addresses.split(","), "security_protocol": protocol, **secured, **login}


def open_connection(brokers: Brokers) -> dict[str, Any]:
    """``connection``, for a client that is opened now; ``Unavailable`` at once if every broker refuses connections.

    The client alone would try for ``BOOTSTRAP_MS``.
    """
    refusal = _refusal(brokers)
    if refusal is not None:
        raise unreachable("the log (Kafka)", brokers.addresses, refusal)
    return connection(brokers)


def unavailable(brokers: Brokers, error: Exception) -> Unavailable:
    refused = _refused_handshake(brokers) if brokers.tls else None
    if refused is not None:
        return Unavailable(f"Kafka at {brokers.addresses} is not who it should be, or does not speak TLS: {refused}")
    refusal = _refusal(brokers)
    if refusal is not None:
        return unreachable("the log (Kafka)", brokers.addresses, refusal)
    hint = "is it still starting?" + ("" if brokers.tls else " Does it want TLS?")
    hint += f" Does it know user {brokers.user!r} with this password, by {brokers.mechanism}?" if brokers.user else ""
    return unreachable("the log (Kafka)", brokers.addresses, error, hint)


def _refusal(brokers: Brokers) -> OSError | None:
    """The refusal if every broker refuses connections, so that none runs; else ``None``."""
    refusal: OSError | None = None
    for address in brokers.addresses.split(","):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_S).close()
            return None
        except ConnectionRefusedError as error:
            refusal = error
        except (OSError, ValueError):
            return None  # slow, or not found: the client says more
    return refusal


def _refused_handshake(brokers: Brokers) -> str | None:
    """Why TLS fails with the first broker, which kafka-python does not report; ``None`` if it works or is not used."""
    assert brokers.tls is not None
    host, _, port = brokers.addresses.split(",")[0].rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=BOOTSTRAP_MS / 1000) as plain,
            ssl_context(brokers.tls).wrap_socket(plain, server_hostname=host),
        ):
            return None
    except ssl.SSLError as error:
        return str(error)[:200]
    except OSError:
        return None


class LogClient:
    """One kafka-python client and the only thread that uses it."""

    def __init__(self, log: Brokers | str) -> None:
        self._brokers = brokers_of(log)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka")

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, function, *args)
        except MessageSizeTooLargeError as error:
            raise BadInput("too_large", f"the record is too large for the log: {error}") from None
        except KafkaError as error:
            raise unavailable(self._brokers, error) from None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect; ``Unavailable`` when no broker answers."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close the connection and end its thread; safe to call twice."""
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
