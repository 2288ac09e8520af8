"""Checks whether this machine can run the system: one line per requirement, with what to do if it is not met.

    python3 -m local.doctor [--quiet]

With `--quiet` only problems are shown. Standard library only. Exits with 1 if something essential is missing, else
with 0.
"""

import argparse
import importlib.util
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from local import ports
from local.addresses import Ports, data_folder, variable_of
from local.environments import PYTHONS
from local.layout import ENVIRONMENTS, ROOT
from local.processes import processes_of
from nearline.errors import Misconfigured

_GIB = 1024**3
# Environments 1.6 GiB, Java archives 0.1, uv's cache while it unpacks; then the demo's data folder.
_DISK_FRESH_GIB = 4.0
_DISK_BUILT_GIB = 1.0
_MEMORY_GIB = 3.0


@dataclass(frozen=True)
class Finding:
    """The result of one check: what was found, and what to do if it is not good."""

    what: str
    good: bool
    found: str
    mend: str = ""
    essential: bool = True

    def line(self) -> str:
        """The finding for a person, in one line."""
        mark = "ok  " if self.good else ("MISS" if self.essential else "warn")
        return f"  {mark} {self.what:<15} {self.found}" + ("" if self.good else f" -> {self.mend}")


def machine(system: str, architecture: str) -> Finding:
    """Check the platform: the wheels of Triton and Flink exist for Linux on x86-64."""
    good = system == "Linux" and architecture in ("x86_64", "AMD64")
    return Finding(
        "machine", good, f"{system} {architecture}", "Linux on x86-64 is needed; elsewhere: docker compose up"
    )


def python(version: tuple[int, int]) -> Finding:
    """Check the Python version: both Flink 2.2 and Triton's stub support 3.11 and 3.12."""
    mend = "install Python 3.11 or 3.12 (Debian: python3.11 python3.11-venv python3.11-dev)"
    return Finding("python", version in PYTHONS, f"{version[0]}.{version[1]} at {sys.executable}", mend)


def venv() -> Finding:
    """Check for venv and ensurepip, which Debian's plain Python lacks."""
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    return Finding("venv", not missing, f"without {' and '.join(missing)}" if missing else "there", _package("-venv"))


def headers(include: Path) -> Finding:
    """Check for Python's headers: hnswlib and some of Flink's requirements are compiled."""
    file = include / "Python.h"
    return Finding("headers", file.exists(), str(file) if file.exists() else f"no {file}", _package("-dev"))


def shared_library(name: str, folders: list[Path]) -> Finding:
    """Check for libpython: Triton's stub and Flink's thread mode load Python as a library."""
    there = [folder / name for folder in folders if (folder / name).exists()]
    mend = f"{_package('-dev')}; pyenv: rebuild with PYTHON_CONFIGURE_OPTS=--enable-shared"
    return Finding("libpython", bool(there), str(there[0]) if there else f"no {name}", mend)


def command(what: str, *names: str, package: str) -> Finding:
    """Check for a program in PATH, by any of its *names*."""
    there = next((path for path in map(shutil.which, names) if path), None)
    return Finding(what, there is not None, there or f"no {' or '.join(names)} in PATH", f"apt install {package}")


def disk(free_bytes: int, *, built: bool) -> Finding:
    """Check for disk space for the environments (unless built) and the data folder."""
    needed = _DISK_BUILT_GIB if built else _DISK_FRESH_GIB
    found = f"{free_bytes / _GIB:.1f} GiB free, {needed:.0f} needed"
    return Finding("disk", free_bytes >= needed * _GIB, found, f"make room on the disk of {ROOT}")


def memory(available_bytes: int) -> Finding:
    """Check for memory for broker, Flink, Triton and the services together."""
    found = f"{available_bytes / _GIB:.1f} GiB available, {_MEMORY_GIB:.0f} needed"
    mend = "end other programs; with less memory the system swaps or is killed"
    return Finding("memory", available_bytes >= _MEMORY_GIB * _GIB, found, mend, essential=False)


def port(name: str, number: int, *, ours: bool) -> Finding:
    """Check that a port is free, or held by our own running system."""
    what = f"port {number}"
    if ports.is_free(number):
        return Finding(what, True, f"free, for {name}")
    if ours:
        return Finding(what, True, f"held by the running system, for {name}")
    mend = f"end it or move ours: {variable_of(name)}=<another port>"
    return Finding(what, False, f"wanted for {name}, held by {ports.holder(number)}", mend)


def available_memory(meminfo: str) -> int:
    """The bytes that are available without swapping, by Linux."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def examine() -> Iterator[Finding]:
    """Check this machine."""
    yield machine(platform.system(), platform.machine())
    yield python((sys.version_info.major, sys.version_info.minor))
    yield venv()
    yield headers(Path(sysconfig.get_path("include")))
    yield shared_library(str(sysconfig.get_config_var("INSTSONAME")), _library_folders())
    yield command("make", "make", package="make")
    yield command("C++ compiler", "c++", "g++", "clang++", package="g++")
    yield command("setpriv", "setpriv", package="util-linux")
    yield disk(shutil.disk_usage(ROOT).free, built=(ENVIRONMENTS / "flink" / "bin" / "python").exists())
    meminfo = Path("/proc/meminfo")
    yield memory(available_memory(meminfo.read_text() if meminfo.exists() else ""))
    ours = bool(processes_of(data_folder()))
    for name, number in Ports.from_environment().by_name().items():
        yield port(name, number, ours=ours)


def _library_folders() -> list[Path]:
    named = [sysconfig.get_config_var(variable) for variable in ("LIBDIR", "LIBPL")]
    return [Path(folder) for folder in (*named, "/usr/lib/x86_64-linux-gnu", "/usr/lib64") if folder]


def _package(suffix: str) -> str:
    return f"apt install python{sys.version_info.major}.{sys.version_info.minor}{suffix}"


def main() -> None:
    """Print the findings."""
    parser = argparse.ArgumentParser(prog="python3 -m local.doctor", description=main.__doc__)
    parser.add_argument("--quiet", action="store_true", help="show only problems")
    quiet = parser.parse_args().quiet
    try:
        findings = list(examine())
    except Misconfigured as problem:
        sys.exit(f"doctor: {problem}")
    for finding in findings:
        if not (quiet and finding.good):
            print(finding.line())
    missing = [finding.what for finding in findings if finding.essential and not finding.good]
    if missing:
        sys.exit(f"this machine lacks: {', '.join(missing)}")
    print(f"  machine: {len(findings)} checks done, nothing essential is missing")


if __name__ == "__main__":
    main()
