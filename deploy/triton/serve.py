"""Starts Triton so that a version which it refuses keeps no other from being served, and says whether one is served.

    python3 serve.py run ADDRESS REPOSITORY SECRET_FILE COMMAND…    become the server; ADDRESS is where its gRPC will be
    python3 serve.py ready ADDRESS VERSION MODEL…                   exit 0 when that version of each model is served
    python3 serve.py load ADDRESS SECRET_FILE MODEL…                load every version of each model again

The server has no HTTP port, because it would obey any page that is open in a browser of its machine. Of gRPC, whatever
changes the server (its models, shared memory, traces, logs) wants a secret, new at each start and kept in SECRET_FILE.

Triton loads all versions of a model or none. So once the server is up, a second process loads every model without a
served version again, one version after the other, and leaves out those that are refused. A request
to load a model whose new version is refused changes nothing: Triton goes on with the versions that it serves.

Standard library only, because Triton's image has no client; so gRPC is spoken here by hand.
"""

import ast
import json
import os
import re
import secrets
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

READY_S = 3.0
LOAD_S = 300.0
START_S = 600.0

_CHANGING = "model-repository,shared-memory,trace,logging"
_SECRET_NAME = "nearline"
_SERVICE = "/inference.GRPCInferenceService/"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GO_AWAY = 0, 1, 3, 4, 6, 7
_END, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_FRAME = 16_384  # the longest that every server takes
_WINDOW = 65_535  # what may be sent before the server has to say more
# The fields of a configuration that hold several values, also where the text has only one.
_LISTS = {"input", "output", "batch_input", "batch_output", "instance_group", "model_warmup", "dims", "shape", "gpus"}
_LISTS |= {"versions", "preferred_batch_size", "op", "step", "control_input", "control", "state", "initial_state"}
_LISTS |= {"source_input", "target_name", "profile", "secondary_devices", "agents", "resources"}
_MAPS = {"parameters", "metric_tags", "cc_model_filenames", "inputs", "input_map", "output_map"}
_TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{}\[\]<>:,;]|[^\s{}\[\]<>:,;#"']+""")


# --- gRPC, as much as a call with one request and one answer needs


def call(address: str, method: str, message: bytes, timeout_s: float, secret: str = "") -> bytes | None:
    """The server's answer to *message*, or ``None`` if it refuses; ``OSError`` if it does not answer in time."""
    host, _, port = address.rpartition(":")
    body = b"\0" + struct.pack(">I", len(message)) + message
    if len(body) > _WINDOW:
        raise ValueError(f"a message of {len(body):,} bytes is too long, at most {_WINDOW:,}")
    with socket.create_connection((host, int(port)), timeout=timeout_s) as connection:
        connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b"") + _head(address, method, secret) + _body(body))
        return _answer(connection)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _head(address: str, method: str, secret: str) -> bytes:
    fields = {":method": "POST", ":scheme": "http", ":path": _SERVICE + method, ":authority": address}
    fields |= {"content-type": "application/grpc", "te": "trailers"}
    fields |= secret_header(secret)
    packed = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
    return _frame(_HEADERS, _END_HEADERS, 1, packed)


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _body(body: bytes) -> bytes:
    parts = [body[start : start + _FRAME] for start in range(0, len(body), _FRAME)]
    return b"".join(_frame(_DATA, _END if part is parts[-1] else 0, 1, part) for part in parts)


def _answer(connection: socket.socket) -> bytes | None:
    received = b""
    with connection.makefile("rb") as stream:
        while True:
            kind, flags, payload = _next_frame(stream)
            if kind == _DATA:
                received += payload
            elif kind in (_SETTINGS, _PING) and not flags & _ACK:
                connection.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
            if kind in (_RESET, _GO_AWAY) or (kind in (_DATA, _HEADERS) and flags & _END):
                return received[5:] if len(received) >= 5 else None  # an error comes without a message


def _next_frame(stream: Any) -> tuple[int, int, bytes]:
    head = stream.read(9)
    if len(head) < 9:
        raise ConnectionResetError("the server ended the connection in the middle of an answer")
    size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
    return kind, flags, stream.read(size)


def _field(number: int, value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | 2]) + _length(len(raw)) + raw


def _length(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _length(rest) if rest else bytes([low])


# --- what is asked of Triton


def is_up(address: str) -> bool:
    """Whether the server answers, so has tried to load its models."""
    try:
        return call(address, "ServerLive", b"", READY_S) is not None
    except OSError:
        return False


def is_served(address: str, model: str, version: str) -> bool:
    """Whether that *version* of *model* answers requests; other models and versions do not matter."""
    try:
        return call(address, "ModelReady", _field(1, model) + _field(2, version), READY_S) == b"\x08\x01"
    except OSError:
        return False


def load(address: str, model: str, config: dict[str, Any] | None = None, *, secret: str) -> bool:
    """Have the server load *model*, by *config* if given; ``False`` if it refuses, and keeps what it served before."""
    message = _field(2, model)
    if config is not None:
        message += _field(3, _field(1, "config") + _field(2, _field(3, json.dumps(config))))
    return call(address, "RepositoryModelLoad", message, LOAD_S, secret) is not None


def serve_the_good(address: str, repository: Path, secret: str, say: Callable[[str], object]) -> None:
    """Have each model of *repository* that has no served version serve those that the server does not refuse."""
    for folder in sorted(path.parent for path in repository.glob("*/config.pbtxt")):
        versions = sorted((path.name for path in folder.iterdir() if path.name.isdigit()), key=int)
        if any(is_served(address, folder.name, version) for version in versions):
            continue
        config = config_in((folder / "config.pbtxt").read_text())
        good: list[str] = []
        for version in versions:
            if load(address, folder.name, _only(config, [*good, version]), secret=secret):
                good.append(version)
        refused = [version for version in versions if version not in good]
        say(f"{folder.name}: refused versions {refused} (why is above), served {good}")


def _only(config: dict[str, Any], versions: Sequence[str]) -> dict[str, Any]:
    return {**config, "version_policy": {"specific": {"versions": [int(version) for version in versions]}}}


# --- a model's config.pbtxt as the JSON that a request to load takes


def config_in(text: str) -> dict[str, Any]:
    """The configuration in *text*, in protobuf's text format."""
    return _message(iter([*(token for token in _TOKEN.findall(text) if token[0] != "#"), ""]), "")


def _message(tokens: Iterator[str], end: str) -> dict[str, Any]:
    fields: dict[str, list[Any]] = {}
    for name in tokens:
        if name == end:
            break
        if name in ",;":
            continue
        value = _value(tokens)
        fields.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    return {name: _json_of(name, values) for name, values in fields.items()}


def _value(tokens: Iterator[str]) -> Any:
    token = next(tokens)
    if token == ":":
        token = next(tokens)
    if token == "{":
        return _message(tokens, "}")
    if token == "[":
        return list(_values(tokens))
    return _scalar(token)


def _values(tokens: Iterator[str]) -> Iterator[Any]:
    for token in tokens:
        if token == "]":
            return
        if token != ",":
            yield _message(tokens, "}") if token == "{" else _scalar(token)


def _scalar(token: str) -> Any:
    if token[:1] in ("'", '"'):
        return ast.literal_eval(token)
    for kind in (int, float):
        try:
            return kind(token)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(token, token)


def _json_of(name: str, values: list[Any]) -> Any:
    if name in _MAPS:
        return {entry["key"]: entry["value"] for entry in values}
    return values if name in _LISTS or len(values) > 1 else values[0]


# --- what the server does for holders of the secret only


def new_secret(file: Path | None) -> str:
    """A secret for one start of the server, also written to *file*, which only its owner can read."""
    secret = secrets.token_hex(32)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(secret + "\n")
    return secret


def closed(secret: str) -> list[str]:
    """The server's options by which HTTP is off, and what changes the server wants *secret*."""
    return ["--allow-http=false", f"--grpc-restricted-protocol={_CHANGING}:{_SECRET_NAME}={secret}"]


def secret_header(secret: str) -> dict[str, str]:
    """The header of a request that presents *secret*; none without one."""
    return {f"triton-grpc-protocol-{_SECRET_NAME}": secret} if secret else {}


# --- the processes


def watch(address: str, repository: Path, secret: str) -> None:
    """Start the process that does ``serve_the_good`` once this process, which becomes the server, is up."""
    server = os.getpid()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    if os.fork() == 0:  # not the server's child: the server waits for none
        _serve_the_good_when_up(server, address, repository, secret)
    os._exit(0)


def _serve_the_good_when_up(server: int, address: str, repository: Path, secret: str) -> None:
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up and _runs(server):
        if is_up(address):
            try:
                serve_the_good(address, repository, secret, _say)
            except OSError as problem:
                _say(problem)
            return
        time.sleep(0.1)


def _say(line: object) -> None:
    print(f"triton: {line}", file=sys.stderr, flush=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main(words: Sequence[str]) -> None:
    """Do what the first word says."""
    if words[0] == "ready":
        away = [model for model in words[3:] if not is_served(words[1], model, words[2])]
        sys.exit(f"version {words[2]} of {', '.join(away)} is not served" if away else None)
    if words[0] == "load":
        secret = Path(words[2]).read_text().strip()
        refused = [model for model in words[3:] if not load(words[1], model, secret=secret)]
        sys.exit(
            f"{', '.join(refused)}: refused (its log says why); what was served before still is" if refused else None
        )
    secret = new_secret(Path(words[3]))
    watch(words[1], Path(words[2]), secret)
    os.execvp(words[4], [*words[4:], *closed(secret)])


if __name__ == "__main__":
    main(sys.argv[1:])
