"""A log for `make quality` and `make evaluate`: users who go around a ring of items, each from another place."""

from pathlib import Path


def ring(folder: Path, description: str, *, users: int, items: int) -> Path:
    """The data set ``ring`` in *folder*: six events of each user, and *description* as its ``dataset.toml``."""
    rows = [
        f"u{user},i{(user + step) % items},{1_700_000_000_000 + step}" for user in range(users) for step in range(6)
    ]
    data = folder / "ring"
    data.mkdir()
    (data / "interactions.csv").write_text("\n".join(["user_id,item_id,time", *rows]) + "\n")
    (data / "dataset.toml").write_text(description)
    return data
