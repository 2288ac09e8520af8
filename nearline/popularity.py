"""Popularity: each item's forward-decayed score, as in the topic ``item-popularity`` (version 1).

``score = Σ weight · 2^((time_ms - landmark_ms) / half_life_ms)`` (forward decay, Cormode et al. 2009): the landmark is
fixed, so scores of different moments are comparable and need no decay when read.
"""

import math
from dataclasses import dataclass

import orjson

from nearline.errors import BadInput


@dataclass(frozen=True, slots=True)
class Popularity:
    """One item's decayed score; comparable only with scores of the same landmark and half-life."""

    item_id: str
    score: float
    landmark_ms: int
    half_life_ms: int


def decode_popularity(raw: bytes) -> Popularity:
    """The popularity in *raw*; ``BadInput`` unless it has version 1 and a finite score."""
    try:
        body = orjson.loads(raw)
        if body["v"] != 1:
            raise BadInput("unknown_version", f"popularity version must be 1, came {body['v']!r:.80}")
        popularity = Popularity(body["item_id"], float(body["score"]), body["landmark_ms"], body["half_life_ms"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise BadInput("bad_popularity", f"not a popularity of version 1 ({error!r:.120}): {raw[:80]!r}") from None
    if not math.isfinite(popularity.score):
        raise BadInput("bad_popularity", f"the score must be finite, came {popularity.score!r}")
    return popularity
