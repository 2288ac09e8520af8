"""Makes tests/e2e/data_folders/567839d.tar.xz: a data folder as the tree of 2026-11-22 left it, with its answers.

    .venv/services/bin/python -m tools.upgrade_fixture [--tree FOLDER]

tests/e2e/test_upgrade.py starts this tree's system on it. The commit is checked out under build/bench-ref/ and given
its environments, unless FOLDER is a checkout of it that is ready to run. Its own code runs the system; the archive has
the log, the job's checkpoint, the store, the index's snapshot and the keys, and `expected.json`: the answers before the
stop. Left out is what every start makes anew: logs, process files, Flink's home. It takes two minutes.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.reference.trees import Tree, tree_of
from local.layout import ROOT
from local.processes import wait_until
from nearline.keys import Permission
from nearline.settings import PREFIX

COMMIT = "567839d"
ARCHIVE = ROOT / "tests" / "e2e" / "data_folders" / f"{COMMIT}.tar.xz"
# Nothing in it may expire by itself: the archive is read for years.
SETTINGS = {"NEARLINE_HISTORY_TTL_DAYS": "36500"}
KEPT = (
    "kafka/log",
    "flink/checkpoints",
    "flink/kafka-cluster",
    "flink/starts.json",
    "store",
    "snapshots",
    "key",
    "expected.json",
)
DELETED, SOLD_OUT = "lamp-9", "lamp-8"
ITEMS: dict[str, dict[str, Any]] = {
    f"{kind}-{n}": {
        "title": f"{colour} {kind} {size}",
        "category": f"{kind}s",
        "price": 2.5 * n + 1,
        "brand": brand,
        "attributes": {"colour": colour, "set": n % 2 == 0},
    }
    for kind, brand in (("lamp", "Old Harbour"), ("teapot", "Hill"), ("cushion", "Hill"), ("clock", "Old Harbour"))
    for n, (colour, size) in enumerate(
        (colour, size) for colour in ("red", "blue", "green", "white", "black") for size in ("small", "large")
    )
}
RULES = """
[[rules]]
rule_id = "no-clocks-at-home"
action = "block"
filter = 'category = "clocks"'
scenario = "home"

[[scenarios]]
scenario = "home"
parameters = { k = 12 }
"""
_DEADLINE_S = 90.0
_SEED = 22
_MINUTE_MS = 60_000
_FOLDER = re.compile(rb"/tmp/nearline-upgrade-\w{8}")
# The old tree's own code runs this: the system is ready when the line is printed, and stops when the input ends.
_SERVE = """
import json, sys
from pathlib import Path
from local.system import embedded_system, interrupt_on_sigterm
interrupt_on_sigterm()
data, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
with embedded_system(data, settings=settings, say=lambda line: print(line, file=sys.stderr)) as system:
    ready = {"retrieval": system.retrieval, "ingest": system.ingest, "key": system.key}
    print(json.dumps({**ready, "environment": system.environment()}), flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class EarlierSystem:
    """A running system of the old tree, as a shop calls it."""

    tree: Tree
    retrieval: str
    ingest: str
    key: str
    environment: Mapping[str, str]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """What ingest answers."""
        answer = httpx.request(method, f"{self.ingest}{path}", json=body, headers=self._bearer, timeout=20.0)
        answer.raise_for_status()
        return answer.json()

    def read(self, path: str, **asked: str | int) -> dict[str, Any]:
        """What retrieval answers, with the status."""
        answer = httpx.get(f"{self.retrieval}{path}", params=asked, headers=self._bearer, timeout=20.0)
        return {**answer.json(), "status": answer.status_code}

    def nearline(self, *words: str) -> str:
        """What the old tree's command line prints."""
        command = [str(self.tree.python), "-m", "nearline.cli", *words]
        environment = {**os.environ, **self.environment, "COLUMNS": "200"}
        return subprocess.run(command, cwd=self.tree.root, env=environment, check=True, stdout=-1, text=True).stdout

    @property
    def _bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@contextmanager
def running(tree: Tree, data: Path) -> Iterator[EarlierSystem]:
    """Run the *tree*'s system in the folder *data*; it is stopped in order at the end."""
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
    process = subprocess.Popen(
        [str(tree.python), "-P", "-c", _SERVE, str(data), json.dumps(SETTINGS)],
        cwd=tree.root,
        env={**environment, "PYTHONPATH": str(tree.root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield EarlierSystem(tree, **json.loads(process.stdout.readline()))
    finally:
        process.communicate()  # closes its input
    if process.returncode:
        sys.exit(f"the system of {tree.name} ended with exit status {process.returncode}: see what it wrote above")


def fill(shop: EarlierSystem) -> dict[str, Any]:
    """List the items, let six users be users, and return the answers."""
    shop.call("POST", "/items", [{"item_id": item_id, **item} for item_id, item in ITEMS.items()])
    shop.call("DELETE", f"/items/{DELETED}")
    shop.call("PATCH", f"/items/{SOLD_OUT}", {"available": False})
    _until(lambda: len(shop.read("/recommend/unknown", k=100)["items"]) == len(ITEMS) - 2, "the items are shown")
    _be_users(shop)
    keys = _keys(shop)
    rules = shop.environment["NEARLINE_DATA"] + "/rules.toml"
    Path(rules).write_text(RULES)
    shop.nearline("rules", "put", rules)
    return {"keys": keys, **_answers(shop)}


def _be_users(shop: EarlierSystem) -> None:
    begin = time.time_ns() // 1_000_000 - 100 * _MINUTE_MS
    chance = random.Random(_SEED)
    # The first ten of anna's events leave her window of 50; of some items they alone tell.
    early = [f"clock-{n}" for n in range(4)]
    later = [item for item in ITEMS if item.startswith(("teapot", "cushion-1", "cushion-2"))]
    anna = [*(chance.choice(early) for _ in range(6)), *early, *(chance.choice(later) for _ in range(50))]
    kinds = ["purchase" if n % 12 == 11 else "click" for n in range(60)]
    told = [("anna", item, kind) for item, kind in zip(anna, kinds, strict=True)]
    told += [("bert", f"cushion-{n}", "click") for n in range(4)]
    told += [("cora", f"clock-{n}", "click") for n in range(4)]
    told += [("s-1", "lamp-1", "click"), ("s-1", "lamp-2", "add_to_cart"), ("dora", "teapot-1", "click")]
    told += [("emil", "clock-5", "click"), ("emil", "clock-6", "click"), ("fred", "lamp-3", "purchase")]
    events = [
        {"event_id": f"e-{n}", "user_id": user, "item_id": item, "type": kind, "time_ms": begin + n * _MINUTE_MS}
        for n, (user, item, kind) in enumerate(told)
    ]
    sent = shop.call("POST", "/events", events)
    assert not sent["refused"], sent
    shop.call("PUT", "/users/bert", {"country": "DE", "interests": ["tea"], "attributes": {"tier": "gold"}})
    last = {each["user_id"]: each["event_id"] for each in events}
    for user in last:
        _until(lambda user=user: _newest(shop, user) == last[user], f"the last event of {user} counts")
    shop.call("DELETE", "/users/cora")
    shop.call("POST", "/users/dora/merge", {"session_id": "s-1"})
    shop.call("DELETE", f"/users/emil/events/{last['emil']}")
    _until(lambda: shop.read("/users/cora")["status"] == 404, "cora is erased")
    _until(lambda: shop.read("/users/dora").get("seen") == 3, "the session is dora's")
    _until(lambda: shop.read("/users/emil").get("seen") == 1, "the event of emil is removed")
    _until(lambda: shop.read("/users/s-1")["status"] == 404, "the session is no user")


def _newest(shop: EarlierSystem, user: str) -> str | None:
    found: str | None = shop.read(f"/users/{user}").get("newest_event_id")
    return found


def _keys(shop: EarlierSystem) -> dict[str, str]:
    keys = {scope.value: shop.nearline("keys", "create", "--name", scope, "--scope", scope) for scope in Permission}
    keys["revoked"] = shop.nearline("keys", "create", "--name", "revoked", "--scope", "read")
    keys = {name: key.strip() for name, key in keys.items()}
    shop.nearline("keys", "revoke", keys["revoked"].split("_")[1])
    return keys


def _answers(shop: EarlierSystem) -> dict[str, Any]:
    users = ("anna", "bert", "cora", "dora", "emil", "fred", "s-1")
    _until(lambda: len(shop.read("/recommend/fred", scenario="home")["items"]) == 12, "the scenario is known")
    return {
        "recommend": {user: shop.read(f"/recommend/{user}", k=100) for user in users},
        "home": shop.read("/recommend/fred", scenario="home"),
        "users": {user: shop.read(f"/users/{user}") for user in users},
        "similar": {item: shop.read(f"/similar/{item}", k=10) for item in ("teapot-1", DELETED)},
        "profile": shop.call("GET", "/users/bert"),
        "item": shop.call("GET", "/items/teapot-1"),
    }


def _until(holds: Any, what: str) -> None:
    if not wait_until(holds, _DEADLINE_S):
        sys.exit(f"it is not so that {what}, after {_DEADLINE_S:.0f} s")


def _two_checkpoints_later(data: Path) -> None:
    """Wait until the job's newest checkpoint was begun after everything that was done."""
    newest = _newest_checkpoint(data)
    _until(lambda: _newest_checkpoint(data) >= newest + 2, "the job makes checkpoints")


def _newest_checkpoint(data: Path) -> int:
    complete = (data / "flink" / "checkpoints").glob("*/chk-*/_metadata")
    return max((int(path.parent.name.removeprefix("chk-")) for path in complete), default=0)


def pack(data: Path, archive: Path) -> None:
    """Write what is kept of *data* into *archive*."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz", preset=9) as packed:
        for name in KEPT:
            packed.add(data / name, name)


def new_folder() -> Path:
    """A new folder whose path is as long as that of every other one: a checkpoint has its files' full paths."""
    return Path(tempfile.mkdtemp(prefix="nearline-upgrade-", dir="/tmp"))


def unpack(archive: Path, data: Path) -> None:
    """Unpack the *archive* into *data*, which ``new_folder`` made, as if it had always been there."""
    with tarfile.open(archive) as packed:
        packed.extractall(data, filter="data")
    for file in (data / "flink" / "checkpoints").glob("*/chk-*/_metadata"):
        written = file.stat()
        file.write_bytes(_FOLDER.sub(os.fsencode(data), file.read_bytes()))
        os.utime(file, ns=(written.st_atime_ns, written.st_mtime_ns))  # the job takes the newest


def main() -> None:
    """Make the archive."""
    parser = argparse.ArgumentParser(prog="python -m tools.upgrade_fixture", description=main.__doc__)
    parser.add_argument("--tree", type=Path, help=f"a checkout of {COMMIT}, with its environments and downloads")
    given = parser.parse_args().tree
    tree = Tree(COMMIT, given.resolve()) if given else tree_of(COMMIT, print)
    data = new_folder()
    try:
        with running(tree, data) as shop:
            answers = fill(shop)
            (data / "expected.json").write_text(json.dumps(answers, indent=1, sort_keys=True))
            _two_checkpoints_later(data)
        pack(data, ARCHIVE)
    finally:
        shutil.rmtree(data)
    print(f"{ARCHIVE.relative_to(ROOT)}: {ARCHIVE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
