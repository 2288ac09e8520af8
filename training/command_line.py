"""Parses the command lines of `make quality` and `make evaluate`, and writes the one that reproduces a figure."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

SEEDS = (1, 2, 3)


def seeds_in(text: str) -> tuple[int, ...]:
    """The seeds that ``1,2,3`` lists."""
    try:
        return tuple(int(seed) for seed in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers separated by commas, came {text!r}") from None


def count_in(text: str) -> int:
    """A whole number from 1 on."""
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, came {text!r}")
    return int(text)


def listed(seeds: Sequence[int]) -> str:
    """*seeds* as ``seeds_in`` reads them."""
    return ",".join(map(str, seeds))


def set_again(settings: Sequence[str]) -> list[str]:
    """*settings* as ``--set`` arguments."""
    return [f"--set {shlex.quote(each)}" for each in settings]


def make_command(target: str, data: Path | None, arguments: Sequence[str]) -> str:
    """``make target`` on *data*, or on its default; only the folder's name, since its place differs by reader."""
    where = f" DATA={data.name}" if data is not None else ""
    return f"make {target}{where}" + (f' ARGS="{" ".join(arguments)}"' if arguments else "")
