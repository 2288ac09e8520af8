"""``nearline recommend``: what it asks retrieval, and how it tells a refusal."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from nearline.cli.answers import get_answer
from nearline.errors import BadInput, Misconfigured
from nearline.key_file import write_key
from nearline.settings import Settings, load_settings


class Retrieval(HTTPServer):
    """Answers every request with what a test put here, and remembers what it was asked."""

    status = 200
    said: object = {"items": []}

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.presented: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def settings(self, **given: str) -> Settings:
        """Those of a command line that asks this server."""
        return load_settings({"NEARLINE_RETRIEVAL": self.url, "NEARLINE_DATA": "/nowhere"} | given)


class Handler(BaseHTTPRequestHandler):
    server: Retrieval

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.asked.append((parts.path, parse_qs(parts.query)))
        self.server.presented.append(self.headers["Authorization"])
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
    get_answer(retrieval.settings(), "u/1", k=3, wanted=expression)
    get_answer(retrieval.settings(), "u2", k=5)
    first, second = retrieval.asked
    assert first == ("/recommend/u%2F1", {"k": ["3"], "exclude_seen": ["all"], "filter": [expression]})
    assert second == ("/recommend/u2", {"k": ["5"], "exclude_seen": ["all"]})


def test_a_refusal_is_printed_as_the_service_worded_it(retrieval: Retrieval) -> None:
    problem = "unknown name 'prize', at character 0:\nprize < 3\n^"
    retrieval.status = 422
    retrieval.said = {"detail": [{"field": "filter", "came": "prize < 3", "problem": problem, "position": 0}]}
    with pytest.raises(BadInput) as refused:
        get_answer(retrieval.settings(), "u1", k=3, wanted="prize < 3")
    assert str(refused.value) == f"filter: {problem}"


def test_the_key_comes_from_the_variable_or_else_from_the_data_folder(retrieval: Retrieval, tmp_path: Path) -> None:
    kept, given = (f"nl_{'0' * 12}_{digit * 64}" for digit in "ab")
    get_answer(retrieval.settings(), "u1", k=1)
    write_key(tmp_path / "key", kept)
    get_answer(retrieval.settings(NEARLINE_DATA=str(tmp_path)), "u1", k=1)
    get_answer(retrieval.settings(NEARLINE_DATA=str(tmp_path), NEARLINE_KEY=given), "u1", k=1)
    assert retrieval.presented == [None, f"Bearer {kept}", f"Bearer {given}"]
    assert given not in repr(retrieval.settings(NEARLINE_KEY=given))


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_reported_with_its_origin(retrieval: Retrieval, status: int) -> None:
    retrieval.status = status
    retrieval.said = {"detail": [{"field": "authorization", "came": "", "problem": "no such key"}], "allowed": {}}
    with pytest.raises(Misconfigured, match=r"no such key\. The key comes from /nowhere/key; `nearline keys ensure`"):
        get_answer(retrieval.settings(), "u1", k=1)
    with pytest.raises(Misconfigured, match="comes from NEARLINE_KEY") as refused:
        get_answer(retrieval.settings(NEARLINE_KEY="nl_secret"), "u1", k=1)
    assert "nl_secret" not in str(refused.value)
