"""Builds the Python environments of the parts, each from its own hashed list of requirements.

    python3 -m local.environments services triton flink [train] [baselines] [milvus] [peers] [docs] [--dev]

They cannot be one: apache-flink and tritonclient need different versions of grpcio, the Triton server needs numpy 1.26
and the services numpy 2. Standard library only, on any Python 3.11 or 3.12. An up-to-date environment is not rebuilt:
its folder holds the digests of its lists. `--dev` adds the packages of tests and linters to `services`; once added
they stay.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from local.layout import ENVIRONMENTS, ROOT
from nearline.errors import Misconfigured, Unavailable

NAMES = ("services", "triton", "flink", "train", "baselines", "milvus", "peers", "docs")
PYTHONS = ((3, 11), (3, 12))
UV = "uv==0.13.8"
_REQUIREMENTS = ROOT / "requirements"
_BOOT = ENVIRONMENTS / "boot"


def interpreter() -> Path:
    """The real path of this interpreter (not a shim or an environment's link), for creating the environments."""
    if sys.version_info[:2] not in PYTHONS:
        found = ".".join(map(str, sys.version_info[:2]))
        raise Misconfigured(f"Python 3.11 or 3.12 is needed (Flink has no wheels for others), this is {found}")
    return Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"


def digests(files: Sequence[Path]) -> dict[str, str]:
    """The digest of each file by name, to compare with an environment's stamp."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def is_current(stamp: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether an environment with *stamp* was built from at least the *wanted* lists in their current form."""
    return wanted.items() <= stamp.items()


def lists_of(name: str, *, dev: bool) -> list[Path]:
    """The requirement lists of environment *name*."""
    names = [name, "dev"] if dev and name == "services" else [name]
    return [_REQUIREMENTS / f"{each}.txt" for each in names]


def build(name: str, *, dev: bool) -> bool:
    """Install exactly the lists of environment *name*; False if it is up to date.

    The stamp is removed first and written last, so the next call finishes an interrupted build.
    """
    folder = ENVIRONMENTS / name
    stamp = read_stamp(folder)
    wanted = digests(lists_of(name, dev=dev))
    working = (folder / "bin" / "python").exists()
    if working and is_current(stamp, wanted):
        return False
    lists = lists_of(name, dev=dev or "dev.txt" in stamp)
    _stamp_file(folder).unlink(missing_ok=True)
    uv = _uv()
    if not working:
        _run([uv, "venv", "-q", "--clear", "-p", str(interpreter()), str(folder)], f"making {folder}")
    command = [uv, "pip", "sync", "-q", "-p", str(folder / "bin" / "python"), "--require-hashes", *map(str, lists)]
    _run(command, f"installing {', '.join(file.name for file in lists)} into {folder}")
    _stamp_file(folder).write_text(json.dumps(digests(lists), indent=2) + "\n")
    return True


def read_stamp(folder: Path) -> dict[str, str]:
    """The digests that the environment in *folder* was built from; empty if it was never finished."""
    try:
        stamp = json.loads(_stamp_file(folder).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return {str(name): str(digest) for name, digest in stamp.items()}


def _stamp_file(folder: Path) -> Path:
    return folder / "nearline-stamp.json"


def _uv() -> str:
    """The path of uv, installed into its own environment on first use."""
    uv = _BOOT / "bin" / "uv"
    if not uv.exists():
        _run([str(interpreter()), "-m", "venv", "--clear", str(_BOOT)], f"making {_BOOT}")
        pip = [str(_BOOT / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", UV]
        _run(pip, f"installing {UV}")
    return str(uv)


def _run(command: Sequence[str], what: str) -> None:
    """Run *command* and show its output; the error of a failure says its purpose and where to look."""
    # Otherwise uv would install into an activated environment.
    surroundings = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONHOME")}
    done = subprocess.run(command, cwd=ROOT, env=surroundings, check=False)
    if done.returncode != 0:
        raise Unavailable(f"{what} failed ({done.returncode}, see above); `make doctor` names what this machine lacks")


def main() -> None:
    """Build what is missing or out of date and print what was done."""
    parser = argparse.ArgumentParser(prog="python3 -m local.environments", description=main.__doc__)
    parser.add_argument("names", nargs="+", choices=NAMES, help="which environments")
    parser.add_argument("--dev", action="store_true", help="add the packages of tests and linters to services")
    given = parser.parse_args()
    for name in given.names:
        started = time.monotonic()
        print(f"  environment {name:<9}", end=" ", flush=True)
        try:
            built = build(name, dev=given.dev)
        except (Misconfigured, Unavailable) as problem:
            sys.exit(f"\nenvironments: {problem}")
        print(f"built in {time.monotonic() - started:.0f} s" if built else "up to date", flush=True)


if __name__ == "__main__":
    main()
