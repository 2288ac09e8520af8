"""Runs a module and samples its main thread's Python stack every few milliseconds of processor time.

    python -m benchmarks.sampled OUT MODULE

Sampling begins with SIGUSR2, and anew with each further one. When the module ends, *OUT* gets a JSON object: the number
of samples, and by function those in which it was innermost (``own``) and those in which it was on the stack
(``within``). A function of a library in C counts for the one that called it.
"""

import json
import runpy
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from traceback import walk_stack
from types import FrameType

from local.layout import ROOT

_EVERY_S = 0.001  # of processor time, all threads together; kernels round it up to their tick, often 4 ms


@dataclass(slots=True)
class Samples:
    """Where the samples were, by function."""

    count: int = 0
    own: Counter[str] = field(default_factory=Counter)
    within: Counter[str] = field(default_factory=Counter)

    def take(self, frame: FrameType | None) -> None:
        """Count one sample, taken in *frame*; a function that calls itself counts once."""
        if frame is None:
            return
        self.count += 1
        self.own[name_of(frame)] += 1
        self.within.update({name_of(each) for each, _ in walk_stack(frame)})


def name_of(frame: FrameType) -> str:
    """File and function, the file below the checkout or the libraries."""
    code = frame.f_code
    path = Path(code.co_filename)
    file = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else code.co_filename
    return f"{file.rpartition('site-packages/')[2]}:{code.co_qualname}"


def main() -> None:
    """Run the module until it ends."""
    out, module = Path(sys.argv[1]), sys.argv[2]
    samples = Samples()

    def start(*_: object) -> None:
        nonlocal samples
        samples = Samples()
        signal.setitimer(signal.ITIMER_PROF, _EVERY_S, _EVERY_S)

    signal.signal(signal.SIGUSR2, start)
    signal.signal(signal.SIGPROF, lambda _, frame: samples.take(frame))
    sys.argv = [module]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        out.write_text(json.dumps({"samples": samples.count, "own": samples.own, "within": samples.within}))


if __name__ == "__main__":
    main()
