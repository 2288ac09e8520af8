"""``nearline recommend``: what it asks retrieval, and how it tells a refusal."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from nearline.cli.answers import get_answer
from nearline.errors import BadInput


class Retrieval(HTTPServer):
    """Answers every request with what a test put here, and remembers what it was asked."""

    status = 200
    said: object = {"items": []}

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Retrieval

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.asked.append((parts.path, parse_qs(parts.query)))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(orjson.dumps(self.server.said))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def retrieval() -> Iterator[Retrieval]:
    with Retrieval() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_filter_is_sent_as_it_was_written(retrieval: Retrieval) -> None:
    expression = 'brand = "A&B +" or attributes."é" < 3'
    get_answer(retrieval.url, "u/1", k=3, wanted=expression)
    get_answer(retrieval.url, "u2", k=5)
    first, second = retrieval.asked
    assert first == ("/recommend/u%2F1", {"k": ["3"], "exclude_seen": ["all"], "filter": [expression]})
    assert second == ("/recommend/u2", {"k": ["5"], "exclude_seen": ["all"]})


def test_a_refusal_is_told_in_its_own_words(retrieval: Retrieval) -> None:
    problem = "unknown name 'prize', at character 0:\nprize < 3\n^"
    retrieval.status = 422
    retrieval.said = {"detail": [{"field": "filter", "came": "prize < 3", "problem": problem, "position": 0}]}
    with pytest.raises(BadInput) as refused:
        get_answer(retrieval.url, "u1", k=3, wanted="prize < 3")
    assert str(refused.value) == f"filter: {problem}"
