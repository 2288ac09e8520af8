"""Files that outlive a system that goes down (a power cut, a kernel's crash)."""

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Flush the file or folder *path* to the disk; of a folder, the names in it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(file: Path, text: str) -> None:
    """Replace *file*'s content in one step that outlives a system that goes down."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(text)
    flush(new)
    new.rename(file)
    flush(file.parent)
