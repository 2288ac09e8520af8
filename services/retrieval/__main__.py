"""``python -m services.retrieval``."""

import os
import sys

_TUNABLE = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1048576"


def _prepare() -> None:
    """Settings that a process reads once, before anything of ours is imported.

    A search jumps about in the graph's memory: with huge pages it took 83 us instead of 133 (100,000 x 64). The C
    library reads its tunables when a program starts, so this one starts once more, with the same process id. What has
    a megabyte or more is given back when it is freed; left to itself the library soon keeps what has less than 32.
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
