"""Flink's REST interface, for savepoints.

PyFlink 2.2.1 has ``JobClient.stop_with_savepoint``, but it calls a Java method that Flink 2 no longer has.
"""

import time
from pathlib import Path
from typing import Any

import httpx

from nearline.errors import Unavailable
from nearline.unreachable import unreachable

_LOOK_S = 0.2


class FlinkJob:
    """The job that runs in the Flink at *rest*; ``Unavailable`` if Flink does not answer or runs none."""

    def __init__(self, rest: str) -> None:
        self._rest = rest.rstrip("/")

    def savepoint(self, folder: Path, *, stop: bool, deadline_s: float) -> Path:
        """Write a savepoint into *folder*, which Flink's processes must see, and return it; *stop* ends the job too.

        Where Flink ends with its job, its answer may never come: then the savepoint is found in *folder*.
        """
        job, before = self._running(), _complete(folder)
        if stop:
            answer = self._call("POST", f"/jobs/{job}/stop", {"targetDirectory": folder.as_uri(), "drain": False})
        else:
            asked = {"target-directory": folder.as_uri(), "cancel-job": False}
            answer = self._call("POST", f"/jobs/{job}/savepoints", asked)
        try:
            return self._written(f"/jobs/{job}/savepoints/{answer['request-id']}", deadline_s)
        except Unavailable:
            written = _complete(folder) - before
            if not stop or len(written) != 1:
                raise
            return written.pop()

    def cancel(self) -> None:
        """Cancel the job; it keeps its checkpoints."""
        self._call("PATCH", f"/jobs/{self._running()}?mode=cancel")

    def _written(self, path: str, deadline_s: float) -> Path:
        give_up = time.monotonic() + deadline_s
        while time.monotonic() < give_up:
            answer = self._call("GET", path)
            if answer["status"]["id"] == "COMPLETED":
                return _location(answer["operation"])
            time.sleep(_LOOK_S)
        raise Unavailable(f"no savepoint after {deadline_s:g} s; see Flink's log")

    def _running(self) -> str:
        jobs = self._call("GET", "/jobs/overview")["jobs"]
        running = [str(job["jid"]) for job in jobs if job["state"] == "RUNNING"]
        if not running:
            states = ", ".join(f"{job['name']} is {job['state']}" for job in jobs) or "there is none"
            raise Unavailable(f"no job runs in the Flink at {self._rest}: {states}")
        return running[0]

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            answer = httpx.request(method, self._rest + path, json=body, timeout=10.0)
            answer.raise_for_status()
            return dict(answer.json())
        except (httpx.HTTPError, ValueError) as error:
            raise unreachable(f"Flink ({method} {path})", self._rest, error) from None


def _complete(folder: Path) -> set[Path]:
    return {file.parent for file in folder.glob("savepoint-*/_metadata")}


def _location(operation: dict[str, Any]) -> Path:
    if "location" not in operation:
        cause = operation.get("failure-cause", {}).get("stack-trace", "no cause given")
        raise Unavailable(f"Flink could not write the savepoint: {cause:.500}")
    return Path(operation["location"].removeprefix("file:"))
