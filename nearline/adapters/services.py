"""Calls the HTTP APIs of retrieval and ingest with the operator's key."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import httpx

from nearline.errors import BadInput, Unavailable
from nearline.unreachable import unreachable

ServiceName = Literal["retrieval", "ingest"]
_AWAY = {408, 429, 502, 503, 504}
_UNPROVEN = 401


class Services:
    """Both services over one connection pool; *key* returns the headers with the key, and is called again after a 401.

    Belongs to the event loop that uses it; ``close`` closes the connections.
    """

    def __init__(
        self,
        addresses: Mapping[ServiceName, str],
        key: Callable[[], Mapping[str, str]],
        *,
        timeout_s: float = 5.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._addresses = {name: address.rstrip("/") for name, address in addresses.items()}
        self._key = key
        self._headers = {**key(), "Accept": "application/json"}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=60)
        self._http = httpx.AsyncClient(timeout=timeout_s, limits=limits, transport=transport)

    async def ask(
        self,
        service: ServiceName,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
    ) -> Any:
        """The service's JSON answer.

        ``BadInput`` with the field if it can never be accepted (reason ``not_found`` for a 404);
        ``Unavailable`` if the service, or a part that it needs, is down.
        """
        url = self._addresses[service] + path
        try:
            response = await self._send(method, url, params, body)
            if response.status_code == _UNPROVEN:
                self._headers |= self._key()
                response = await self._send(method, url, params, body)
        except httpx.HTTPError as error:
            raise unreachable(service, self._addresses[service], error) from None
        return _answer(service, response)

    async def _send(self, method: str, url: str, params: Mapping[str, Any] | None, body: Any) -> httpx.Response:
        return await self._http.request(method, url, params=params, json=body, headers=self._headers)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _answer(service: str, response: httpx.Response) -> Any:
    if response.status_code in _AWAY or response.status_code >= 500:
        raise Unavailable(f"{service} answered {response.status_code}: {response.text[:200]}")
    if response.status_code >= 400:
        raise _refusal(service, response)
    return response.json()


def _refusal(service: str, response: httpx.Response) -> BadInput:
    reason = "not_found" if response.status_code == 404 else f"status_{response.status_code}"
    try:
        first = response.json()["detail"][0]
        return BadInput(reason, str(first["problem"]), field=str(first.get("field", "")))
    except (ValueError, LookupError, TypeError):
        return BadInput(reason, f"{service} answered {response.status_code}: {response.text[:200]}")
