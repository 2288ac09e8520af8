"""Validates the ids of users, items and events.

An id is a string of 1-128 UTF-8 bytes without control characters, so that every store accepts it as a key. A new id is
not ``.`` or ``..`` either: HTTP clients take these out of a path, so nothing could be asked, or erased, under it. What
was stored under such an id before is still read.
"""

import re

from nearline.errors import BadInput

MAX_ID_BYTES = 128
SYNTHETIC_USERS = "canary:"  # the prefix of synthetic users' ids: their answers are no exposures
DOTS = (".", "..")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_id(name: str, value: object) -> str:
    """Return *value* if it is a valid id, else raise ``BadInput`` naming the field and the rule."""
    if type(value) is str and value.isascii() and value.isprintable() and 0 < len(value) <= MAX_ID_BYTES:
        return value  # nearly all ids end here: each event has three, and an ASCII character is a byte
    if not isinstance(value, str):
        raise BadInput("wrong_type", f"{name} must be a string, came {type(value).__name__}: {value!r:.80}", field=name)
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise BadInput("bad_id", f"{name} is not valid Unicode: {value!r:.80}", field=name) from None
    if not 1 <= size <= MAX_ID_BYTES:
        raise BadInput(
            "bad_id", f"{name} must have 1-{MAX_ID_BYTES} UTF-8 bytes, came {size}: {value!r:.80}", field=name
        )
    if not value.isascii() or not value.isprintable():
        _refuse_control(name, value)
    return value


def check_new_id(name: str, value: object) -> str:
    """As ``check_id``, for an id under which something is to be stored."""
    if value in DOTS:
        raise BadInput("bad_id", f"{name} must not be {value!r}: HTTP clients take that out of a path", field=name)
    return check_id(name, value)


def check_ids(name: str, value: object) -> tuple[str, ...]:
    """Return *value*, a list of valid ids, as a tuple, else raise ``BadInput`` as above."""
    if not isinstance(value, list):
        raise BadInput("wrong_type", f"{name} must be a list of ids, came {value!r:.80}", field=name)
    return tuple(check_id(name, each) for each in value)


def _refuse_control(name: str, value: str) -> None:
    if _CONTROL.search(value):
        raise BadInput("bad_id", f"{name} must not hold control characters, came {value!r:.80}", field=name)
