"""Measures the guard's time per request, for a known key, a known token, a wrong key and a forged token.

Each with warm caches, and after other work has filled the processor's caches, as between two searches.

.venv/services/bin/python -m benchmarks.guard
"""

import asyncio
import time
from collections.abc import MutableMapping
from typing import Any

import numpy as np

from nearline.adapters.limits import AddressLimits
from nearline.adapters.tokens import Signer, UserTokens
from nearline.guard import STATUS_RULES, AsgiScope, Guard, RoutePermission, callers_in
from nearline.key_ring import KeyRing
from nearline.keys import Permission, encode_key, make_key
from nearline.log import Record

_RULES = (
    RoutePermission("GET", "/recommend/{user_id:path}", Permission.READ),
    RoutePermission("POST", "/events", Permission.EVENTS),
    *STATUS_RULES,
)
_OTHERS = [(name, b"x") for name in (b"host", b"accept", b"accept-encoding", b"connection", b"user-agent")]


async def _nothing(*_: object) -> None:
    """A stand-in for the application and for its caller."""


def _request(presented: str, method: str = "GET", path: str = "/recommend/u1") -> AsgiScope:
    headers = [*_OTHERS, (b"authorization", f"Bearer {presented}".encode())]
    return {"type": "http", "method": method, "path": path, "headers": headers, "client": ("203.0.113.5", 1)}


async def _microseconds(guard: Guard, request: MutableMapping[str, Any], count: int) -> float:
    await guard(request, _nothing, _nothing)  # type: ignore[arg-type]
    started = time.perf_counter()
    for _ in range(count):
        await guard(request, _nothing, _nothing)  # type: ignore[arg-type]
    guarded = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(count):
        await _nothing(request, _nothing, _nothing)
    return (guarded - (time.perf_counter() - started)) / count * 1e6


async def _microseconds_cold(guard: Guard, request: MutableMapping[str, Any], count: int = 300) -> float:
    """The median when 12 MB of other memory were read before each."""
    others = np.zeros(3_000_000, np.float32)
    took = []
    for _ in range(count):
        others.sum()
        started = time.perf_counter()
        await guard(request, _nothing, _nothing)  # type: ignore[arg-type]
        took.append(time.perf_counter() - started)
    return float(np.median(took)) * 1e6


def main() -> None:
    """Print a line for each."""
    ring, signer = KeyRing(), Signer()
    reading, shop = make_key("reads", ["read"], now_ms=1, token_key=signer.public)
    sending, page = make_key("sends", ["events"], now_ms=1, per_minute=10**9)
    for offset, key in enumerate((shop, page)):
        ring.apply(Record("api-keys", 0, offset, 0, key.id.encode(), encode_key(key)))
    spend = AddressLimits().spend
    guard = Guard(_nothing, _RULES, ring, tokens=UserTokens(), spend=spend, is_near=callers_in(""))
    token = signer.token(shop.id, "u1", now_s=int(time.time()))
    for what, request, count in (
        ("a known key", _request(reading), 100_000),
        ("a known token", _request(token), 100_000),
        ("a wrong key", _request(f"nl_{'0' * 12}_{'0' * 64}"), 50_000),
        ("a forged token", _request(token[:-8] + "AAAAAAAA"), 3_000),
        ("a key with a limit", _request(sending, "POST", "/events"), 50_000),
    ):
        warm, cold = asyncio.run(_microseconds(guard, request, count)), asyncio.run(_microseconds_cold(guard, request))
        print(f"{what:<20} {warm:7.1f} us  {cold:7.1f} us with cold caches")


if __name__ == "__main__":
    main()
