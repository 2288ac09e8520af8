"""Signed tokens, and the secret that signs them."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nearline.adapters.signed_tokens import SignedTokens, secret_of
from nearline.errors import BadInput, Misconfigured


def test_a_signed_payload_is_returned_unchanged() -> None:
    seal = SignedTokens(b"s" * 32, "page", lives_s=60)
    for payload in (b"", b"\x00\xff.-_", bytes(range(256)) * 20):
        assert seal.open(seal.sign(payload)) == payload


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "é", "\ud800"])
def test_an_unsigned_token_is_refused_as_forged(token: str) -> None:
    with pytest.raises(BadInput) as caught:
        SignedTokens(b"s" * 32, "page", lives_s=60).open(token)
    assert caught.value.reason == "forged"


def test_an_old_token_is_refused_as_expired() -> None:
    token = SignedTokens(b"s" * 32, "page", lives_s=60).sign(b"x")
    with pytest.raises(BadInput) as caught:
        SignedTokens(b"s" * 32, "page", lives_s=-1).open(token)
    assert caught.value.reason == "expired"


def test_the_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "data" / "page-secret"
    with ThreadPoolExecutor(8) as threads:
        made = set(threads.map(lambda _: secret_of("", file), range(16)))
    assert len(made) == 1
    assert len(made.pop()) == 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in file.parent.iterdir()] == ["page-secret"]


def test_a_secret_that_is_given_goes_first(tmp_path: Path) -> None:
    assert secret_of("a secret of an operator", tmp_path / "none") == b"a secret of an operator"
    assert not (tmp_path / "none").exists()
    with pytest.raises(Misconfigured, match=r"NEARLINE_PAGE_SECRET.*16.*came 5") as caught:
        secret_of("short", tmp_path / "none")
    assert "short" not in str(caught.value)


@pytest.mark.parametrize("content", ["not hex", ""])
def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "page-secret"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(Misconfigured, match="NEARLINE_PAGE_SECRET"):
        secret_of("", file)


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "page-secret"
    secret_of("", file)
    file.chmod(0o644)
    with pytest.raises(Misconfigured, match="chmod 600"):
        secret_of("", file)
