"""Live recall: the recall of recent searches, with the size of the sample.

Every second one recent query is searched again, approximately and exactly, in the same rows. The exact search takes
another thread some milliseconds (3 for 100,000 x 64); no request waits for it.
"""

import asyncio
import random
from collections import deque
from collections.abc import Mapping

import numpy as np

from nearline.telemetry import gauge
from services.retrieval.in_process.background import Background
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.in_process.widths import ENOUGH

CUTS = tuple(ENOUGH)
_MARGIN = 0.01  # below the recall that the width was measured for: more than chance in a full window

_RECALL = gauge(
    "index_recall_ratio", "Share of the true k nearest items that recent searches found", "k", known=map(str, CUTS)
)
_SAMPLES = gauge("index_recall_samples", "Queries of which index_recall_ratio is the mean")


class LiveRecall:
    """The mean recall@10 and @50 of the newest *window* sampled queries."""

    def __init__(self, index: LiveIndex, *, every_s: float = 1.0, window: int = 200) -> None:
        self._index = index
        self._every_s = every_s
        self._seen: deque[Mapping[int, float]] = deque(maxlen=window)
        self._asks = 0  # queries that had come when the last one was sampled
        self._random = random.Random(0)

    async def run(self) -> None:
        """Sample until cancelled."""
        background = Background("index-recall")
        try:
            while True:
                await asyncio.sleep(self._every_s)
                await self.sample(background)
        finally:
            background.close()

    async def sample(self, background: Background) -> bool:
        """Compare approximate and exact search for one of the queries since the last sample; ``False`` if none came."""
        fresh = self._index.asks - self._asks
        if fresh == 0 or self._index.live == 0:
            return False
        self._asks = self._index.asks
        query = self._index.asked(self._random.randrange(fresh))
        with self._index.moment(query) as moment:
            found = {cut: self._index.find(query, cut)[0] for cut in CUTS}
            self._seen.append(await background.run(lambda: moment.recall(found, cut=int)))
        self._update_gauges()
        return True

    @property
    def samples(self) -> int:
        """Of how many queries ``recall`` is the mean."""
        return len(self._seen)

    def recall(self, cut: int) -> float:
        """Recall@*cut*, 10 or 50; 1 before the first sample."""
        return float(np.mean([seen[cut] for seen in self._seen])) if self._seen else 1.0

    @property
    def has_fallen(self) -> bool:
        """Whether the window is full and its recall is below what the widths were measured for."""
        full = self.samples == self._seen.maxlen
        return full and any(self.recall(cut) < enough - _MARGIN for cut, enough in ENOUGH.items())

    def forget(self) -> None:
        """Drop all samples, because the graph or its widths changed."""
        self._seen.clear()

    def report(self) -> dict[str, float]:
        """The recalls and the sample size, for the log."""
        return {**{f"recall_at_{cut}": round(self.recall(cut), 4) for cut in CUTS}, "samples": self.samples}

    def _update_gauges(self) -> None:
        _SAMPLES.set(self.samples)
        for cut in CUTS:
            _RECALL.labels(str(cut)).set(self.recall(cut))
