"""API keys: creation, storage, verification."""

import hmac
import re
from dataclasses import replace

import orjson
import pytest

from nearline import keys
from nearline.errors import BadInput
from nearline.key_ring import KeyRing
from nearline.keys import (
    EVENTS_PER_MINUTE,
    PATTERN,
    Key,
    Permission,
    decode_key,
    encode_key,
    id_in,
    is_proven,
    make_key,
    revoked,
)
from nearline.log import Record

NOW_MS = 1_732_100_000_000


def made(*scopes: str, origins: tuple[str, ...] = (), per_minute: int | None = None) -> tuple[str, Key]:
    return make_key("shop", scopes or ("read",), now_ms=NOW_MS, origins=origins, per_minute=per_minute)


def record(key: Key, offset: int = 0) -> Record:
    return Record("api-keys", 0, offset, NOW_MS, key.id.encode(), encode_key(key))


def test_a_key_has_256_random_bits_and_a_form_that_scanners_find() -> None:
    texts = {made()[0] for _ in range(100)}
    assert len(texts) == 100
    for text in texts:
        assert PATTERN.search(f"headers: {text}, more")
        assert re.fullmatch("nl_[0-9a-f]{12}_[0-9a-f]{64}", text)


def test_a_stored_key_holds_no_part_of_the_secret() -> None:
    text, key = made()
    secret = text.rpartition("_")[2]
    for kept in (encode_key(key).decode(), repr(key)):
        assert secret not in kept
        assert secret[:16] not in kept


def test_only_the_whole_key_opens() -> None:
    text, key = made()
    assert id_in(text) == key.id
    assert is_proven(key, text)
    flipped = text[:-1] + ("0" if text[-1] != "0" else "1")
    assert not is_proven(key, flipped)
    assert not is_proven(None, text)
    assert not is_proven(made()[1], text)


@pytest.mark.parametrize("text", ["", "nl_", "nl_0123456789ab_", "Bearer x", "nl_0123456789ab_" + "g" * 64, "ключ"])
def test_a_malformed_key_is_not_recognised(text: str) -> None:
    assert id_in(text) is None
    assert not is_proven(made()[1], text)


def test_digests_are_compared_in_constant_time_for_known_and_unknown_ids_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each examination hashes once and compares two digests of 32 bytes, whatever is wrong with the key."""
    text, key = made()
    compared: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(keys, "hmac", type("Watched", (), {"compare_digest": staticmethod(compare)}))
    for known, presented in ((key, text), (key, "nl_" + "0" * 12 + "_" + "0" * 64), (None, text), (key, "nonsense")):
        is_proven(known, presented)
    assert compared == [(32, 32)] * 4


def test_a_key_for_events_is_limited_unless_told_otherwise() -> None:
    assert made("events")[1].per_minute == EVENTS_PER_MINUTE
    assert made("events", per_minute=5)[1].per_minute == 5
    assert made("events", per_minute=0)[1].per_minute is None
    assert made("events", "items")[1].per_minute is None
    assert made("read")[1].per_minute is None
    assert made("events")[1].is_publishable
    assert not made("events", "read")[1].is_publishable


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"scopes": ["reed"]}, "unknown scope 'reed'; there are events, read, items, admin"),
        ({"scopes": []}, "needs scopes"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"origins": ["https://shop.example/cart"]}, "origin must be"),
        ({"origins": ["*"]}, "origin must be"),
        ({"origins": "https://shop.example"}, "origin must be"),
        ({"scopes": ["events", "read"], "origins": ["https://shop.example"]}, "only a key for events"),
        ({"token_key": "AAAA", "scopes": ["read"]}, "32 bytes"),
        ({"token_key": "A" * 43 + "=", "scopes": ["items"]}, "only a key for read or events"),
        ({"id": "../../etc"}, "12 hex"),
        ({"id": 7}, "12 hex"),
        ({"secret_sha256": "00"}, "32 bytes"),
        ({"secret_sha256": None}, "not a key"),
        ({"per_minute": -1}, "positive"),
        ({"per_minute": True}, "positive"),
        ({"revoked_ms": "never"}, "integer or null"),
        ({"created_ms": None}, "integer"),
        ({"v": 2}, "version 1"),
    ],
)
def test_an_invalid_key_record_is_refused_with_the_reason(change: dict[str, object], problem: str) -> None:
    body = orjson.loads(encode_key(made("events")[1])) | change
    with pytest.raises(BadInput, match=problem):
        decode_key(orjson.dumps(body))


@pytest.mark.parametrize("field", ["id", "name", "scopes", "secret_sha256", "created_ms", "origins", "revoked_ms"])
def test_a_record_without_a_field_is_refused(field: str) -> None:
    body = orjson.loads(encode_key(made("events")[1]))
    del body[field]
    with pytest.raises(BadInput):
        decode_key(orjson.dumps(body))


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{", b'"nl"'])
def test_an_undecodable_key_record_is_refused(raw: bytes) -> None:
    with pytest.raises(BadInput):
        decode_key(raw)


def test_a_key_is_revoked_once_and_stays_so() -> None:
    key = revoked(made()[1], now_ms=5)
    assert revoked(key, now_ms=9).revoked_ms == 5


def test_the_ring_holds_the_newest_of_each_key() -> None:
    ring = KeyRing()
    _, key = made()
    _, other = make_key("other", ["items"], now_ms=NOW_MS - 1)
    for offset, one in enumerate((key, other, revoked(key, now_ms=NOW_MS + 1))):
        before = ring.generation
        ring.apply(record(one, offset))
        assert ring.generation != before
    assert ring.all() == [other, revoked(key, now_ms=NOW_MS + 1)]
    ring.apply(Record("api-keys", 0, 3, 0, other.id.encode(), None))
    assert ring.get(other.id) is None


def test_a_key_whose_newest_record_cannot_be_read_opens_nothing() -> None:
    """It may be a revocation of a later version: the older record must not go on being believed."""
    ring = KeyRing()
    _, key = made()
    ring.apply(record(key))
    later = orjson.dumps(orjson.loads(encode_key(key)) | {"v": 2})
    with pytest.raises(BadInput, match="version"):
        ring.apply(Record("api-keys", 0, 1, 0, key.id.encode(), later))
    assert ring.get(key.id) is None


def test_a_record_of_another_key_than_it_says_is_refused() -> None:
    ring = KeyRing()
    _, key = made()
    with pytest.raises(BadInput, match="holds the key"):
        ring.apply(replace(record(key), key=b"0123456789ab"))
    assert ring.all() == []


def test_scopes_are_what_the_issue_of_a_key_names() -> None:
    assert [str(scope) for scope in Permission] == ["events", "read", "items", "admin"]
