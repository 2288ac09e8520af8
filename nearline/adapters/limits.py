"""Rate limits by address, with throttled-py: the generic cell rate algorithm, in this process's memory."""

import ipaddress

from throttled import RateLimiterType, Throttled, per_min, store

from nearline.keys import burst_of

_OF_A_SITE = 16
_ADDRESSES = 50_000  # the least recently active is evicted first; 20 MB


class AddressLimits:
    """Limits requests and events by key and address or user; each replica counts its own."""

    def __init__(self, addresses: int = _ADDRESSES) -> None:
        self._store = store.MemoryStore(options={"MAX_SIZE": addresses})
        self._by_limit: dict[int, Throttled] = {}

    def spend(self, key_id: str, address: str, per_minute: int, units: int = 1) -> float:
        """Seconds until *units* (a request, or further events) are allowed, 0 if they are now.

        At most ``burst_of(per_minute)`` are allowed at once: more never are. A /64 of IPv6 also counts with its /48,
        which may send as much as ``_OF_A_SITE`` of them: one subscriber may have all of its 65,536.
        """
        wait_s = self._spend(key_id, address, per_minute, units)
        site = _site_of(address) if wait_s <= 0 and address.endswith("::/64") else None
        return wait_s if site is None else self._spend(key_id, site, per_minute * _OF_A_SITE, units)

    def _spend(self, key_id: str, address: str, per_minute: int, units: int) -> float:
        limit = self._by_limit.get(per_minute)
        if limit is None:
            quota = per_min(per_minute, burst=burst_of(per_minute))
            limit = self._by_limit[per_minute] = Throttled(
                using=RateLimiterType.GCRA.value, quota=quota, store=self._store
            )
        result = limit.limit(f"{key_id} {address}", units)
        return float(result.state.retry_after) if result.limited else 0.0


def _site_of(address: str) -> str | None:
    """The /48 of a /64 of IPv6; ``None`` for anything else."""
    try:
        return str(ipaddress.IPv6Network(address).supernet(new_prefix=48))
    except ValueError:
        return None
