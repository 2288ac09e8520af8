"""A running uvicorn for tests that speak to it by socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import uvicorn

from nearline.adapters.http import bind


@contextlib.asynccontextmanager
async def running(server: uvicorn.Server) -> AsyncIterator[int]:
    """The port of *server* while it serves."""
    listener = bind("127.0.0.1", 0)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    async with asyncio.timeout(5):
        while not server.started:
            await asyncio.sleep(0)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listener.close()
