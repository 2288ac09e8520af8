"""``nearline freshness-value``: measure what freshness is worth on your own log; the training code does the work."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from nearline.errors import Misconfigured

ROOT = Path(__file__).resolve().parents[2]
MODULE = "training.freshness_value"


def freshness_value(
    folder: Annotated[Path, typer.Argument(help="The log and the catalogue, as for make train.")],
    towers: Annotated[Path | None, typer.Option(help="The folder of towers.pt; default: build/train/<name>.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="A dataset.toml outside FOLDER.")] = None,
    delays: Annotated[str, typer.Option(help="How far the history lags: s, min, h, d.")] = "0,1min,1h,24h,7d",
    test_from: Annotated[
        str,
        typer.Option(
            help="Where the test part starts: a share of events such as 0.9, or a day; default: as in training."
        ),
    ] = "",
    queries: Annotated[int, typer.Option(help="At most this many queries, drawn at random.")] = 20_000,
    text_encoder: Annotated[Path | None, typer.Option(help="The text encoder's folder, if trained with one.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder for plot and JSON; default: build/freshness-value/<name>.")
    ] = None,
) -> None:
    """Replay the log in FOLDER with a lagging history, and print and plot what the lag costs."""
    if not folder.is_dir():
        raise Misconfigured(f"no folder at {folder}; expected one with a log and a catalogue, as for make train")
    name = folder.resolve().name
    given = {
        "--towers": towers or ROOT / "build" / "train" / name,
        "--dataset": dataset,
        "--out": out or ROOT / "build" / "freshness-value" / name,
        "--text-encoder": text_encoder,
    }
    paths = [f"{option}={path.absolute()}" for option, path in given.items() if path is not None]
    words = [str(folder.absolute()), *paths, f"--delays={delays}", f"--queries={queries}"]
    hand_over(ROOT, words + ([f"--test-from={test_from}"] if test_from else []), trained=given["--towers"])


def hand_over(root: Path, words: Sequence[str], *, trained: Path | None) -> None:
    """Replace this process with the training environment's Python in *root*, called with *words*.

    ``Misconfigured`` if that environment is not built, or *trained* holds no towers.
    """
    python = root / ".venv" / "train" / "bin" / "python"
    if not python.is_file():
        raise Misconfigured(f"the training environment is not built: `make train DATA={words[0]}` first, in {root}")
    if trained is None or not (trained / "towers.pt").is_file():
        raise Misconfigured(f"no trained towers in {trained}: `make train DATA={words[0]}` first, in {root}")
    os.chdir(root)
    os.execv(python, [str(python), "-m", MODULE, *words])
