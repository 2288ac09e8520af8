"""Savepoints of the job ``last_n``: where they lie, and how an operator names the one to resume from.

<data>/flink/savepoints/savepoint-…/_metadata     written by Flink; complete once ``_metadata`` is there
<data>/flink/restore-from                         the path of the savepoint that the next start resumes from
"""

import os
from pathlib import Path

from nearline.errors import Misconfigured

_RESTORE_FROM = "restore-from"


def savepoints_folder(flink: Path) -> Path:
    """The folder of the savepoints, in the job's folder *flink*."""
    return flink.absolute() / "savepoints"


def ask_to_restore(flink: Path, savepoint: Path) -> None:
    """Let the job's next start resume from *savepoint*; ``Misconfigured`` if it is none."""
    savepoint = savepoint.absolute()
    if not (savepoint / "_metadata").is_file():
        raise Misconfigured(f"{savepoint} is no complete savepoint or checkpoint: it has no file _metadata")
    flink.mkdir(parents=True, exist_ok=True)
    beside = flink / f"{_RESTORE_FROM}.new"
    beside.write_text(f"{savepoint}\n")
    os.replace(beside, flink / _RESTORE_FROM)


def asked_to_restore(flink: Path) -> tuple[Path, int] | None:
    """The savepoint that ``ask_to_restore`` named, and when (ns); ``None`` if none was named."""
    file = flink / _RESTORE_FROM
    return (Path(file.read_text().strip()), file.stat().st_mtime_ns) if file.exists() else None
