"""Certificates, and a real broker that wants them."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from local.broker import BrokerFiles, prepare
from local.broker_ready import is_ready
from local.ports import HOST, free_ports
from local.processes import wait_until


class Authority:
    """Signs certificates; its own is *ca*."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._key = generate_private_key(65_537, 2_048)
        self._subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.ca = self._write(f"{name}.pem", self._sign(self._subject, self._key, is_ca=True))

    def issue(self, name: str) -> tuple[Path, Path]:
        """The files of a certificate for 127.0.0.1 and of its key."""
        key = generate_private_key(65_537, 2_048)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return self._write(f"{name}.pem", self._sign(subject, key)), self._write(f"{name}.key", secret)

    def _sign(self, subject: x509.Name, key: RSAPrivateKey, *, is_ca: bool = False) -> bytes:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder(self._subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), critical=False)
        )
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def _write(self, name: str, content: bytes) -> Path:
        file = self._folder / name
        file.write_bytes(content)
        return file


@contextmanager
def secured_broker(data: Path, authority: Authority) -> Iterator[tuple[str, str]]:
    """A real broker: the address where it asks clients for a certificate, and the one where it asks for a login.

    Both speak TLS; the login is user ``shop`` with password ``open-it``, by PLAIN.
    """
    certificate, key = authority.issue("broker")
    both = certificate.with_name("broker-both.pem")
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    plain, secured, login, controller = free_ports(4)
    command = prepare(data, plain, controller)
    outside = f"TLS://{HOST}:{secured},LOGIN://{HOST}:{login}"
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    settings = {
        "listeners": f"PLAINTEXT://{HOST}:{plain},{outside},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{plain},{outside}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,TLS:SSL,LOGIN:SASL_SSL,CONTROLLER:PLAINTEXT",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": both,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": authority.ca,
        "listener.name.tls.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.login.plain.sasl.jaas.config": f'{module} required user_shop="open-it";',
    }
    with BrokerFiles(data).properties.open("a") as properties:
        properties.writelines(f"{name}={value}\n" for name, value in settings.items())
    with (data / "out").open("ab") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            assert wait_until(lambda: is_ready(plain), 60), (data / "out").read_text()[-2_000:]
            yield f"{HOST}:{secured}", f"{HOST}:{login}"
        finally:
            process.kill()
