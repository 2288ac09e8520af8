"""Run a program under a process id that no other container has, and end as it ends.

    OWN_PID=200 python -IS deploy/services/own_pid.py python -m services.retrieval

LMDB knows its readers by their process ids, but each container counts its own from 1: the second container with the
same id cannot open the store ("Resource temporarily unavailable"). Ids are counted up to OWN_PID and a random part of
the 100 that follow: a killed reader's id must be free, or the writer takes that reader for a living one. So the values
of OWN_PID lie 200 apart. SIGTERM and SIGINT are passed on.
"""

import os
import random
import signal
import sys
from types import FrameType


def start(words: list[str], least: int) -> int:
    """Start *words* in a child process whose id is *least* or greater; returns the id."""
    while True:
        child = os.fork()
        if child == 0:
            if os.getpid() < least:
                os._exit(0)
            os.execvp(words[0], words)
        if child >= least:
            return child
        os.waitpid(child, 0)


def main() -> int:
    """Run the command line's program; its exit status, as a shell reports it."""
    child = start(sys.argv[1:], int(os.environ["OWN_PID"]) + random.randrange(100))

    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return ended if ended >= 0 else 128 - ended


if __name__ == "__main__":
    sys.exit(main())
