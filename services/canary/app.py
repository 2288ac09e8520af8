"""canary's composition root: opens its users' dependencies, and closes them."""

import asyncio
import contextlib

from nearline.adapters.api import Api
from nearline.adapters.http import status_server
from nearline.key_file import key_headers
from nearline.process import run_part
from nearline.settings import Settings
from nearline.telemetry import get_logger
from services.canary.canary import Canary, click_for_ever
from services.canary.shop import CanaryShop

_TIMEOUT_S = 3.0


async def serve(settings: Settings) -> None:
    """Click until cancelled, also while other parts are down."""
    ingest, retrieval = (Api(url, timeout_s=_TIMEOUT_S) for url in (settings.ingest, settings.retrieval))
    canary = Canary(CanaryShop(ingest, retrieval, lambda: key_headers(settings)))
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(status_server(settings.host, settings.canary_port, dict))
        stack.callback(ingest.close)
        stack.callback(retrieval.close)
        get_logger().info("ready", every_s=settings.canary_every_s)
        if settings.canary_every_s:
            await click_for_ever(canary, settings.canary_every_s)
        await asyncio.Event().wait()


def main() -> None:
    """Entry point of ``python -m services.canary``."""
    run_part("canary", serve)
