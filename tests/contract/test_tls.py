"""TLS to the servers: mistakes are refused with a clear message, and right settings reach a real broker."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from local.ports import HOST
from nearline.adapters.couchbase import CouchbaseStore
from nearline.adapters.kafka.admin import Topics
from nearline.adapters.kafka.client import connection
from nearline.adapters.kafka.producer import Producer
from nearline.adapters.kafka.table_reader import TableReader
from nearline.adapters.stores import store_for
from nearline.adapters.triton import TritonTowers
from nearline.errors import Misconfigured, Unavailable
from nearline.settings import load_settings
from nearline.space import Space
from nearline.tls import Brokers, Tls
from nearline.topics import Topic
from tests.support.secured import Authority, secured_broker

SPACE = Space(1, 8)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "stranger")


@contextmanager
def listener(certificate: tuple[Path, Path]) -> Iterator[int]:
    """The port of a server that makes TLS handshakes for HTTP/2 and then hangs up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.set_alpn_protocols(["h2"])
    with socket.create_server((HOST, 0)) as server:
        ending = threading.Event()

        def serve() -> None:
            while True:
                plain, _ = server.accept()
                with plain:
                    if ending.is_set():
                        return
                    with suppress(OSError), context.wrap_socket(plain, server_side=True):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        try:
            yield port
        finally:
            ending.set()
            socket.create_connection((HOST, port)).close()
            thread.join(10)


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[tuple[str, str]]:
    with secured_broker(tmp_path_factory.mktemp("tls"), authority) as both:
        yield both


@pytest.fixture
def tls_broker(addresses: tuple[str, str]) -> str:
    """Asks clients for a certificate."""
    return addresses[0]


@pytest.fixture
def login_broker(addresses: tuple[str, str]) -> str:
    """Asks clients for a login."""
    return addresses[1]


def test_a_broker_that_wants_certificates_gets_them(tls_broker: str, authority: Authority) -> None:
    log = Brokers(tls_broker, Tls(authority.ca, *authority.issue("client")))
    topics = Topics(log)
    topics.ensure([Topic("secured", 1)])
    topics.close()

    async def main() -> None:
        async with Producer(log) as producer, TableReader(log, "secured") as reader:
            await producer.send_all("secured", [(b"k", b"v")])
            async with asyncio.timeout(30):
                while not (records := await reader.poll()):
                    pass
        assert records[0].value == b"v"

    asyncio.run(main())


def test_a_broker_that_wants_a_login_lets_in_who_has_it(login_broker: str, authority: Authority) -> None:
    topics = Topics(Brokers(login_broker, Tls(authority.ca), "shop", "open-it", "PLAIN"))
    assert topics.names() is not None
    topics.close()
    with pytest.raises(Unavailable, match=r"Does it know user 'shop' with this password, by PLAIN\?") as refused:
        Topics(Brokers(login_broker, Tls(authority.ca), "shop", "let-me-in", "PLAIN"))
    assert "let-me-in" not in str(refused.value)


def test_a_broker_of_a_strange_authority_is_named_as_such(tls_broker: str, stranger: Authority) -> None:
    with pytest.raises(Unavailable, match=r"is not who it should be.*certificate verify failed"):
        Topics(Brokers(tls_broker, Tls(stranger.ca)))


def test_a_client_in_the_clear_is_told_to_think_of_tls(tls_broker: str) -> None:
    with pytest.raises(Unavailable, match=r"does not answer.*Does it want TLS\?"):
        Topics(Brokers(tls_broker))


def test_a_server_that_speaks_no_tls_is_named_as_such(broker: str, authority: Authority) -> None:
    with pytest.raises(Unavailable, match="does not speak TLS"):
        Topics(Brokers(broker, Tls(authority.ca)))


@pytest.mark.parametrize("trusted", [True, False])
def test_triton_is_asked_over_tls_and_a_strange_one_is_refused(
    authority: Authority, stranger: Authority, trusted: bool
) -> None:
    """The listener is no Triton: with the right authority the handshake is done, and what follows it is what fails."""
    ca = authority.ca if trusted else stranger.ca

    async def opened(port: int) -> str:
        towers = TritonTowers(f"{HOST}:{port}", SPACE, timeout_ms=2_000, tls=Tls(ca))
        try:
            with pytest.raises(Unavailable) as refused:
                await towers.open()
            return str(refused.value)
        finally:
            await towers.close()

    with listener(authority.issue("triton")) as port:
        said = asyncio.run(opened(port))
    assert ("CERTIFICATE_VERIFY_FAILED" in said.upper().replace(" ", "_")) == (not trusted), said


def test_couchbase_gets_the_files_and_wants_them_only_over_tls(authority: Authority) -> None:
    certificate, key = authority.issue("store")
    url = "couchbases://u:p@127.0.0.1/b"
    by_password = CouchbaseStore(url, SPACE, ttl_ms=1, read_ms=1, tls=Tls(authority.ca))
    assert by_password._login.as_dict()["trust_store_path"] == str(authority.ca)
    by_certificate = CouchbaseStore(url, SPACE, ttl_ms=1, read_ms=1, tls=Tls(authority.ca, certificate, key))
    assert by_certificate._login.as_dict() == {
        "cert_path": str(certificate),
        "key_path": str(key),
        "trust_store_path": str(authority.ca),
    }
    with pytest.raises(Misconfigured, match="couchbases://"):
        store_for("couchbase://u:p@h/b", SPACE, ttl_ms=1, read_ms=1, writer=False, tls=Tls(authority.ca))


def test_settings_become_certificates_and_a_login(authority: Authority) -> None:
    certificate, key = authority.issue("ours")
    files = {"CA": authority.ca, "CERTIFICATE": certificate, "PRIVATE_KEY": key}
    given = {
        f"NEARLINE_{part}_{name}": str(file) for part in ("KAFKA", "TRITON", "STORE") for name, file in files.items()
    }
    settings = load_settings(given | {"NEARLINE_KAFKA_USER": "shop", "NEARLINE_KAFKA_PASSWORD": "secret-word"})
    tls = Tls(authority.ca, certificate, key)
    assert (settings.brokers.tls, settings.triton_security, settings.store_security) == (tls, tls, tls)
    told = connection(settings.brokers)
    assert (told["security_protocol"], told["sasl_mechanism"]) == ("SASL_SSL", "SCRAM-SHA-512")
    assert told["sasl_plain_password"] == "secret-word"
    assert "secret-word" not in repr(settings) + repr(settings.brokers)


def test_tls_is_off_by_default_and_one_setting_turns_it_on() -> None:
    settings = load_settings({})
    assert (settings.brokers, settings.triton_security, settings.store_security) == (
        Brokers("127.0.0.1:9092"),
        None,
        None,
    )
    assert connection(settings.brokers)["security_protocol"] == "PLAINTEXT"
    assert load_settings({"NEARLINE_KAFKA_TLS": "true", "NEARLINE_TRITON_TLS": "1"}).brokers.tls == Tls()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"KAFKA_CA": "/nowhere.pem"}, "NEARLINE_KAFKA_CA='/nowhere.pem': expected a file in PEM, there is none"),
        ({"KAFKA_CERTIFICATE": __file__}, "NEARLINE_KAFKA_PRIVATE_KEY belong together"),
        ({"KAFKA_CA": __file__}, "cannot use the certificates"),
    ],
)
def test_files_that_cannot_be_used_are_refused_before_anything_connects(given: dict[str, str], said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        connection(load_settings({f"NEARLINE_{name}": value for name, value in given.items()}).brokers)


def test_a_key_that_fits_no_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    certificate, _ = authority.issue("halves")
    other = tmp_path / "other.key"
    other.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(Misconfigured, match="cannot use the certificates"):
        connection(Brokers("127.0.0.1:1", Tls(authority.ca, certificate, other)))
