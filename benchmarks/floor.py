"""Measures the latency of an empty answer at this moment: the floor of every figure of this machine.

An empty server in its own process gets requests from the same generator. On a shared machine (a virtual one shares its
cores with others) the floor changes from minute to minute, and nothing inside shows it: no other process runs, no time
is counted as stolen. A p99 of 20 ms means one thing over a floor of 1 ms, another over 10.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from benchmarks.load import get, open_loop
from local.layout import ROOT
from local.ports import HOST, free_ports
from local.processes import wait_until
from local.system import http_ok
from nearline.errors import Unavailable

RATES = (30, 1_000)  # a second: where a core goes to sleep between two requests, and where it does not
_SECONDS = 4.0
_START_S = 60.0
_ANSWER = b"x" * 5_000  # about as long as fifty items

Floor = dict[str, float]


@contextmanager
def floor_server(seconds: float = _SECONDS) -> Iterator[Callable[[], Floor]]:
    """Run the server during the block; the yielded function measures for *seconds* per rate: p99 in ms by rate."""
    (port,) = free_ports(1)
    with subprocess.Popen([sys.executable, "-m", "benchmarks.floor", str(port)], cwd=ROOT) as server:
        try:
            if not wait_until(http_ok(port, "/"), _START_S):
                raise Unavailable(f"the empty server did not answer within {_START_S:g} s")
            yield lambda: _measure(f"http://{HOST}:{port}", seconds)
        finally:
            server.terminate()


def _measure(url: str, seconds: float) -> Floor:
    requests = [get(f"{url}/", "")]
    return {str(rate): round(open_loop(url, requests, rate, seconds).p99_ms, 2) for rate in RATES}


async def _answer(scope: Any, _: Any, send: Any) -> None:
    headers = [(b"content-length", str(len(_ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _ANSWER})


if __name__ == "__main__":
    uvicorn.run(
        _answer, host=HOST, port=int(sys.argv[1]), log_config=None, loop="uvloop", http="httptools", lifespan="off"
    )
