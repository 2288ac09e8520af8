"""Features: the one home of what the two towers are given, and of the tensors' names and shapes.

Training, ``item_tower`` and ``user_tower`` all call these functions, so a model is served exactly what it was
trained on. ``features_digest()`` names this declaration; it is stored beside every exported tower and compared
before the tower is used.

Item tower: ``tokens`` INT32 [48], ``numeric`` FP32 [4] -> ``candidate``, ``history`` FP32 [64], unit norm.
User tower: ``vectors`` FP16 [50, 64], ``ages`` FP32 [50], ``types`` INT32 [50] -> ``user`` FP32 [64], unit norm.
Row 0 of a user's history is the newest event; type 0 means padding or masked.
"""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, pairwise, repeat
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nearline.events import EVENT_TYPES
from nearline.hashing import hash64
from nearline.items import Item
from nearline.sequences import Sequence as UserSequence

DIMENSION = 64
HISTORY_LENGTH = 50

ITEM_TOWER = "item_tower"
USER_TOWER = "user_tower"
TOKENS, NUMERIC = "tokens", "numeric"
CANDIDATE, HISTORY = "candidate", "history"
VECTORS, AGES, TYPES = "vectors", "ages", "types"
USER = "user"

TOKEN_COUNT = 48  # slot 0: the item's id; then category, brand, words, word pairs, description, character trigrams
TEXT_BUCKETS = 20_000  # bucket 0 is padding
NUMERIC_COUNT = 4
NO_ID = 0  # in slot 0: a tower that never trained on an id treats it the same
TYPE_CODES: Mapping[str, int] = {name: code for code, name in enumerate(EVENT_TYPES, start=1)}

_MAX_TEXT = 2_000  # characters of a text that are looked at; a title has 30, a novel costs no more than this
_MAX_TITLE_WORDS = 12
_MAX_DESCRIPTION_WORDS = 12
_WORD = re.compile(r"\w+")
_VERSION = 1  # raise with any change of a rule below that the declaration does not show

T = TypeVar("T")
N = TypeVar("N", bound=np.generic)
Arrays = dict[str, NDArray[Any]]


def item_inputs(items: Sequence[tuple[str, Item]]) -> Arrays:
    """The item tower's input for ``(item_id, item)`` pairs: ``tokens`` (n, 48) and ``numeric`` (n, 4)."""
    tokens = np.zeros((len(items), TOKEN_COUNT), dtype=np.int32)
    numeric = np.zeros((len(items), NUMERIC_COUNT), dtype=np.float32)
    for row, (item_id, item) in enumerate(items):
        found = item_tokens(item_id, item)
        tokens[row, : len(found)] = found
        numeric[row] = item_numbers(item)
    return {TOKENS: tokens, NUMERIC: numeric}


def item_tokens(item_id: str, item: Item) -> list[int]:
    """At most 48 integers: the id's hash, then text buckets without repeats, most telling first."""
    buckets = dict.fromkeys(1 + hash64(token) % (TEXT_BUCKETS - 1) for token in _text_tokens(item))
    return [id_token(item_id), *islice(buckets, TOKEN_COUNT - 1)]


def id_token(item_id: str) -> int:
    """A 31-bit hash of the id, never 0."""
    return (hash64(f"id:{item_id}") & 0x7FFF_FFFF) or 1


def item_numbers(item: Item) -> tuple[float, float, float, float]:
    """Log price, has a price, length of the title in words, has a description; each about 0-2."""
    price = item.price if item.price is not None and item.price > 0 else 0.0
    return (
        min(math.log1p(price), 12.0) / 4,
        float(price > 0),
        len(_words(item.title, _MAX_TITLE_WORDS)) / 8,
        float(bool(item.description.strip())),
    )


def _text_tokens(item: Item) -> Iterator[str]:
    words = _words(item.title, _MAX_TITLE_WORDS)
    yield from _labelled("category", item.category)
    yield from _labelled("brand", item.brand)
    yield from (f"w:{word}" for word in words)
    yield from (f"p:{left} {right}" for left, right in pairwise(words))
    yield from (f"w:{word}" for word in _words(item.description, _MAX_DESCRIPTION_WORDS))
    yield from (f"g:{gram}" for gram in chain.from_iterable(map(_trigrams, words)))


def _labelled(name: str, text: str) -> Iterator[str]:
    plain = _plain(text).strip()
    if plain:
        yield f"{name}:{plain}"


def _plain(text: str) -> str:
    """The text with case and compatibility forms folded, cut before and after: folding can lengthen it 18-fold."""
    return unicodedata.normalize("NFKC", text[:_MAX_TEXT]).casefold()[:_MAX_TEXT]


def _words(text: str, most: int) -> list[str]:
    """The first words; a text of signs alone (an emoji) counts as one word."""
    plain = _plain(text)
    words = list(islice((match.group() for match in _WORD.finditer(plain)), most))
    return words or ([plain.strip()] if plain.strip() else [])


def _trigrams(word: str) -> Iterator[str]:
    padded = f"<{word}>"
    return (padded[start : start + 3] for start in range(min(len(padded), TOKEN_COUNT) - 2))


def user_rows(
    sequences: Sequence[UserSequence], row_of: Mapping[str, int]
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
    """Row index, ages and types, each (batch, 50), newest first; an item that *row_of* lacks is -1 and masked."""
    length = np.fromiter((min(len(s.items), HISTORY_LENGTH) for s in sequences), np.int64, len(sequences))
    filled = np.arange(HISTORY_LENGTH) < length[:, None]  # (batch, history), in the order of the flat columns below
    newest_ms = np.fromiter((s.as_of_ms for s in sequences), np.int64, len(sequences))
    item_rows = map(row_of.get, _flat(s.items for s in sequences), repeat(-1))
    codes = map(TYPE_CODES.__getitem__, _flat(s.types for s in sequences))
    times_ms = _fill(filled, _flat(s.times_ms for s in sequences), np.int64)
    return (
        _fill(filled, item_rows, np.int32, missing=-1),
        ages(np.where(filled, newest_ms[:, None] - times_ms, 0)),
        _fill(filled, codes, np.int32),
    )


def _flat(columns: Iterable[list[T]]) -> Iterator[T]:
    """The newest values of each user's column one after the other, newest first."""
    return chain.from_iterable(column[: -HISTORY_LENGTH - 1 : -1] for column in columns)


def _fill(filled: NDArray[np.bool_], flat: Iterator[Any], dtype: type[N], *, missing: int = 0) -> NDArray[N]:
    out = np.full(filled.shape, missing, dtype)
    out[filled] = np.fromiter(flat, dtype, int(filled.sum()))
    return out


def ages(age_ms: NDArray[np.int64]) -> NDArray[np.float32]:
    """Ages as the tower sees them: log(1 + hours) before the user's newest event, never before the wall clock."""
    return np.log1p(np.maximum(age_ms, 0) / 3_600_000.0).astype(np.float32)


def user_batch(
    matrix: NDArray[np.float16],
    row_index: NDArray[np.int32],
    ages: NDArray[np.float32],
    types: NDArray[np.int32],
) -> Arrays:
    """The user tower's input: ``vectors`` (batch, 50, 64) gathered from *matrix* by row; row -1 is masked."""
    known = (row_index >= 0) & (types > 0)
    vectors = matrix[row_index]  # -1 reads the last row, which the next line clears; take() would be four times slower
    vectors[~known] = 0
    return {
        VECTORS: vectors,
        AGES: np.where(known, ages, np.float32(0)),
        TYPES: np.where(known, types, np.int32(0)),
    }


def declaration() -> dict[str, Any]:
    """Everything a trained tower depends on, as plain data."""
    return {
        "version": _VERSION,
        "dimension": DIMENSION,
        "history_length": HISTORY_LENGTH,
        "item": {TOKENS: ["INT32", TOKEN_COUNT], NUMERIC: ["FP32", NUMERIC_COUNT]},
        "item_outputs": [CANDIDATE, HISTORY],
        "user": {
            VECTORS: ["FP16", HISTORY_LENGTH, DIMENSION],
            AGES: ["FP32", HISTORY_LENGTH],
            TYPES: ["INT32", HISTORY_LENGTH],
        },
        "user_outputs": [USER],
        "text_buckets": TEXT_BUCKETS,
        "title_words": _MAX_TITLE_WORDS,
        "description_words": _MAX_DESCRIPTION_WORDS,
        "hash": "xxh3_64",
        "ages": "log1p(hours before the newest event)",
        "types": dict(TYPE_CODES),
    }


def features_digest() -> str:
    """Sixteen hex digits that change with any rule of this file; stored beside every exported tower."""
    canonical = json.dumps(declaration(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
