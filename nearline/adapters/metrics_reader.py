"""Reads the parts' metrics over HTTP, for the figures of nearline/live.py."""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import httpx

from nearline.errors import Misconfigured
from nearline.key_file import key_headers
from nearline.live import PARTS, MetricsPage, MetricsPages, metrics_urls, read_page
from nearline.settings import Settings

_TIMEOUT_S = 2.0
_KEPT_S = 3.0  # parts close a connection idle for five seconds; a request just then would fail
_WANT_A_KEY = ("ingest", "retrieval")


def addresses_of(settings: Settings) -> dict[str, str]:
    """The base URL of each part's metrics, by part; ``Misconfigured`` if ``NEARLINE_METRICS_OF`` is malformed.

    Beside the parts of the live screen: ``web``, and ``launcher``, which starts the job ``last_n``.
    """
    host = settings.host if settings.host != "0.0.0.0" else "127.0.0.1"
    ports = {
        "last_n": settings.flink_metrics_port,
        "user_tower": settings.user_tower_port,
        "item_tower": settings.item_tower_port,
        "canary": settings.canary_port,
        "web": settings.web_port,
        "launcher": settings.job_port,
    }
    defaults = {"ingest": settings.ingest, "retrieval": settings.retrieval}
    defaults |= {part: f"http://{host}:{port}" for part, port in ports.items()}
    try:
        return metrics_urls(settings.metrics_of, defaults.items())
    except ValueError as problem:
        raise Misconfigured(f"NEARLINE_METRICS_OF: {problem}") from None


class MetricsReader:
    """Reads the metrics of all parts at once, over one kept connection each."""

    def __init__(self, addresses: Mapping[str, str], key: Mapping[str, str] | None = None) -> None:
        self._addresses = dict(addresses)
        self._key = dict(key or {})  # the headers that carry it
        limits = httpx.Limits(keepalive_expiry=_KEPT_S)
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=True, limits=limits)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The reader for the system in *settings*, with their key."""
        addresses = addresses_of(settings)
        return cls({part: addresses[part] for part in PARTS}, key_headers(settings))

    async def read(self) -> MetricsPages:
        """The page of every part; ``None`` for one that does not answer or refuses our key."""
        pages = await asyncio.gather(*(self._page(part, url) for part, url in self._addresses.items()))
        return dict(zip(self._addresses, pages, strict=True))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _page(self, part: str, url: str) -> MetricsPage | None:
        headers = self._key if part in _WANT_A_KEY else {}
        try:
            response = await self._client.get(f"{url}/metrics", headers=headers)
            return read_page(response.text) if response.status_code == 200 else None
        except (httpx.HTTPError, ValueError):
            return None
