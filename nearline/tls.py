"""How a connection to another server is secured: files of certificates, and who one is there."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from nearline.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS with the server's certificate checked: against *ca*, or what this machine trusts if that is ``None``.

    *certificate* and *key* are the client's own, in PEM, where the server wants to know it that way.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Brokers:
    """Where the log is (host:port, comma separated) and how one gets in; without TLS and user, in the clear."""

    addresses: str
    tls: Tls | None = None
    user: str = ""
    password: str = field(default="", repr=False)
    mechanism: str = "SCRAM-SHA-512"


def tls_of(part: str, wanted: bool, ca: Path | None, certificate: Path | None, key: Path | None) -> Tls | None:
    """TLS for *part* as its settings say, ``None`` for none; ``Misconfigured`` if files are missing or halves."""
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
    """Python's own form of *tls*; ``Misconfigured`` if a file is not what it should be."""
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.key)
    except (ssl.SSLError, OSError) as error:
        raise Misconfigured(f"cannot use the certificates of {tls}: {error}") from None
    return context
