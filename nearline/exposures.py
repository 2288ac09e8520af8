"""Exposures: the items that answers showed, as in the topic ``exposures`` (version 1), to be joined with events.

An event names the answer that it came from by ``request_id``. A record holds one or more exposures, each a line of
JSON: a record costs its writer a hundred times as much as a line. It has no key, since its lines are of many users.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from nearline.errors import BadInput
from nearline.events import check_version, load_object

MAX_BYTES = 1024 * 1024  # of one exposure
RECORD_BYTES = 512 * 1024  # of one record's lines, unless its first line is longer
_LISTS = ("items", "sources", "scores")


@dataclass(frozen=True, slots=True)
class Exposure:
    """One answer's items; *sources*, *scores* and, if there are any, *propensities* are as long as *items*.

    *user_id* is empty for an anonymous answer. *propensities* are present if the answer explored: each item's
    probability to get its place, before pins; ``None`` for a pinned item. *rules* changed the answer. *page* is 0
    for a first page.
    """

    request_id: str
    user_id: str
    time_ms: int
    space: int
    items: Sequence[str]
    sources: Sequence[str]
    scores: Sequence[float] | NDArray[np.float32]
    scenario: str | None = None
    propensities: Sequence[float | None] = ()
    rules: Sequence[str] = ()
    page: int = 0


def encode_exposure(exposure: Exposure) -> bytes:
    """The line of *exposure*, without its empty fields. Its scores may be an array."""
    body: dict[str, Any] = {
        "v": 1,
        "request_id": exposure.request_id,
        "user_id": exposure.user_id,
        "time_ms": exposure.time_ms,
        "space": exposure.space,
        "items": exposure.items,
        "sources": exposure.sources,
        "scores": exposure.scores,
        "page": exposure.page,
    }
    for name in ("scenario", "propensities", "rules"):
        if value := getattr(exposure, name):
            body[name] = value
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def decode_exposure(raw: bytes | None) -> Exposure:
    """The exposure in *raw*; ``BadInput`` unless it has version 1 and lists of one length."""
    body = load_object(raw, MAX_BYTES)
    check_version(body)
    try:
        exposure = Exposure(
            **{name: body[name] for name in ("request_id", "user_id", "time_ms", "space", *_LISTS, "page")},
            scenario=body.get("scenario"),
            propensities=body.get("propensities") or (),
            rules=body.get("rules") or (),
        )
        lengths = _lengths(exposure)
    except (KeyError, TypeError) as error:
        raise BadInput("bad_exposure", f"not an exposure of version 1: {error!r:.120}") from None
    if len(set(lengths.values())) != 1:
        raise BadInput("bad_exposure", f"an exposure's lists must share one length, came {lengths}")
    return exposure


def records_of(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Join *lines*, in order, into as few records as fit ``RECORD_BYTES`` each."""
    held: list[bytes] = []
    size = 0
    for line in lines:
        if held and size + len(line) > RECORD_BYTES:
            yield b"\n".join(held)
            held, size = [], 0
        held.append(line)
        size += len(line) + 1
    if held:
        yield b"\n".join(held)


def decode_exposures(raw: bytes | None) -> list[Exposure]:
    """The exposures in a record, in order; invalid lines are left out."""
    found = []
    for line in (raw or b"").splitlines():
        with suppress(BadInput):
            found.append(decode_exposure(line))
    return found


def _lengths(exposure: Exposure) -> Mapping[str, int]:
    """The length of each list that runs parallel to the items."""
    lengths = {name: len(getattr(exposure, name)) for name in _LISTS}
    return lengths | ({"propensities": len(exposure.propensities)} if exposure.propensities else {})
