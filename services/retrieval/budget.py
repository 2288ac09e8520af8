"""The time that an answer may take: over it, what only makes it better is left out, and named."""

import time


class Budget:
    """*limit_ms* from *started_ns* (``time.perf_counter_ns``)."""

    __slots__ = ("_end_ns",)

    def __init__(self, limit_ms: float, started_ns: int) -> None:
        self._end_ns = started_ns + int(limit_ms * 1e6)

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left."""
        return time.perf_counter_ns() >= self._end_ns

    @property
    def left_s(self) -> float:
        """Seconds that are left; 0 if none."""
        return max(0, self._end_ns - time.perf_counter_ns()) / 1e9
