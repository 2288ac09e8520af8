"""The fast path: well-formed requests for recommendations, answered before FastAPI's routing and validation.

Those would cost as much as the search. Everything else is passed on, so that a refusal and the OpenAPI document come
from one declaration (parameters.py), which this path reads requests by too.
"""

import asyncio
import secrets
from collections.abc import Iterable
from contextlib import suppress

from starlette.types import ASGIApp, Receive, Scope, Send

from nearline.errors import BadInput
from nearline.telemetry import LoggedRequest, get_logger, in_request, logs_requests
from services.retrieval.asked import Asked
from services.retrieval.parameters import asked_in
from services.retrieval.recommender import Recommender

_PREFIX = "/recommend/"
_KEPT = 1_000  # query strings
_KEPT_BYTES = 256 * 1024  # of them; a parsed filter takes some twenty times its text


class FastPath:
    """Answers well-formed ``GET /recommend/…`` requests and passes everything else on."""

    def __init__(self, app: ASGIApp, recommender: Recommender) -> None:
        self._app = app
        self._recommender = recommender
        self._queries: dict[bytes, Asked | None] = {}
        self._bytes = 0  # of what is kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if _is_ours(scope):
            user_id = scope["path"][len(_PREFIX) :]
            asked = self._asked(scope["query_string"])
            if asked is not None and _is_plain(user_id):
                request_id = request_id_of(scope["headers"])
                in_request(LoggedRequest(request_id, user_id))
                if asked.after is not None:
                    await asyncio.sleep(0)  # so that it has a task, which a deadline wants
                with suppress(BadInput):
                    body = await self._recommender.answer(user_id, asked, request_id)
                    await send_json(send, body)
                    if logs_requests():
                        get_logger().debug("request", route="recommend", status=200)
                    return
            await asyncio.sleep(0)  # FastAPI and what is under it may want a task
        await self._app(_named(scope) if scope["type"] == "http" else scope, receive, send)

    def _asked(self, raw: bytes) -> Asked | None:
        """What *raw* asks for, or ``None`` if FastAPI shall say what is wrong with it."""
        try:
            return self._queries[raw]
        except KeyError:
            asked = asked_in(raw)
            if asked is None or not asked.is_of_one_user:
                self._keep(raw, asked)
            return asked

    def _keep(self, raw: bytes, asked: Asked | None) -> None:
        self._bytes += len(raw)
        if len(self._queries) >= _KEPT or self._bytes > _KEPT_BYTES:
            self._queries.clear()
            self._bytes = len(raw)
        self._queries[raw] = asked


def waits_for_nothing(scope: Scope) -> bool:
    """Whether the answer is there at once, as a rule, if store and index are in this process."""
    return _is_ours(scope)


def _is_ours(scope: Scope) -> bool:
    return bool(scope["type"] == "http" and scope["method"] == "GET" and scope["path"].startswith(_PREFIX))


def _named(scope: Scope) -> Scope:
    """The request with its id among its headers, so that its log lines and its answer name the same one."""
    request_id = request_id_of(scope["headers"])
    in_request(LoggedRequest(request_id))
    others = [pair for pair in scope["headers"] if pair[0] != b"x-request-id"]
    return {**scope, "headers": [*others, (b"x-request-id", request_id.encode())]}


def _is_plain(user_id: str) -> bool:
    return 0 < len(user_id) <= 128 and user_id.isascii() and user_id.isprintable()


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The caller's X-Request-ID if it is a short printable one, else a new one."""
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    text = given.decode("latin-1")
    return text if 0 < len(text) <= 128 and text.isascii() and text.isprintable() else secrets.token_hex(8)


async def send_json(send: Send, body: bytes) -> None:
    """Send *body* as the whole of a good answer."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
