"""The fast path: answers well-formed ``GET /recommend`` requests before FastAPI's routing and validation.

Routing and validation would cost as much as the search. All other requests go on to FastAPI, so that refusals and the
OpenAPI document come from one declaration (parameters.py), which this path uses too.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from nearline.errors import BadInput
from nearline.guard import holder_of
from nearline.request_ids import HEADER, request_id_of
from nearline.telemetry import LoggedRequest, get_logger, in_request, logs_requests
from services.retrieval.parameters import request_in
from services.retrieval.request import RecommendRequest
from services.retrieval.spaces import Answering

ExceptionHandler = Callable[[Request, Exception], Awaitable[Response]]
_PREFIX = "/recommend/"
_KEPT = 1_000  # query strings
_KEPT_BYTES = 256 * 1024  # of query strings; a parsed filter takes about twenty times its text


class FastPath:
    """Answers well-formed ``GET /recommend/…`` requests and passes everything else on.

    *refuse* makes the answer to one that names something that does not exist.
    """

    def __init__(self, app: ASGIApp, answers: Answering, refuse: ExceptionHandler) -> None:
        self._app = app
        self._answers = answers
        self._refuse = refuse
        self._queries: dict[bytes, RecommendRequest | None] = {}
        self._bytes = 0  # of the kept query strings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if _is_ours(scope):
            user_id = scope["path"][len(_PREFIX) :]
            request = self._request(scope["query_string"])
            if request is not None and _is_plain(user_id):
                request_id = request_id_of(scope["headers"])
                in_request(LoggedRequest(request_id, user_id))
                if request.after is not None:
                    request = replace(request, holder=holder_of(scope))
                    await asyncio.sleep(0)  # makes this a task, which asyncio.timeout needs
                try:
                    body = await self._answers.answer(user_id, request, request_id)
                except BadInput as error:
                    refusal = await self._refuse(Request(scope), error)
                    await refusal(scope, receive, send)
                    return
                await send_json(send, body)
                if logs_requests():
                    get_logger().debug("request", route="recommend", status=200)
                return
            await asyncio.sleep(0)  # makes this a task, which FastAPI may need
        await self._app(_named(scope) if scope["type"] == "http" else scope, receive, send)

    def _request(self, raw: bytes) -> RecommendRequest | None:
        """The request in *raw*, or ``None`` if it is malformed and FastAPI should refuse it."""
        try:
            return self._queries[raw]
        except KeyError:
            request = request_in(raw)
            if request is None or not request.is_of_one_user:
                self._keep(raw, request)
            return request

    def _keep(self, raw: bytes, request: RecommendRequest | None) -> None:
        self._bytes += len(raw)
        if len(self._queries) >= _KEPT or self._bytes > _KEPT_BYTES:
            self._queries.clear()
            self._bytes = len(raw)
        self._queries[raw] = request


def waits_for_nothing(scope: Scope) -> bool:
    """Whether the request is usually answered without waiting, given that store and index are in this process."""
    return _is_ours(scope)


def _is_ours(scope: Scope) -> bool:
    return bool(scope["type"] == "http" and scope["method"] == "GET" and scope["path"].startswith(_PREFIX))


def _named(scope: Scope) -> Scope:
    """The request with its id in a header, so that its log lines and its answer have the same id."""
    request_id = request_id_of(scope["headers"])
    in_request(LoggedRequest(request_id))
    others = [pair for pair in scope["headers"] if pair[0] != HEADER]
    return {**scope, "headers": [*others, (HEADER, request_id.encode())]}


def _is_plain(user_id: str) -> bool:
    return 0 < len(user_id) <= 128 and user_id.isascii() and user_id.isprintable()


async def send_json(send: Send, body: bytes) -> None:
    """Send *body* as a complete 200 answer."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
