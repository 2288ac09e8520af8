"""Checks that the towers give the same vectors through the real Triton server as in training.

    python -m local.parity [--repository model_repository] [--space 1]
    python -m local.parity --exported build/train/exported      the last export of `make train`

Starts the server on the repository, sends it the inputs in each tower's ``parity.npz`` and compares its answers with
the recorded ones. Exits with 1 if a cosine is below .9999.
"""

import argparse
import asyncio
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from local.triton import REPOSITORY, running_triton
from nearline.adapters.triton import TritonTowers
from nearline.errors import Misconfigured, NearlineError
from nearline.features import CANDIDATE, HISTORY, ITEM_TOWER, USER, USER_TOWER, Arrays
from nearline.space import Space

LEAST_COSINE = 0.9999


def recorded(repository: Path, tower: str, space: int) -> tuple[Arrays, Arrays]:
    """The inputs and answers that training recorded for *tower*."""
    path = repository / tower / str(space) / "parity.npz"
    if not path.is_file():
        raise Misconfigured(f"no {path}: export the towers again (make train)")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return (
        {name.removeprefix("in."): array for name, array in arrays.items() if name.startswith("in.")},
        {name.removeprefix("out."): array for name, array in arrays.items() if name.startswith("out.")},
    )


def least_cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """The smallest cosine between rows of *left* and the same rows of *right*."""
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(1) / norms).min())


def told(exported: Path) -> tuple[Path, int]:
    """The repository and the space that training recorded."""
    try:
        repository, space = exported.read_text().splitlines()
    except (OSError, ValueError):
        raise Misconfigured(f"{exported} names no repository and space: run make train first") from None
    return Path(repository), int(space)


async def compare(url: str, repository: Path, space: Space) -> dict[str, float]:
    """The smallest cosine between recorded and served answers of each output, from the server at *url*."""
    towers = TritonTowers(url, space, timeout_ms=10_000)
    try:
        await towers.open()
        inputs, wanted = recorded(repository, USER_TOWER, space.number)
        found = {USER: least_cosine(await towers.encode_users(inputs), wanted[USER])}
        inputs, wanted = recorded(repository, ITEM_TOWER, space.number)
        candidate, history = await towers.encode_items(inputs)
        found[CANDIDATE] = least_cosine(candidate, wanted[CANDIDATE])
        found[HISTORY] = least_cosine(history, wanted[HISTORY])
        return found
    finally:
        await towers.close()


def main() -> int:
    """Compare, print one line per output, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=REPOSITORY)
    parser.add_argument("--space", type=int, default=1)
    parser.add_argument("--exported", type=Path, help="a file with the repository and the space")
    given = parser.parse_args()
    try:
        repository, space = told(given.exported) if given.exported else (given.repository, given.space)
        wanted = recorded(repository, USER_TOWER, space)[1][USER]
        with running_triton(repository) as server:
            found = asyncio.run(compare(server.url, repository, Space(space, wanted.shape[1])))
    except NearlineError as problem:
        print(f"parity not checked: {problem}", file=sys.stderr)
        return 2
    for output, cosine in found.items():
        print(f"  through Triton, {output:<10} least cosine {cosine:.7f}")
    return 0 if min(found.values()) >= LEAST_COSINE else 1


if __name__ == "__main__":
    sys.exit(main())
