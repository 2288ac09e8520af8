"""The key file of this machine's own programs, readable by its owner only."""

import os
from pathlib import Path

from nearline.errors import Misconfigured
from nearline.keys import id_in
from nearline.settings import Settings


def key_file(settings: Settings) -> Path:
    """The path of the key file."""
    return settings.data / "key"


def own_key(settings: Settings) -> str:
    """The key to present: NEARLINE_KEY, else the file's; empty without either."""
    given = settings.key.get_secret_value()
    if given:
        return given
    try:
        return key_file(settings).read_text().strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise Misconfigured(
            f"cannot read the key in {key_file(settings)}: {error.strerror}; set NEARLINE_KEY"
        ) from None


def key_headers(settings: Settings) -> dict[str, str]:
    """The headers with our key; empty without a key."""
    key = own_key(settings)
    return {"Authorization": f"Bearer {key}"} if key else {}


def write_key(file: Path, key: str) -> None:
    """Write *key* to *file*, which only its owner can read, at any moment."""
    assert id_in(key) is not None, "not a key"
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(key + "\n")
    new.replace(file)
