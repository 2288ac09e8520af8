"""The settings that Flink's Kafka client gets."""

import stat
from pathlib import Path

from flink_jobs.last_n.connection import as_options, client_properties
from nearline.tls import Brokers, Tls


def test_in_the_clear_it_is_told_where_and_nothing_else(tmp_path: Path) -> None:
    told = client_properties(Brokers("a:1,b:2"), tmp_path)
    assert as_options(told) == "'properties.bootstrap.servers' = 'a:1,b:2'"


def test_certificates_become_pem_stores_that_only_the_owner_may_read(tmp_path: Path) -> None:
    for name in ("ca", "ours", "key"):
        (tmp_path / name).write_text(f"{name}\n")
    tls = Tls(tmp_path / "ca", tmp_path / "ours", tmp_path / "key")
    folder = tmp_path / "flink"
    for _ in range(2):
        told = client_properties(Brokers("a:1", tls), folder)
    store = Path(told["ssl.keystore.location"])
    assert store.read_text() == "key\nours\n"
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
    assert told["security.protocol"] == "SSL"
    assert told["ssl.truststore.location"] == str(tmp_path / "ca")
    assert told["ssl.truststore.type"] == told["ssl.keystore.type"] == "PEM"
    assert "ssl.truststore.location" not in client_properties(Brokers("a:1", Tls()), folder)


def test_a_login_is_quoted_for_java_and_for_sql(tmp_path: Path) -> None:
    told = client_properties(Brokers("a:1", None, "shop", "p\"a'\\", "PLAIN"), tmp_path)
    assert (told["security.protocol"], told["sasl.mechanism"]) == ("SASL_PLAINTEXT", "PLAIN")
    assert told["sasl.jaas.config"].endswith(r"""PlainLoginModule required username="shop" password="p\"a'\\";""")
    assert r"p\"a''\\" in as_options(told)
    scram = client_properties(Brokers("a:1", None, "shop", "p"), tmp_path)["sasl.jaas.config"]
    assert "scram.ScramLoginModule" in scram
