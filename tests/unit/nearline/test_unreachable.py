"""The message for a part that does not answer names the part and what to do, in one shape."""

import socket

import httpx
import pytest

from nearline.unreachable import is_here, unreachable


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "connection refused"),
        (httpx.ConnectError("[Errno 111] Connection refused"), "connection refused"),
        (httpx.ReadTimeout("timed out"), "no answer in time"),
        (TimeoutError(), "no answer in time"),
        (socket.gaierror(-2, "Name or service not known"), "no such host"),
        (httpx.RemoteProtocolError("Server disconnected"), "Server disconnected"),
    ],
    ids=repr,
)
def test_the_reason_is_said_without_an_exceptions_name(error: Exception, words: str) -> None:
    told = str(unreachable("retrieval", "http://127.0.0.1:8080", error))
    assert told == f"retrieval at http://127.0.0.1:8080 does not answer ({words}); `make up` starts the system"


def test_elsewhere_make_up_would_not_help() -> None:
    told = str(unreachable("the log (Kafka)", "kafka.shop:9092", TimeoutError()))
    assert told.endswith("(no answer in time); is it running, and is this its address?")


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1:9092", True),
        ("http://localhost:8080", True),
        ("[::1]:9092", True),
        ("127.0.0.1:9092,kafka:9092", False),
        ("https://shop.example", False),
    ],
)
def test_an_address_of_this_machine_is_known_as_such(address: str, here: bool) -> None:
    assert is_here(address) == here
