"""Runs a tree's system, started by that tree's own code and measured by this one's."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.probe import Probe
from benchmarks.reference.trees import FOLDER, Tree
from local.system import Say
from nearline.errors import Unavailable
from nearline.settings import PREFIX

_RUNNER = Path(__file__).with_name("runner.py")
_STOP_S = 90.0
_STARTS = 3  # each part has a deadline of its own, which a busy machine may miss


@dataclass(frozen=True)
class Running:
    """A tree's system with its addresses and a probe; measurements only read this."""

    name: str
    kafka: str
    retrieval: str
    key: str
    ports: Mapping[str, int]
    probe: Probe
    parts: Callable[[], dict[str, int]]  # process ids by part, of this moment


@contextmanager
def running(tree: Tree, say: Say) -> Iterator[Running]:
    """Start the system of *tree* on free ports and give it when it is ready; on leaving no process is left."""
    with ExitStack() as opened:
        process, address = _started(tree, opened, say)
        probe = opened.enter_context(Probe(address["kafka"], address["retrieval"], address["key"]))
        yield Running(tree.name, **address, probe=probe, parts=lambda: _asked(process, tree))


def _started(tree: Tree, opened: ExitStack, say: Say) -> "tuple[subprocess.Popen[str], dict[str, Any]]":
    """The runner with the addresses that it says; a part that was not ready in time is given another chance."""
    for left in reversed(range(_STARTS)):
        process = opened.enter_context(_runner(tree))
        try:
            return process, _address(process, tree, say)
        except (KeyboardInterrupt, SystemExit):
            process.terminate()  # it would continue to start until it sees the end of its input
            raise
        except Unavailable as problem:
            if not left:
                raise
            say(f"{problem}; once more")
    raise AssertionError("the last start returns or raises")


@contextmanager
def _runner(tree: Tree) -> "Iterator[subprocess.Popen[str]]":
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
    data = FOLDER / f"data-{tree.name}"
    process = subprocess.Popen(
        [str(tree.python), "-P", str(_RUNNER), "--data", str(data)],
        cwd=tree.root,
        env={**environment, "PYTHONPATH": str(tree.root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches only us, and the end of its input stops the system in order
    )
    try:
        yield process
    finally:
        _end(process)
        shutil.rmtree(data, ignore_errors=True)


def _end(process: "subprocess.Popen[str]") -> None:
    try:
        process.communicate(timeout=_STOP_S)  # closes its input
    except subprocess.TimeoutExpired:
        process.kill()  # the supervisor and its programs end with it
        process.wait()


def _address(process: "subprocess.Popen[str]", tree: Tree, say: Say) -> dict[str, Any]:
    """Wait until the system is ready and return where it is."""
    while True:
        told = _line(process, tree)
        if "ready" in told:
            address: dict[str, Any] = told["ready"]
            return address
        say(f"{tree.name}: {told['say']}")


def _asked(process: "subprocess.Popen[str]", tree: Tree) -> dict[str, int]:
    assert process.stdin is not None
    process.stdin.write("parts\n")
    process.stdin.flush()
    return _line(process, tree)


def _line(process: "subprocess.Popen[str]", tree: Tree) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise Unavailable(f"the system of {tree.name} ended, exit status {process.wait()}: see what it wrote above")
    told: dict[str, Any] = json.loads(line)
    return told
