"""Runs a page's shell commands in order, in this checkout, and times each.

    python3 -m tools.follow docs/your-own-data.md

Standard library only, so that it runs in a fresh clone. It stops at the first command that fails; whatever the page
starts stays up.
"""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent


def commands(page: str) -> Iterator[str]:
    """The commands in the shell blocks of *page*, without comments; a line that ends in a backslash continues."""
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if command := line.split("  #")[0].strip():
                yield command


def main() -> int:
    """Run the commands; return 1 if one fails."""
    took = []
    for command in commands(Path(sys.argv[1]).read_text()):
        print(f"\n$ {command}", flush=True)
        began = time.monotonic()
        done = subprocess.run(["bash", "-c", command], cwd=ROOT, check=False)
        took.append((time.monotonic() - began, command))
        if done.returncode != 0:
            print(f"\nended with {done.returncode}: {command}")
            return 1
    print()
    for seconds, command in took:
        print(f"{seconds:7.1f} s  {command}")
    print(f"{sum(seconds for seconds, _ in took):7.1f} s  in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
