"""Unpacks programs from Debian's archive into build/, without installing them; only tests need them.

apt fetches the package and verifies the archive's signature; the digest pins the tested file. Standard library only.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from local.layout import BUILD
from nearline.errors import Misconfigured, Unavailable


@dataclass(frozen=True)
class Package:
    """A package in its tested version, with the SHA-256 of its file for each tested architecture."""

    name: str
    version: str
    sha256: tuple[tuple[str, str], ...]

    @property
    def folder(self) -> Path:
        """The folder of the unpacked package, named after the version, so that a new version is fetched."""
        return BUILD / "debian" / f"{self.name}-{self.version.partition('+')[0]}"


# With promtool; both binaries need only libc.
PROMETHEUS = Package(
    "prometheus",
    "2.42.0+ds-5+deb12u1",
    (("amd64", "81d59a24fce84f7fbe97a45a4f2914b6a5881b5cd1db2a6a0e129e515e1a5f55"),),
)


def prepare_prometheus() -> bool:
    """Unpack Prometheus and promtool; False if they are already unpacked or installed."""
    return False if installed("prometheus") and installed("promtool") else unpack(PROMETHEUS)


def installed(program: str) -> Path | None:
    """The path of *program*, unpacked or installed on this machine; ``None`` without one."""
    unpacked = PROMETHEUS.folder / "usr" / "bin" / program
    if unpacked.exists():
        return unpacked
    in_path = shutil.which(program)
    return Path(in_path) if in_path else None


def program(name: str) -> Path:
    """As ``installed``; ``Misconfigured`` with what to do if there is none."""
    found = installed(name)
    if found is None:
        raise Misconfigured(f"{name} is missing: run `.venv/services/bin/python -m local.downloads --tests`")
    return found


def unpack(package: Package) -> bool:
    """Fetch *package* and unpack it atomically into its folder; False if it is already there."""
    if package.folder.exists():
        return False
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Unavailable(f"this is not Debian: install {package.name} {package.version.partition('+')[0]} yourself")
    package.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=package.folder.parent, prefix="new-") as work:
        file = _fetch(package, Path(work))
        _check(package, file)
        unpacked = Path(work) / "unpacked"
        _run(["dpkg-deb", "--extract", str(file), str(unpacked)], Path(work))
        unpacked.rename(package.folder)
    return True


def _fetch(package: Package, folder: Path) -> Path:
    wanted = ["apt-get", "download", f"{package.name}={package.version}"]
    try:
        _run(wanted, folder)
    except Unavailable:
        if os.geteuid() != 0:
            raise
        _run(["apt-get", "update", "-qq"], folder)  # a fresh machine has no package lists yet
        _run(wanted, folder)
    return next(folder.glob("*.deb"))


def _check(package: Package, file: Path) -> None:
    """Compare the digest if this architecture's is known; otherwise apt's own check must suffice."""
    known = dict(package.sha256).get(file.stem.rpartition("_")[2])
    came = hashlib.sha256(file.read_bytes()).hexdigest()
    if known is not None and came != known:
        raise Unavailable(f"{file.name} has the SHA-256 {came}, expected {known}: not unpacked")


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(
            f"`{' '.join(command)}` failed ({done.stderr.strip()[-300:]}); `apt-get update` as root may help"
        )
