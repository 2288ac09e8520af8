"""Rate limits by address, with throttled-py: the generic cell rate algorithm, in this process's memory."""

from throttled import RateLimiterType, Throttled, per_min, store

_ADDRESSES = 50_000  # the least recently active is evicted first; 20 MB


class AddressLimits:
    """Limits requests by key and address; each replica counts its own."""

    def __init__(self, addresses: int = _ADDRESSES) -> None:
        self._store = store.MemoryStore(options={"MAX_SIZE": addresses})
        self._by_limit: dict[int, Throttled] = {}

    def spend(self, key_id: str, address: str, per_minute: int) -> float:
        """Seconds until the next request is allowed, 0 if this one is; a burst is a second's share, or ten requests."""
        limit = self._by_limit.get(per_minute)
        if limit is None:
            quota = per_min(per_minute, burst=max(10, per_minute // 6))
            limit = self._by_limit[per_minute] = Throttled(
                using=RateLimiterType.GCRA.value, quota=quota, store=self._store
            )
        result = limit.limit(f"{key_id} {address}")
        return float(result.state.retry_after) if result.limited else 0.0
