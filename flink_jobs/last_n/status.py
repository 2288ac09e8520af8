"""Serves the job's /healthz, /readyz and /metrics on one machine, with the standard library only."""

import json
import threading
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from nearline.errors import Misconfigured

RESTORING = "last_n-restoring"  # the job that runs first if there is no checkpoint (reading_back.py)


def job_problem(rest: str) -> str | None:
    """Why the job in Flink's REST interface at *rest* is not running, or ``None`` if all its tasks run."""
    try:
        with urllib.request.urlopen(f"{rest}/jobs/overview", timeout=1.0) as answer:
            jobs = json.load(answer)["jobs"]
    except (OSError, ValueError, KeyError) as error:
        return f"Flink does not answer yet ({error!r:.100})"
    if not jobs:
        return "no job yet"
    if jobs[0]["name"] == RESTORING:
        return "no checkpoint: users' histories are read back from user-sequences and user-seen"
    tasks = jobs[0]["tasks"]
    running = jobs[0]["state"] == "RUNNING" and tasks["running"] == tasks["total"]
    return None if running else f"the job is {jobs[0]['state']}, {tasks['running']} of {tasks['total']} tasks run"


def job_ended(rest: str) -> str | None:
    """How the job in Flink's REST interface at *rest* ended, or ``None`` while it runs or Flink does not answer yet."""
    try:
        with urllib.request.urlopen(f"{rest}/jobs/overview", timeout=1.0) as answer:
            jobs = json.load(answer)["jobs"]
    except (OSError, ValueError, KeyError):
        return None
    states = [str(job["state"]) for job in jobs]
    return states[0] if states and states[0] in ("FAILED", "CANCELED", "FINISHED") else None


class StatusServer:
    """Answers in its own threads until closed; ready while *problem* returns ``None``."""

    def __init__(self, host: str, port: int, problem: Callable[[], str | None]) -> None:
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(problem))
        except OSError as error:
            raise Misconfigured(
                f"cannot listen on {host}:{port} ({error.strerror}); stop what uses it or set NEARLINE_JOB_PORT"
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()


def _handler(problem: Callable[[], str | None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest())
            elif self.path == "/healthz":
                self._json(200, {"status": "alive"})
            elif self.path == "/readyz":
                why = problem()
                self._json(200 if why is None else 503, {"ready": why is None, "problem": why})
            else:
                self._json(404, {"error": "there are /healthz, /readyz and /metrics"})

        def _json(self, status: int, body: object) -> None:
            self._answer(status, "application/json", json.dumps(body).encode())

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing: probes come every second."""

    return Handler
