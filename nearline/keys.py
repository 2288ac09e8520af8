"""API keys and their permissions, as in the compacted topic ``api-keys`` (version 1).

A key is ``nl_<id>_<secret>``: an id of 48 and a secret of 256 random bits, in hex, so that
``nl_[0-9a-f]{12}_[0-9a-f]{64}`` finds it in logs and by scanners. Only the SHA-256 of the whole is stored. A plain hash
is enough for 256 random bits: they cannot be guessed, so a slow hash would protect nothing.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import orjson

from nearline.errors import BadInput

PATTERN = re.compile(r"nl_([0-9a-f]{12})_[0-9a-f]{64}")
EVENTS_PER_MINUTE = 600  # per address, with a key that web pages show
USER_PER_MINUTE = 600  # of one user, with tokens signed for a key without a limit
PUBLIC_BATCH = 50  # events at once from a page; the smallest burst, so that such a batch is allowed
_ORIGIN = re.compile(r"https?://[a-z0-9.\-]+(:\d{1,5})?|https?://\[[0-9a-f:.]+\](:\d{1,5})?")
_NO_DIGEST = bytes(32)


class Permission(StrEnum):
    """A key's permissions; none includes another."""

    EVENTS = "events"
    READ = "read"
    ITEMS = "items"
    ADMIN = "admin"


EVERYTHING = frozenset(Permission)


@dataclass(frozen=True, slots=True)
class Key:
    """A key's record in the log, from which the key itself cannot be computed.

    *origins*, if there are any, are the pages that may use it (``scheme://host[:port]``). *per_minute* is how many
    requests and events one address may send with it per minute, ``None`` for no limit. *token_key* is the Ed25519
    public key that verifies user tokens.
    """

    id: str
    name: str
    scopes: frozenset[Permission]
    secret_sha256: bytes
    created_ms: int
    origins: frozenset[str] = frozenset()
    per_minute: int | None = None
    token_key: bytes | None = None
    revoked_ms: int | None = None

    @property
    def is_publishable(self) -> bool:
        """Whether a public page may contain it: it can only send events."""
        return self.scopes == {Permission.EVENTS}


def make_key(
    name: str,
    scopes: Collection[str],
    *,
    now_ms: int,
    origins: Collection[str] = (),
    per_minute: int | None = None,
    token_key: bytes | None = None,
) -> tuple[str, Key]:
    """Make a key: the text for its owner, shown once, and its record for the log; ``BadInput`` for invalid arguments.

    A key for events only is limited to 600 events per minute and address by default; *per_minute* 0 is no limit.
    """
    key_id = secrets.token_hex(6)
    secret = f"nl_{key_id}_{secrets.token_hex(32)}"
    granted = _permissions(scopes)
    if per_minute is None and granted == {Permission.EVENTS}:
        per_minute = EVENTS_PER_MINUTE
    key = Key(key_id, name, granted, digest(secret), now_ms, frozenset(origins), per_minute or None, token_key)
    _check(key)
    return secret, key


def burst_of(per_minute: int) -> int:
    """How many requests or events may come at once: a sixth of a minute's, or ``PUBLIC_BATCH``."""
    return max(PUBLIC_BATCH, per_minute // 6)


def _permissions(names: Collection[str]) -> frozenset[Permission]:
    unknown = sorted(set(names) - set(Permission))
    if unknown:
        raise BadInput("bad_key", f"unknown scope {unknown[0]!r:.40}; there are {', '.join(Permission)}")
    return frozenset(Permission(name) for name in names)


def digest(presented: str) -> bytes:
    """The SHA-256 of a presented key."""
    return hashlib.sha256(presented.encode()).digest()


def id_in(presented: str) -> str | None:
    """The id in *presented*, or ``None`` if it does not have the form of a key."""
    found = PATTERN.fullmatch(presented)
    return found[1] if found else None


def is_proven(key: Key | None, presented: str) -> bool:
    """Whether *presented* is *key*, in constant time: also for a wrong or unknown key."""
    known = _NO_DIGEST if key is None else key.secret_sha256
    return hmac.compare_digest(known, digest(presented)) and key is not None


def revoked(key: Key, *, now_ms: int) -> Key:
    """*key*, revoked as of *now_ms* for ever; a key revoked before stays as it is."""
    return key if key.revoked_ms is not None else replace(key, revoked_ms=now_ms)


def encode_key(key: Key) -> bytes:
    """The record of *key*; its log key is the id."""
    return orjson.dumps(
        {
            "v": 1,
            "id": key.id,
            "name": key.name,
            "scopes": sorted(key.scopes),
            "secret_sha256": key.secret_sha256.hex(),
            "created_ms": key.created_ms,
            "origins": sorted(key.origins),
            "per_minute": key.per_minute,
            "token_key": base64.b64encode(key.token_key).decode() if key.token_key else None,
            "revoked_ms": key.revoked_ms,
        }
    )


def decode_key(raw: bytes) -> Key:
    """The key in *raw*; ``BadInput`` unless it is valid and of version 1."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadInput("not_json", f"not a key: {error}") from None
    if not isinstance(body, dict) or body.get("v") != 1:
        raise BadInput("unknown_version", f"a key must have version 1, came {str(body)[:40]}")
    return _key_of(body)


def _key_of(body: dict[str, Any]) -> Key:
    try:
        token_key = body["token_key"]
        key = Key(
            body["id"],
            body["name"],
            _permissions(body["scopes"]),
            bytes.fromhex(body["secret_sha256"]),
            body["created_ms"],
            frozenset(body["origins"]),
            body["per_minute"],
            base64.b64decode(token_key, validate=True) if token_key else None,
            body["revoked_ms"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput("bad_key", f"not a key of version 1: {error!r:.120}") from None
    _check(key)
    return key


def _check(key: Key) -> None:
    for problem, wrong in (
        (f"the id must be 12 hex digits, came {key.id!r:.40}", not _is_id(key.id)),
        ("the name must be 1-80 printable characters", not _is_name(key.name)),
        (f"a key needs scopes out of {', '.join(Permission)}", not key.scopes),
        ("secret_sha256 must be 32 bytes", len(key.secret_sha256) != 32),
        ("created_ms must be an integer", not _is_count(key.created_ms)),
        ("revoked_ms must be an integer or null", not (key.revoked_ms is None or _is_count(key.revoked_ms))),
        ("per_minute must be a positive integer or null", not (key.per_minute is None or _is_count(key.per_minute))),
        ("the token key must be an Ed25519 public key, 32 bytes", len(key.token_key or _NO_DIGEST) != 32),
        (
            "only a key for read or events can have a token key",
            bool(key.token_key) and not key.scopes & {Permission.READ, Permission.EVENTS},
        ),
        ("only a key for events and nothing else can have origins", bool(key.origins) and not key.is_publishable),
        *((f"an origin must be scheme://host[:port], came {one!r:.80}", not _is_origin(one)) for one in key.origins),
    ):
        if wrong:
            raise BadInput("bad_key", problem)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{12}", value) is not None


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 80 and value.isprintable()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_origin(value: object) -> bool:
    return isinstance(value, str) and _ORIGIN.fullmatch(value) is not None
