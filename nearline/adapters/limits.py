"""Rate limits by address, with throttled-py: the generic cell rate algorithm, in this process's memory."""

from throttled import RateLimiterType, Throttled, per_min, store

from nearline.keys import burst_of

_ADDRESSES = 50_000  # the least recently active is evicted first; 20 MB


class AddressLimits:
    """Limits requests and events by key and address or user; each replica counts its own."""

    def __init__(self, addresses: int = _ADDRESSES) -> None:
        self._store = store.MemoryStore(options={"MAX_SIZE": addresses})
        self._by_limit: dict[int, Throttled] = {}

    def spend(self, key_id: str, address: str, per_minute: int, units: int = 1) -> float:
        """Seconds until *units* (a request, or further events) are allowed, 0 if they are now.

        At most ``burst_of(per_minute)`` are allowed at once: more never are.
        """
        limit = self._by_limit.get(per_minute)
        if limit is None:
            quota = per_min(per_minute, burst=burst_of(per_minute))
            limit = self._by_limit[per_minute] = Throttled(
                using=RateLimiterType.GCRA.value, quota=quota, store=self._store
            )
        result = limit.limit(f"{key_id} {address}", units)
        return float(result.state.retry_after) if result.limited else 0.0
