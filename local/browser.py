"""Fetches the browser of the tests and pictures, Debian's Chromium, and axe-core, which checks accessibility.

    .venv/services/bin/python -m local.browser

Fetches what is missing and prints what was done. Chromium comes from Debian's packages (installed if the user may, else
it says how), axe-core as an npm package into build/, checked against the digest below.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from local.layout import BUILD
from local.npm import fetch
from nearline.errors import Misconfigured, Unavailable

NAMES = ("chromium", "chromium-browser", "google-chrome")
AXE = "axe-core@4.14.1"
AXE_SHA512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
AXE_FILE = BUILD / "axe" / AXE.partition("@")[2] / "axe.min.js"
# Without the first two it does not start in a container; the others disable its calls to Google.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_MEND = "apt-get install --yes --no-install-recommends chromium"


def chromium() -> Path:
    """The path of this machine's Chromium; ``Misconfigured`` with how to install it if there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise Misconfigured(f"no Chromium found ({', '.join(NAMES)}): {_MEND}")
    return Path(found)


def prepare_chromium() -> bool:
    """Install Chromium from Debian's packages; False if it is already there."""
    if any(map(shutil.which, NAMES)):
        return False
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Misconfigured(f"no Chromium found ({', '.join(NAMES)}), and this user may not install one: {_MEND}")
    quietly = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in ("apt-get update -qq", f"{_MEND} --quiet"):
        done = subprocess.run(command.split(), env=quietly, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Unavailable(f"{command} failed ({done.returncode}): {done.stderr.strip()[-500:]}")
    return True


def prepare_axe() -> bool:
    """Fetch axe-core's script; False if it is already there."""
    return fetch(AXE, AXE_SHA512, {"axe.min.js": AXE_FILE})


def main() -> None:
    """Fetch what is missing and print what was done."""
    for what, prepare in (("chromium", prepare_chromium), (AXE, prepare_axe)):
        try:
            fetched = prepare()
        except (Misconfigured, Unavailable) as problem:
            sys.exit(f"browser: {problem}")
        print(f"  {what:<58} {'fetched' if fetched else 'in place'}")


if __name__ == "__main__":
    main()
