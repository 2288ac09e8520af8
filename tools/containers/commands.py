"""Runs commands with a deadline, and says what they printed when they fail."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

_SHOWN = 3_000


class Skipped(Exception):
    """This machine cannot try the containers; the message says why."""


class Failed(Exception):
    """Something that should work did not; the message says what, and shows the end of its output."""


def run(
    command: Sequence[str],
    deadline_s: float,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    given: IO[bytes] | None = None,
) -> str:
    """The standard output of *command*; ``Failed`` with the end of its output if it fails or passes the deadline."""
    words = " ".join(command)
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            stdin=given or subprocess.DEVNULL,
            capture_output=True,
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        said = ((late.stdout or b"") + (late.stderr or b"")).decode(errors="replace")
        raise Failed(f"`{words}` did not end within {deadline_s:.0f} s:\n{said[-_SHOWN:]}") from None
    except OSError as problem:
        raise Failed(f"`{words}`: {problem}") from None
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise Failed(f"`{words}` ended with {done.returncode}:\n{said[-_SHOWN:]}")
    return done.stdout.decode(errors="replace")


def wait_for(what: str, problem: Callable[[], str | None], deadline_s: float, *, pause_s: float = 0.5) -> None:
    """Wait until *problem* is ``None``; ``Failed`` with *what* and the last problem when the deadline passes."""
    give_up = time.monotonic() + deadline_s
    while (left := problem()) is not None:
        if time.monotonic() > give_up:
            raise Failed(f"{what}: not within {deadline_s:.0f} s: {left}")
        time.sleep(pause_s)
