"""TLS and logins for connections to other servers."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from nearline.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS that checks the server's certificate against *ca*, or this machine's CAs if that is ``None``.

    *certificate* and *key*, in PEM, are the client's own, for servers that require one.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Brokers:
    """The log's addresses (host:port, comma separated), TLS and login; without both, a plain connection."""

    addresses: str
    tls: Tls | None = None
    user: str = ""
    password: str = field(default="", repr=False)
    mechanism: str = "SCRAM-SHA-512"


def tls_of(part: str, wanted: bool, ca: Path | None, certificate: Path | None, key: Path | None) -> Tls | None:
    """TLS for *part* by its settings, ``None`` for none; ``Misconfigured`` if a file or one of a pair is missing."""
    if not (wanted or ca or certificate or key):
        return None
    if (certificate is None) != (key is None):
        raise Misconfigured(
            f"NEARLINE_{part}_CERTIFICATE and NEARLINE_{part}_PRIVATE_KEY belong together: one is missing"
        )
    for name, file in (("CA", ca), ("CERTIFICATE", certificate), ("PRIVATE_KEY", key)):
        if file is not None and not file.is_file():
            raise Misconfigured(f"NEARLINE_{part}_{name}={str(file)!r}: expected a file in PEM, there is none")
    return Tls(ca, certificate, key)


def ssl_context(tls: Tls) -> ssl.SSLContext:
    """Python's SSL context for *tls*; ``Misconfigured`` if a file is invalid."""
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.key)
    except (ssl.SSLError, OSError) as error:
        raise Misconfigured(f"cannot use the certificates of {tls}: {error}") from None
    return context
