"""Bring a fresh Couchbase server to what Nearline needs: a cluster of one, a bucket and a user with few rights.

    NEARLINE_STORE=couchbase://user:password@host/bucket \\
    COUCHBASE_ADMIN=… COUCHBASE_ADMIN_PASSWORD=… python deploy/couchbase/initialise.py

Host, bucket, user and password are those of NEARLINE_STORE, so they are said once. Every step asks first and does only
what is missing; the user's password and rights are set anew each time. It returns when the bucket serves, also after a
restart of the server. Only the standard library and Couchbase's REST interface (port 8091) are needed.
"""

import base64
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

REST_PORT = 8091
DEADLINE_S = 180.0
REQUEST_TIMEOUT_S = 10.0
PAUSE_S = 1.0


class Refused(Exception):
    """The server answered, and trying again will not help."""


class NotYet(Exception):
    """The server is starting: ask again."""


@dataclass(frozen=True)
class Target:
    """What the server is to become; *base* is its REST address."""

    base: str
    bucket: str
    user: str
    password: str
    admin: str
    admin_password: str
    cluster_memory_mib: int
    bucket_memory_mib: int


@dataclass(frozen=True)
class Answer:
    """Status and body of one REST call; *data* is ``None`` when the body is not JSON."""

    status: int
    text: str

    @property
    def data(self) -> dict[str, object] | None:
        try:
            parsed = json.loads(self.text)
        except ValueError:
            return None
        return parsed if isinstance(parsed, dict) else None


def target_from(environ: Mapping[str, str]) -> Target:
    """The target that *environ* describes; ``Refused`` when the store's URL lacks a part."""
    store = urllib.parse.urlsplit(environ["NEARLINE_STORE"])
    bucket = store.path.strip("/")
    if store.scheme != "couchbase" or not (store.hostname and bucket and store.username and store.password):
        raise Refused("NEARLINE_STORE: expected couchbase://user:password@host/bucket")
    return Target(
        base=f"http://{store.hostname}:{environ.get('COUCHBASE_REST_PORT', REST_PORT)}",
        bucket=bucket,
        user=urllib.parse.unquote(store.username),
        password=urllib.parse.unquote(store.password),
        admin=environ["COUCHBASE_ADMIN"],
        admin_password=environ["COUCHBASE_ADMIN_PASSWORD"],
        cluster_memory_mib=int(environ.get("COUCHBASE_MEMORY_MIB", "512")),
        bucket_memory_mib=int(environ.get("COUCHBASE_BUCKET_MIB", "256")),
    )


def call(
    target: Target, method: str, path: str, form: Mapping[str, object] | None = None, *, who: tuple[str, str] | None
) -> Answer:
    """One REST call as *who* (``None``: no login); ``NotYet`` when nothing answers or the server has not started up."""
    body = urllib.parse.urlencode(form).encode() if form is not None else None
    request = urllib.request.Request(target.base + path, data=body, method=method)
    if who is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(":".join(who).encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as answer:
            return Answer(answer.status, answer.read().decode())
    except urllib.error.HTTPError as refused:
        answer = Answer(refused.code, refused.read().decode(errors="replace"))
        if refused.code >= 500:
            raise NotYet(f"{method} {path}: {answer.status} {answer.text}") from None
        return answer
    except OSError as away:
        raise NotYet(f"{method} {path}: {away}") from None


def ensure_cluster(target: Target) -> None:
    """Make the fresh server a cluster of one with the data service only; an initialised one is left as it is."""
    answer = call(target, "GET", "/pools/default", who=_admin(target))
    if answer.status == 200:
        return
    if answer.status != 404:  # 404 "unknown pool" is how a fresh server says that it belongs to no cluster
        raise Refused(f"administrator {target.admin!r}: {answer.status} {answer.text} (COUCHBASE_ADMIN_PASSWORD?)")
    form = {
        "services": "kv",
        "memoryQuota": target.cluster_memory_mib,
        "username": target.admin,
        "password": target.admin_password,
        "port": "SAME",
        "sendStats": "false",
    }
    _accepted(call(target, "POST", "/clusterInit", form, who=None), "initialising the cluster")


def ensure_bucket(target: Target) -> None:
    """Create the bucket when there is none, and wait (``NotYet``) until every node serves it."""
    answer = call(target, "GET", f"/pools/default/buckets/{target.bucket}", who=_admin(target))
    if answer.status == 404:
        # Full eviction: the keys of idle users need no memory. No replica: there is one node.
        form = {
            "name": target.bucket,
            "bucketType": "couchbase",
            "ramQuota": target.bucket_memory_mib,
            "replicaNumber": 0,
            "evictionPolicy": "fullEviction",
            "flushEnabled": 0,
        }
        _accepted(call(target, "POST", "/pools/default/buckets", form, who=_admin(target)), "creating the bucket")
        raise NotYet(f"bucket {target.bucket!r} was created and is starting")
    _accepted(answer, f"looking at bucket {target.bucket!r}")
    nodes = (answer.data or {}).get("nodes")
    states = [node.get("status") for node in nodes] if isinstance(nodes, list) else []
    if not states or set(states) != {"healthy"}:
        raise NotYet(f"bucket {target.bucket!r}: nodes are {states}")


def roles_for(bucket: str, *, enterprise: bool) -> set[tuple[str, str]]:
    """The fewest rights with which documents of *bucket* can be read, written and removed, as (role, bucket)."""
    if enterprise:
        return {("data_reader", bucket), ("data_writer", bucket)}
    return {("bucket_full_access", bucket)}  # the least that the community edition knows


def ensure_user(target: Target) -> set[tuple[str, str]]:
    """Set the user's password and rights, log in as that user, and return the rights that the server says it has."""
    about = call(target, "GET", "/pools", who=_admin(target))
    _accepted(about, "asking for the edition")
    wanted = roles_for(target.bucket, enterprise=bool((about.data or {}).get("isEnterprise")))
    form = {"password": target.password, "roles": ",".join(sorted(f"{role}[{bucket}]" for role, bucket in wanted))}
    path = "/settings/rbac/users/local/" + urllib.parse.quote(target.user, safe="")
    _accepted(call(target, "PUT", path, form, who=_admin(target)), f"setting user {target.user!r}")
    given = rights_of(target)
    if given != wanted:
        raise Refused(f"user {target.user!r} has {sorted(given)}, expected {sorted(wanted)}")
    return given


def rights_of(target: Target) -> set[tuple[str, str]]:
    """The (role, bucket) pairs that the server reports to the user itself; ``NotYet`` while it cannot log in."""
    answer = call(target, "GET", "/whoami", who=(target.user, target.password))
    if answer.status == 401:
        raise NotYet(f"user {target.user!r} cannot log in yet")
    _accepted(answer, f"logging in as {target.user!r}")
    roles = (answer.data or {}).get("roles")
    return {(r["role"], r.get("bucket_name", "*")) for r in roles} if isinstance(roles, list) else set()


def initialise(target: Target, *, deadline_s: float = DEADLINE_S, pause_s: float = PAUSE_S) -> set[tuple[str, str]]:
    """Do every step, from the first again after each ``NotYet``, and return the user's rights."""
    give_up = time.monotonic() + deadline_s
    while True:
        try:
            ensure_cluster(target)
            ensure_bucket(target)
            return ensure_user(target)
        except NotYet as waiting:
            if time.monotonic() > give_up:
                raise Refused(f"not ready within {deadline_s:.0f} s: {waiting}") from None
            print(f"waiting: {waiting}", file=sys.stderr, flush=True)
        time.sleep(pause_s)


def _admin(target: Target) -> tuple[str, str]:
    return target.admin, target.admin_password


def _accepted(answer: Answer, doing: str) -> None:
    if answer.status >= 300:
        raise Refused(f"{doing}: {answer.status} {answer.text}")


if __name__ == "__main__":
    try:
        wanted = target_from(os.environ)
        rights = initialise(wanted)
    except Refused as problem:
        sys.exit(f"couchbase-init: {problem}")
    granted = ", ".join(f"{role}[{bucket}]" for role, bucket in sorted(rights))
    print(f"bucket {wanted.bucket!r} serves; user {wanted.user!r} has {granted}")
