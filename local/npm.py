"""Fetches files of npm packages once and checks their digests, for the browser tests and the site's diagrams.

Standard library only.
"""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from nearline.errors import Misconfigured, Unavailable


def fetch(package: str, sha512: str, files: Mapping[str, Path]) -> bool:
    """Put *files* of *package* (name@version) in place; False if all are already there.

    ``Misconfigured`` without npm, or if the package's digest is not *sha512* (base64); ``Unavailable`` if npm cannot
    fetch it.
    """
    if all(file.exists() for file in files.values()):
        return False
    if shutil.which("npm") is None:
        raise Misconfigured(f"no npm found to fetch {package}: install Node.js")
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", package, "--silent", "--pack-destination", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        packed = sorted(Path(folder).glob("*.tgz"))
        if done.returncode != 0 or not packed:
            raise Unavailable(f"{' '.join(command[:3])} failed ({done.returncode}): {done.stderr.strip()[-500:]}")
        unpack(packed[0], package, sha512, files)
    return True


def unpack(packed: Path, package: str, sha512: str, files: Mapping[str, Path]) -> None:
    """Put *files* of the archive *packed* in place; ``Misconfigured`` if its digest is not *sha512*."""
    digest = base64.b64encode(hashlib.sha512(packed.read_bytes()).digest()).decode()
    if digest != sha512:
        raise Misconfigured(f"{package} has the digest sha512-{digest}, expected sha512-{sha512}")
    with tarfile.open(packed) as archive:
        for inside, place in files.items():
            member = archive.extractfile(f"package/{inside}")
            assert member is not None, inside
            place.parent.mkdir(parents=True, exist_ok=True)
            unfinished = place.with_name(place.name + ".part")
            unfinished.write_bytes(member.read())
            unfinished.rename(place)
