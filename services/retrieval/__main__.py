"""``python -m services.retrieval``."""

import os
import sys

_TUNABLE = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1048576"


def _prepare() -> None:
    """Settings that a process reads once, before anything of ours is imported.

    A search reads the graph's memory in random order: with huge pages it took 83 us instead of 133 (100,000 x 64). The
    C library reads its tunables when a program starts, so this program starts again, with the same process id. Blocks
    of 1 MB or more go back to the system when they are freed; by default the library soon keeps those below 32 MB.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a scan of the delta is too short to share
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if _TUNABLE not in tunables:
        os.environ["GLIBC_TUNABLES"] = f"{tunables}:{_TUNABLE}".lstrip(":")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    _prepare()
    from services.retrieval.app import main

    sys.exit(main())
