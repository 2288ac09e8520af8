"""The preparation of Couchbase against a server of our own that answers as Couchbase's REST reference says.

It shows that the steps are in order, leave what is there alone and refuse what cannot be mended. That a real server
answers so is shown by nothing here.
"""

import base64
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deploy.couchbase.initialise import Refused, Target, initialise, roles_for, target_from

STORE = "couchbase://nearline:secret@couchbase/vectors"
ADMIN = {"COUCHBASE_ADMIN": "Administrator", "COUCHBASE_ADMIN_PASSWORD": "root-secret"}


@dataclass
class Server:
    """A fresh Couchbase: what it was told and what it has become."""

    enterprise: bool = True
    warming_rounds: int = 1
    failing_rounds: int = 0
    grants: bool = True
    admin: tuple[str, str] | None = None
    buckets: dict[str, dict[str, str]] = field(default_factory=dict)
    users: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, form: dict[str, str], who: tuple[str, str] | None) -> tuple[int, object]:
        """Status and body of one call."""
        if self.failing_rounds > 0:
            self.failing_rounds -= 1
            return 503, "starting"
        if method != "GET":
            self.changes.append(f"{method} {path}")
        if path == "/whoami":
            return self._whoami(who)
        if path == "/clusterInit" and self.admin is None:
            self.admin = (form["username"], form["password"])
            return 200, {"newBaseUri": "http://127.0.0.1:8091/"}
        if self.admin is not None and who != self.admin:
            return 401, ""
        if path == "/pools":
            return 200, {"isEnterprise": self.enterprise}
        if self.admin is None:
            return 404, "unknown pool"
        return self._administer(method, path, form)

    def _administer(self, method: str, path: str, form: dict[str, str]) -> tuple[int, object]:
        if path == "/pools/default":
            return 200, {"name": "default"}
        if (method, path) == ("POST", "/pools/default/buckets"):
            self.buckets[form["name"]] = form
            return 202, ""
        if path.startswith("/pools/default/buckets/"):
            return self._bucket(path.rpartition("/")[2])
        if method == "PUT" and path.startswith("/settings/rbac/users/local/"):
            self.users[path.rpartition("/")[2]] = (form["password"], form["roles"].split(",") if self.grants else [])
            return 200, ""
        return 400, f"{method} {path} is not known"

    def _bucket(self, name: str) -> tuple[int, object]:
        if name not in self.buckets:
            return 404, "Requested resource not found."
        self.warming_rounds -= 1
        return 200, {"nodes": [{"status": "healthy" if self.warming_rounds < 0 else "warmup"}]}

    def _whoami(self, who: tuple[str, str] | None) -> tuple[int, object]:
        password, roles = self.users.get(who[0], ("", [])) if who else ("", [])
        if who is None or who[1] != password:
            return 401, ""
        named = [re.fullmatch(r"(\w+)\[(\w+)\]", role) for role in roles]
        return 200, {"roles": [{"role": m[1], "bucket_name": m[2], "scope_name": "*"} for m in named if m]}


@contextmanager
def listening(server: Server) -> Iterator[Target]:
    """*server* on a free port, and the target that points at it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "").removeprefix("Basic ")
            name, _, password = base64.b64decode(given).decode().partition(":")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            who = (name, password) if given else None
            status, said = server.answer(self.command, self.path, dict(urllib.parse.parse_qsl(body)), who)
            text = (said if isinstance(said, str) else json.dumps(said)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_PUT = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output quiet."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield target_at(httpd.server_port)
    finally:
        httpd.shutdown()
        httpd.server_close()


def target_at(port: int) -> Target:
    store = STORE.replace("@couchbase/", "@127.0.0.1/")
    return target_from({"NEARLINE_STORE": store, "COUCHBASE_REST_PORT": str(port), **ADMIN})


def test_a_fresh_server_gets_a_cluster_a_bucket_and_a_user_with_two_rights() -> None:
    """Everything is made once, in order; the user may read and write one bucket and nothing else."""
    server = Server(warming_rounds=2, failing_rounds=2)
    with listening(server) as target:
        assert initialise(target, pause_s=0) == {("data_reader", "vectors"), ("data_writer", "vectors")}
    assert server.admin == ("Administrator", "root-secret")
    assert server.users == {"nearline": ("secret", ["data_reader[vectors]", "data_writer[vectors]"])}
    users = "PUT /settings/rbac/users/local/nearline"
    assert server.changes == ["POST /clusterInit", "POST /pools/default/buckets", users]


def test_a_second_run_changes_nothing_but_the_password() -> None:
    """What exists stays; a new password in the settings reaches the user."""
    server = Server()
    with listening(server) as target:
        initialise(target, pause_s=0)
        server.changes.clear()
        server.users["nearline"] = ("an old password", [])
        initialise(target, pause_s=0)
    assert server.changes == ["PUT /settings/rbac/users/local/nearline"]
    assert server.users["nearline"][0] == "secret"


def test_the_community_edition_gets_the_least_right_that_it_has() -> None:
    """It refuses data_reader and data_writer, so the user gets the bucket and still no other."""
    server = Server(enterprise=False)
    with listening(server) as target:
        assert initialise(target, pause_s=0) == roles_for("vectors", enterprise=False)
    assert server.users["nearline"][1] == ["bucket_full_access[vectors]"]


def test_another_administrators_password_is_refused_at_once() -> None:
    """Trying again cannot help, and the message names the variable."""
    server = Server(admin=("Administrator", "changed by hand"))
    with listening(server) as target, pytest.raises(Refused, match="COUCHBASE_ADMIN_PASSWORD"):
        initialise(target, pause_s=0)


def test_rights_that_did_not_arrive_are_refused() -> None:
    """The server's own word on the user counts, not that it took the order."""
    with listening(Server(grants=False)) as target, pytest.raises(Refused, match=r"has \[\], expected"):
        initialise(target, pause_s=0)


def test_a_server_that_stays_away_ends_the_wait() -> None:
    """The deadline's message says what was waited for."""
    server, waited_for = Server(failing_rounds=10**6), r"not ready within 0 s: GET /pools/default: 503"
    with listening(server) as target, pytest.raises(Refused, match=waited_for):
        initialise(target, deadline_s=0.05, pause_s=0)


@pytest.mark.parametrize(
    "store", ["", "lmdb:///data", "couchbase://host/bucket", "couchbase://u:p@host", "couchbase://u@h/b"]
)
def test_a_store_without_all_its_parts_is_refused(store: str) -> None:
    """Host, bucket, user and password come from one place."""
    with pytest.raises(Refused, match="couchbase://user:password@host/bucket"):
        target_from({"NEARLINE_STORE": store, **ADMIN})


def test_a_password_may_be_quoted_in_the_url() -> None:
    """What a URL cannot hold is percent-encoded there and decoded here."""
    target = target_from({"NEARLINE_STORE": "couchbase://nearline:p%40ss%2Fword@couchbase/vectors", **ADMIN})
    assert (target.base, target.password) == ("http://couchbase:8091", "p@ss/word")
