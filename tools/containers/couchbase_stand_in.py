"""Stands in for Couchbase Server in a container: CouchbaseMock, and answers of its REST interface as documented.

    python couchbase_stand_in.py HOST BUCKET PASSWORD

HOST is its own name; a user of the bucket's name may read and write it.

It holds documents in memory: a restart forgets them. Standard library only.
"""

import base64
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_REST, _MOCK, _DATA = 8091, 8092, 11210
_JAVA = ("/opt/java/bin/java", "-Xmx256m", "-cp", "/opt/couchbase-mock.jar", "com.couchbase.mock.CouchbaseMock")


def start_mock(host: str, bucket: str, password: str) -> int:
    """Start the mock server under the name *host*; returns the port of its documents."""
    sizes = ("--nodes", "1", "--replicas", "0", "--vbuckets", "64", "--cccp")
    subprocess.Popen([*_JAVA, "--host", host, "--port", str(_MOCK), *sizes, "--buckets", f"{bucket}:{password}"])
    asked = f"http://{host}:{_MOCK}/mock/get_mcports?bucket={bucket}"
    give_up = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(asked, timeout=2) as answer:
                return int(json.loads(answer.read())["payload"][0])
        except (OSError, ValueError):
            if time.monotonic() > give_up:
                raise
            time.sleep(0.2)


def forward(host: str, port: int) -> None:
    """Pass connections to the usual port of documents on to *port*, for ever."""
    with socket.create_server(("", _DATA)) as server:
        while True:
            client, _ = server.accept()
            mock = socket.create_connection((host, port))
            for source, target in ((client, mock), (mock, client)):
                threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with target, suppress(OSError):
        while part := source.recv(65_536):
            target.sendall(part)


def rest_answer(path: str, bucket: str, user: str) -> object:
    """The body of the REST interface's answer to what deploy/couchbase/initialise.py asks."""
    if path == "/pools":
        return {"isEnterprise": True}
    if path.startswith("/pools/default/buckets/"):
        return {"nodes": [{"status": "healthy"}]}
    if path == "/whoami":
        return {"id": user, "roles": [{"role": role, "bucket_name": bucket} for role in ("data_reader", "data_writer")]}
    return {}


def serve_rest(bucket: str) -> None:
    """Answer every call of the REST interface with 200, for ever."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            login = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
            body = json.dumps(rest_answer(self.path, bucket, login.partition(":")[0])).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    ThreadingHTTPServer(("", _REST), Handler).serve_forever()


def main() -> None:
    """Serve until the end."""
    host, bucket, password = sys.argv[1:]
    port = start_mock(host, bucket, password)
    threading.Thread(target=forward, args=(host, port), daemon=True).start()
    serve_rest(bucket)


if __name__ == "__main__":
    main()
