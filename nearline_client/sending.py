"""What both clients share: the services' addresses, building requests, and reading answers and failures."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from nearline_client.calls import Call, answer_in
from nearline_client.errors import NearlineError, Unavailable
from nearline_client.retrying import Attempts, Retries

RETRIEVAL = "http://127.0.0.1:8080"
INGEST = "http://127.0.0.1:8088"
# The caller limits concurrency: a limit here would only be another queue.
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=100)
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


@dataclass(frozen=True, slots=True)
class ServiceAccess:
    """The services' addresses, the key (never printed), and the retries."""

    retrieval: str
    ingest: str
    key: str | None = field(repr=False)
    timeout_s: float
    retries: Retries

    def request(self, http: httpx.Client | httpx.AsyncClient, call: Call) -> httpx.Request:
        """The HTTP request of *call*."""
        base: Mapping[Literal["retrieval", "ingest"], str] = {"retrieval": self.retrieval, "ingest": self.ingest}
        headers = {"Accept": "application/json", **call.headers}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        content = call.content
        if content is not None:
            headers["Content-Type"] = "application/json"
        timeout = httpx.Timeout(self.timeout_s + call.extra_wait_s, connect=min(2.0, self.timeout_s))
        url = base[call.service].rstrip("/") + call.path
        return http.build_request(
            call.method, url, params=dict(call.params), content=content, headers=headers, timeout=timeout
        )

    def attempts(self, call: Call, draw: Callable[[], float]) -> Attempts:
        """The attempts of *call*."""
        return Attempts(self.retries, is_repeatable=call.is_repeatable, now_s=time.monotonic, draw=draw)

    def lost(self, call: Call, error: httpx.HTTPError) -> NearlineError:
        """The error for a *call* without an answer."""
        where = self.retrieval if call.service == "retrieval" else self.ingest
        words = f"{call.method} {call.path}: {call.service} at {where} gave no answer: {error!r:.200}"
        return Unavailable(words, was_sent=not isinstance(error, _NOT_SENT))


def answer(call: Call, response: httpx.Response) -> Any:
    """The answer to *call* in *response*, or raise its error."""
    return answer_in(call, response.status_code, response.headers, response.content)
