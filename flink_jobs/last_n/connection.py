"""The properties of Java's Kafka client in Flink, from the settings that every part uses."""

import os
from collections.abc import Mapping
from pathlib import Path

from nearline.tls import Brokers, Tls

# The connector has Kafka's classes in its own package.
_SECURITY = "org.apache.flink.kafka.shaded.org.apache.kafka.common.security"
_MODULES = {"PLAIN": f"{_SECURITY}.plain.PlainLoginModule"}
_SCRAM = f"{_SECURITY}.scram.ScramLoginModule"


def client_properties(brokers: Brokers, folder: Path) -> dict[str, str]:
    """Java's client properties for *brokers*.

    Java needs our certificate and its key in one file, which is made in *folder*, readable by its owner only. Key files
    are PKCS 8 (``BEGIN PRIVATE KEY``).
    """
    properties = {"bootstrap.servers": brokers.addresses}
    protocol = ("SASL_" if brokers.user else "") + ("SSL" if brokers.tls else "PLAINTEXT")
    if protocol != "PLAINTEXT":
        properties["security.protocol"] = protocol
    if brokers.user:
        properties |= {"sasl.mechanism": brokers.mechanism, "sasl.jaas.config": _login(brokers)}
    if brokers.tls is not None:
        properties |= _stores(brokers.tls, folder)
    return properties


def as_options(properties: Mapping[str, str]) -> str:
    """*properties* as table options in Flink's SQL."""
    return ", ".join(f"'properties.{name}' = '{_quoted(value)}'" for name, value in properties.items())


def _quoted(value: str) -> str:
    return value.replace("'", "''")


def _login(brokers: Brokers) -> str:
    user, password = (text.replace("\\", "\\\\").replace('"', '\\"') for text in (brokers.user, brokers.password))
    module = _MODULES.get(brokers.mechanism, _SCRAM)
    return f'{module} required username="{user}" password="{password}";'


def _stores(tls: Tls, folder: Path) -> dict[str, str]:
    stores: dict[str, str] = {}
    if tls.ca is not None:
        stores |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(tls.ca.absolute())}
    if tls.certificate is not None and tls.key is not None:
        both = folder / "kafka-client.pem"
        folder.mkdir(parents=True, exist_ok=True)
        both.unlink(missing_ok=True)
        with os.fdopen(os.open(both, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(tls.key.read_bytes() + tls.certificate.read_bytes())
        stores |= {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(both.absolute())}
    return stores
