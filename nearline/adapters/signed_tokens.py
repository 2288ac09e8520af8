"""Signed, expiring tokens: HMAC-SHA-256 with a timestamp, by itsdangerous."""

import contextlib
import secrets
from pathlib import Path

from itsdangerous import BadSignature, SignatureExpired, TimestampSigner
from itsdangerous.encoding import base64_decode, base64_encode

from nearline.errors import BadInput, Misconfigured

_BYTES = 32
_LEAST = 16  # least characters of a configured secret


class SignedTokens:
    """Signs for *purpose* with HMAC-SHA-256 and *secret*; a token signed for another purpose counts as forged."""

    def __init__(self, secret: bytes, purpose: str, *, lives_s: int) -> None:
        self._signer = TimestampSigner(secret, salt=purpose, digest_method="sha256", key_derivation="hmac")
        self._lives_s = lives_s

    def sign(self, payload: bytes) -> str:
        """The signed *payload*, not encrypted, as text for a URL."""
        return self._signer.sign(base64_encode(payload)).decode()

    def open(self, token: str) -> bytes:
        """The payload given to ``sign``; ``BadInput`` with reason ``expired`` or ``forged``."""
        try:
            return base64_decode(self._signer.unsign(token, max_age=self._lives_s))
        except SignatureExpired:
            raise BadInput("expired", f"it is older than {self._lives_s // 60} minutes") from None
        except (BadSignature, UnicodeError, ValueError):
            raise BadInput("forged", "it is not signed with our secret") from None


def secret_of(given: str, file: Path) -> bytes:
    """The secret *given*, else the one in *file*, which is created, readable by its owner only, if it is missing.

    ``Misconfigured`` if *given* is too short, or the file can be read by others or not by us.
    """
    if given:
        if len(given) < _LEAST:
            raise Misconfigured(f"NEARLINE_PAGE_SECRET must have at least {_LEAST} characters, came {len(given)}")
        return given.encode()
    try:
        _make(file)
        if file.stat().st_mode & 0o077:
            raise Misconfigured(f"{file} can be read by others; chmod 600 it, or remove it and a new one is made")
        secret = bytes.fromhex(file.read_text().strip())
        if len(secret) < _BYTES:
            raise ValueError(f"it holds {len(secret)} bytes, expected {_BYTES}")
        return secret
    except (OSError, ValueError) as error:
        raise Misconfigured(f"cannot use the secret in {file}: {error}; set NEARLINE_PAGE_SECRET") from None


def _make(file: Path) -> None:
    """Create *file* with a new secret unless it exists; of two concurrent calls one wins, and both read its secret."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    new.touch(0o600)
    try:
        new.write_text(secrets.token_hex(_BYTES) + "\n")
        with contextlib.suppress(FileExistsError):
            file.hardlink_to(new)
    finally:
        new.unlink(missing_ok=True)
