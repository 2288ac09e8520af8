"""Sends open-loop queries to an index in its own process: search only, without HTTP.

A query is twelve bytes and is sent when due, whether or not the index keeps up; an answer says when the search was
done. Latency counts from when the query was due to that moment, both by the system's monotonic clock. The process also
accepts commands, one line of JSON each, and answers each with a line. Standard library and numpy only.
"""

import json
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from local.layout import ROOT
from nearline.errors import Unavailable

QUESTION = struct.Struct("<Id")  # the query's number, when it was due
ANSWER = struct.Struct("<ddB")  # when it was due, when it was done, whether a graph was being built
# As services/retrieval/__main__.py sets them: huge pages, and no threads for a scan that is too short to share.
_TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1048576"
SURROUNDINGS = {"GLIBC_TUNABLES": _TUNABLES, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_DRAIN_S = 60.0
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of a run; milliseconds from when each query was due."""

    wanted_per_s: float
    per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    building: float  # share of the answers given while a graph was being built
    building_p99_ms: float | None  # p99 of those alone

    def within(self, bound_ms: float) -> bool:
        """Whether everything was answered at the wanted rate with p99 in the bound."""
        return self.p99_ms <= bound_ms and self.per_s >= 0.97 * self.wanted_per_s


class Pace:
    """How many changes are due at a rate that may be set anew at any moment."""

    def __init__(self) -> None:
        self._rate, self._since, self._base = 0.0, 0.0, 0

    def at_rate(self, per_s: float, done: int) -> None:
        """From now on so many a second; *done* are done already."""
        self._rate, self._since, self._base = per_s, time.perf_counter(), done

    @property
    def due(self) -> int:
        """How many should be done by now, those before included; 0 while there is no rate."""
        return self._base + int((time.perf_counter() - self._since) * self._rate) if self._rate else 0


class Asked:
    """A process that answers questions and commands; closed by ``with``, which ends it."""

    def __init__(self, words: Sequence[str], queries: int) -> None:
        self._socket, theirs = socket.socketpair()
        self._queries = queries
        self._next = 0
        with theirs:
            self._process = subprocess.Popen(
                [*words, "--socket", str(theirs.fileno())],
                cwd=ROOT,
                env={**os.environ, **SURROUNDINGS},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                text=True,
            )
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it: a process whose commands have ended goes by itself."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._socket.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tell(self, do: str, **how: Any) -> dict[str, Any]:
        """Send a command and return the answer; ``Unavailable`` if the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **how}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise Unavailable(f"the index under test ended with {self._process.wait()} while it should {do}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def trial(self, rate: float, seconds: float, *, behind_s: float = 0.25) -> Trial:
        """Ask *rate* questions a second for *seconds*; return when all are answered.

        It ends early once answers are so many seconds *behind*: then no bound is kept any more.
        """
        start = time.perf_counter()
        end, due, step = start + seconds, start, 1 / rate
        out, got = bytearray(), bytearray()
        asked = waiting = 0
        while (now := time.perf_counter()) < start + seconds + _DRAIN_S:
            while due <= now and due < end:
                out += QUESTION.pack(self._next, due)
                self._next = (self._next + 1) % self._queries
                asked, due = asked + 1, due + step
            waiting = asked - len(got) // ANSWER.size
            if waiting > behind_s * rate:
                end = min(end, now)
            if due >= end and waiting == 0:
                break
            self._exchange(out, got, max(0.0, due - time.perf_counter()) if due < end else 0.01)
        else:
            raise Unavailable(f"{waiting:,} of {asked:,} questions were not answered {_DRAIN_S:g} s after the last")
        return _result(bytes(got), rate, max(time.perf_counter() - start, seconds))

    def _exchange(self, out: bytearray, got: bytearray, timeout_s: float) -> None:
        readable, writable, _ = select.select([self._socket], [self._socket] if out else [], [], timeout_s)
        if writable:
            del out[: self._socket.send(out)]
        if readable:
            chunk = self._socket.recv(_CHUNK)
            if not chunk:
                raise Unavailable("the index under test hung up")
            got += chunk


def _result(got: bytes, rate: float, seconds: float) -> Trial:
    whole = got[: len(got) // ANSWER.size * ANSWER.size]
    answers = np.array(list(ANSWER.iter_unpack(whole)) or [(0.0, np.inf, 0.0)])
    took = (answers[:, 1] - answers[:, 0]) * 1e3
    building = answers[:, 2] > 0
    p50, p99, most = np.percentile(took, [50, 99, 100]).tolist()
    apart = float(np.percentile(took[building], 99)) if building.any() else None
    return Trial(rate, len(took) / seconds, p50, p99, most, float(building.mean()), apart)


def as_plain(trial: Trial | None) -> Mapping[str, Any]:
    """A trial as the results file has it; a rate of 0 when there was none."""
    if trial is None:
        return {"rps": 0, "p99_ms": None}
    apart = trial.building_p99_ms
    return {
        "rps": round(trial.per_s),
        "p50_ms": round(trial.p50_ms, 2),
        "p99_ms": round(trial.p99_ms, 2),
        "max_ms": round(trial.max_ms, 1),
        "building": round(trial.building, 2),
        "building_p99_ms": None if apart is None else round(apart, 2),
    }
