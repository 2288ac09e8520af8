"""The key of this machine's own programs: a file that only its owner may read."""

import os
from pathlib import Path

from nearline.errors import Misconfigured
from nearline.keys import id_in
from nearline.settings import Settings


def key_file(settings: Settings) -> Path:
    """Where the key lies."""
    return settings.data / "key"


def own_key(settings: Settings) -> str:
    """The key to present: that of NEARLINE_KEY, else the file's; empty if there is neither."""
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
    """What a request of ours carries to be let in; nothing if there is no key."""
    key = own_key(settings)
    return {"Authorization": f"Bearer {key}"} if key else {}


def write_key(file: Path, key: str) -> None:
    """Put *key* into *file*, which nobody else can read at any moment of it."""
    assert id_in(key) is not None, "not a key"
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(key + "\n")
    new.replace(file)
