"""The end of the replay: how far ``clicks`` and ``users`` reached when a job without a checkpoint began to read."""

import time
from collections.abc import Callable, Mapping

from nearline.topics import CLICKS

Ends = Mapping[str, Mapping[int, int]]  # topic -> partition -> the offset after its last record


class ReplayEnd:
    """Tells whether a record was appended after *ends*, and whether all records before have been processed.

    *is_read* asks the log, which takes a moment: at most every *every_s*, and no more once it was true. It must be
    picklable, as this is sent to Flink's task managers.
    """

    def __init__(
        self,
        ends: Ends,
        is_read: Callable[[Ends], bool],
        *,
        every_s: float = 10.0,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ends = ends
        self._is_read = is_read
        self._every_s = every_s
        self._clock_s = clock_s
        self._is_over = False
        self._asked_s: float | None = None

    def is_beyond(self, partition: int, offset: int) -> bool:
        """Whether the record of ``clicks`` came after the start."""
        return offset >= self._ends.get(CLICKS, {}).get(partition, 0)

    def is_over(self) -> bool:
        """Whether a checkpoint includes all records from before the start; false while the log does not answer."""
        now_s = self._clock_s()
        if not self._is_over and (self._asked_s is None or now_s - self._asked_s >= self._every_s):
            self._asked_s = now_s
            self._is_over = self._is_read(self._ends)
        return self._is_over


def _always(_: Ends) -> bool:
    return True


NO_REPLAY = ReplayEnd({}, _always)
