"""Runs the system of the tree that it is started in, whatever its commit, and prints the system's addresses.

    cd TREE && PYTHONPATH=. .venv/services/bin/python -P THIS_FILE --data FOLDER

``-P`` keeps this file's own folder out of the imports, so ``local`` is that tree's. It prints one JSON object a line:
``{"say": …}`` while the system starts, then ``{"ready": …}``. Each line on its input is answered with the processes'
ids by part. When its input ends it stops the system.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from local.addresses import Ports
from local.system import System, embedded_system, interrupt_on_sigterm, reset
from nearline.errors import NearlineError


def say(line: str) -> None:
    """Report progress."""
    print(json.dumps({"say": line.strip()}), flush=True)


def address(system: System) -> dict[str, Any]:
    """Where the system is; the first commits knew no keys."""
    ports = system.ports.by_name()
    key = getattr(system, "key", "")
    return {"kafka": system.bootstrap, "retrieval": system.retrieval, "key": key, "ports": ports}


def parts(system: System) -> dict[str, int]:
    """The process id of each part."""
    return {part.name: system.supervisor.pid_of(part.name) for part in system.parts()}


def serve(data: Path) -> None:
    """Run the system in the folder *data* and answer lines until there are no more."""
    reset(System(data, Ports.free()), say)
    with embedded_system(data, say=say) as system:
        print(json.dumps({"ready": address(system)}), flush=True)
        for _ in sys.stdin:
            print(json.dumps(parts(system)), flush=True)


def main() -> None:
    """Run the system until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the system; deleted first")
    data = parser.parse_args().data
    interrupt_on_sigterm()
    try:
        serve(data)
    except NearlineError as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main()
