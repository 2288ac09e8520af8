"""User tokens, with PyJWT: a shop's backend signs them with Ed25519, and the public key checks them here.

We fix the algorithm: a token whose header names another one is refused.
"""

from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from jwt.types import Options

from nearline.errors import BadInput
from nearline.guard import Claims
from nearline.ids import check_id
from nearline.keys import Permission

ALGORITHM = "EdDSA"
LONGEST_S = 3_600
_SCOPES = frozenset((Permission.READ, Permission.EVENTS))
_CLOCKS_DIFFER_S = 10  # allowed difference between a shop's clock and ours


class UserTokens:
    """Reads and checks tokens; keeps nothing."""

    def key_id(self, token: str) -> str | None:
        """The id of the key that *token* claims to be signed with; ``None`` if it is no token."""
        try:
            named = jwt.get_unverified_header(token).get("kid")
        except (jwt.InvalidTokenError, ValueError, RecursionError):
            return None
        return named if isinstance(named, str) else None

    def claims(self, token: str, public_key: bytes) -> Claims:
        """The claims of *token*; ``BadInput`` unless *public_key* verifies it and it is valid now.

        It needs ``user_id``, ``scope`` (``read``, ``events`` or both, with a space between), ``iat`` and ``exp``, at
        most an hour apart.
        """
        said = _verified(token, Ed25519PublicKey.from_public_bytes(public_key))
        scopes = _scopes_in(said["scope"])
        issued, expires = (said[name] for name in ("iat", "exp"))
        if not (isinstance(issued, int) and isinstance(expires, int)):
            raise BadInput("bad_token", "iat and exp must be whole seconds")
        if not 0 < expires - issued <= LONGEST_S:
            raise BadInput("bad_token", f"a token lives {LONGEST_S} s at most, this one {expires - issued} s")
        return Claims(check_id("user_id", said["user_id"]), expires + _CLOCKS_DIFFER_S, scopes)


def _scopes_in(said: object) -> frozenset[Permission]:
    named = frozenset(said.split(" ")) if isinstance(said, str) else frozenset()
    if not named or not named <= _SCOPES:
        raise BadInput("bad_token", f"a token's scope must be read, events or both, came {said!r:.40}")
    return frozenset(map(Permission, named))


def _verified(token: str, key: Ed25519PublicKey) -> dict[str, Any]:
    options: Options = {"require": ["exp", "iat", "user_id", "scope"]}
    try:
        return jwt.decode(token, key, algorithms=[ALGORITHM], leeway=_CLOCKS_DIFFER_S, options=options)
    except jwt.ExpiredSignatureError:
        raise BadInput("expired_token", "the token has expired; get a new one from the shop's backend") from None
    except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise BadInput("bad_token", f"not a valid token of this key: {error!s:.120}") from None


class Signer:
    """Makes tokens as a shop's backend does, with its own private key; *public* is the key that we get."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def token(self, key_id: str, user_id: str, *, now_s: int, lives_s: int = 600, scope: str = "read") -> str:
        """A token for *user_id* with *scope*, signed for the key *key_id*."""
        claims = {"user_id": user_id, "scope": scope, "iat": now_s, "exp": now_s + lives_s}
        return jwt.encode(claims, self._key, algorithm=ALGORITHM, headers={"kid": key_id})


def public_key_in(pem: bytes) -> bytes:
    """The 32 bytes of the Ed25519 public key in *pem*; ``BadInput`` for anything else, above all a private key."""
    try:
        key = load_pem_public_key(pem)
    except ValueError:
        raise BadInput(
            "bad_key", "expected a public key in PEM: openssl pkey -in private.pem -pubout -out public.pem"
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise BadInput("bad_key", "expected an Ed25519 key: openssl genpkey -algorithm ed25519 -out private.pem")
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
