"""What every answer of an API says about itself, by the servers of the services over a real socket."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from nearline.adapters.http import bind
from nearline.adapters.http_front import API_HEADERS
from nearline.adapters.queueing import _OURS, _printed
from services.ingest.app import _server as server_of_ingest
from services.retrieval.app import _server as server_of_retrieval

SERVERS: list[Callable[[Any], uvicorn.Server]] = [
    lambda app: server_of_ingest(app, 1.0),
    lambda app: server_of_retrieval(app, lambda scope: True),
]


async def whole(_: Request) -> Response:
    return JSONResponse({})


async def in_parts(_: Request) -> Response:
    return StreamingResponse(iter((b"{", b"}")), media_type="application/json")


@pytest.mark.parametrize("server_of", SERVERS, ids=["ingest", "retrieval"])
def test_no_answer_of_an_api_is_kept_or_taken_for_another_type(server_of: Callable[[Any], uvicorn.Server]) -> None:
    async def story() -> None:
        server = server_of(Starlette(routes=[Route("/whole", whole), Route("/parts", in_parts)]))
        listener = bind("127.0.0.1", 0)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
                for path in ("/whole", "/parts", "/nowhere"):
                    headers = (await client.get(path)).headers
                    for name, value in (("cache-control", "no-store"), ("x-content-type-options", "nosniff")):
                        assert headers.get_list(name) == [value], path
        finally:
            server.should_exit = True
            await serving
            listener.close()

    asyncio.run(story())


def test_an_answer_with_them_is_still_written_in_one_piece() -> None:
    ours = [(name.encode(), value.encode()) for name, value in API_HEADERS]
    piece = _OURS.of(ours)
    assert piece is not None
    head = _printed(200, [(b"content-type", b"application/json"), (b"content-length", b"2")], 2, piece)
    assert head is not None
    assert b"\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\n" in head
    assert _OURS.of([*ours, (b"date", b"today")]) is None
