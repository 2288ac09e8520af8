"""Features: turns items' and users' signals into the towers' tensors. No other code does.

Training, ``item_tower`` and ``user_tower`` all use a ``Features``: the signals (nearline/signals.py), sizes and
dimension that a pair of towers was trained with. Its declaration is stored beside every exported tower and in the
model repository's configuration, and is compared before the tower is used.

Item tower: ``tokens`` INT32 [64], ``numeric`` FP32 [2] -> ``candidate``, ``history`` FP32 [dim], unit norm; with a
pretrained text encoder also ``input_ids`` and ``attention_mask`` INT64 [length].
User tower: ``vectors`` FP16 [N, dim], ``ages`` FP32 [N], ``types`` INT32 [N], ``context`` INT32 [8] -> ``user`` FP32
[dim], unit norm. Row 0 of a user's history is the newest event; type 0 means padding or masked.
"""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice, pairwise, repeat
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nearline.errors import Misconfigured
from nearline.events import EVENT_TYPES
from nearline.hashing import hash64
from nearline.items import Attribute, Item
from nearline.sequences import UserSequence
from nearline.signals import (
    ITEM_SIGNALS,
    USER_SIGNALS,
    VERSION,
    Context,
    Kind,
    Signal,
    as_plain,
    newest_context,
    served_signals,
)

DIMENSION = 64
HISTORY_LENGTH = 50

ITEM_TOWER = "item_tower"
USER_TOWER = "user_tower"
TOKENS, NUMERIC = "tokens", "numeric"
INPUT_IDS, ATTENTION_MASK = "input_ids", "attention_mask"
CANDIDATE, HISTORY = "candidate", "history"
VECTORS, AGES, TYPES, CONTEXT = "vectors", "ages", "types", "context"
USER = "user"

TOKEN_COUNT = 64  # slots of an item: its id, then the signals' tokens in order; the rest is cut
CONTEXT_COUNT = 8  # slots of a user's context
TEXT_BUCKETS = 20_000  # bucket 0 is padding
CONTEXT_BUCKETS = 4_096  # likewise
NO_ID = 0  # in slot 0; an id that the tower was not trained on has the same effect
TYPE_CODES: Mapping[str, int] = {str(name): code for code, name in enumerate(EVENT_TYPES, start=1)}
RULES: Mapping[str, str] = {"hash": "xxh3_64", "ages": "log1p(hours before the newest event)"}
SEVERAL = "|"  # separates several values of an attribute

_MAX_TEXT = 2_000  # characters of a text that are read; a title has 30
_WORD = re.compile(r"\w+")

T = TypeVar("T")
N = TypeVar("N", bound=np.generic)
Arrays = dict[str, NDArray[Any]]
Tensors = dict[str, tuple[str, list[int]]]
Tokenizer = Callable[[Sequence[str]], tuple[NDArray[np.int64], NDArray[np.int64]]]  # ids and mask, each (n, length)


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """A pretrained sentence encoder inside the item tower: its tokenizer's digest, and how many tokens it reads."""

    tokenizer_sha256: str
    length: int


@dataclass(frozen=True)
class Features:
    """The inputs of one pair of towers; the defaults are those that this build trains with."""

    dimension: int = DIMENSION
    history_length: int = HISTORY_LENGTH
    token_count: int = TOKEN_COUNT
    text_buckets: int = TEXT_BUCKETS
    item: tuple[Signal, ...] = ITEM_SIGNALS
    user: tuple[Signal, ...] = USER_SIGNALS
    types: int = len(TYPE_CODES)  # how many event types the towers know; others are masked
    text_encoder: TextEncoder | None = None

    @property
    def numeric_count(self) -> int:
        """Two per number signal: its value, and whether it is present."""
        return 2 * sum(signal.kind is Kind.NUMBER for signal in self.item)

    def item_tensors(self) -> Tensors:
        """The type and shape, without the batch, of each input of the item tower."""
        tensors: Tensors = {TOKENS: ("INT32", [self.token_count]), NUMERIC: ("FP32", [self.numeric_count])}
        if self.text_encoder is not None:
            tensors |= {name: ("INT64", [self.text_encoder.length]) for name in (INPUT_IDS, ATTENTION_MASK)}
        return tensors

    def user_tensors(self) -> Tensors:
        """The type and shape, without the batch, of each input of the user tower."""
        length = self.history_length
        return {
            VECTORS: ("FP16", [length, self.dimension]),
            AGES: ("FP32", [length]),
            TYPES: ("INT32", [length]),
            CONTEXT: ("INT32", [CONTEXT_COUNT]),
        }

    def item_inputs(self, items: Sequence[tuple[str, Item]], tokenizer: Tokenizer | None = None) -> Arrays:
        """The item tower's input for ``(item_id, item)`` pairs: ``tokens`` (n, 64), ``numeric`` (n, 2).

        Towers with a text encoder need its *tokenizer*.
        """
        tokens = np.zeros((len(items), self.token_count), dtype=np.int32)
        numeric = np.zeros((len(items), self.numeric_count), dtype=np.float32)
        for row, (item_id, item) in enumerate(items):
            found = self.item_tokens(item_id, item)
            tokens[row, : len(found)] = found
            numeric[row] = self.item_numbers(item)
        arrays: Arrays = {TOKENS: tokens, NUMERIC: numeric}
        if self.text_encoder is not None:
            if tokenizer is None:
                raise Misconfigured("these towers hold a text encoder and need its tokenizer: set NEARLINE_TOKENIZER")
            arrays[INPUT_IDS], arrays[ATTENTION_MASK] = tokenizer([sentence(item) for _, item in items])
        return arrays

    def item_tokens(self, item_id: str, item: Item) -> list[int]:
        """At most 64 integers: the id's hash, then text buckets without repeats, in the order of the signals."""
        texts = chain.from_iterable(_item_texts(signal, item) for signal in self.item)
        buckets = dict.fromkeys(1 + hash64(text) % (self.text_buckets - 1) for text in texts)
        return [id_token(item_id), *islice(buckets, self.token_count - 1)]

    def item_numbers(self, item: Item) -> list[float]:
        """For each number signal log(1 + value) / 4 and whether it is present; all between 0 and 3."""
        numbers = (getattr(item, signal.of, None) for signal in self.item if signal.kind is Kind.NUMBER)
        return [part for number in numbers for part in _sized(number)]

    def user_rows(
        self, sequences: Sequence[UserSequence], row_of: Mapping[str, int]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
        """Row index, ages and types, each (batch, N), newest first; an item missing in *row_of* is -1 and masked.

        An event of an unknown type gets type 0 and is masked too. Ages count from the newest event that is not masked:
        a masked one would otherwise make all others older, and so move the vector.
        """
        most = self.history_length
        length = np.fromiter((min(len(s.items), most) for s in sequences), np.int64, len(sequences))
        filled = np.arange(most) < length[:, None]  # (batch, history), in the order of the flat columns below
        item_rows = map(row_of.get, _flat((s.items for s in sequences), most), repeat(-1))
        codes = map(TYPE_CODES.get, _flat((s.types for s in sequences), most), repeat(0))
        times_ms = _fill(filled, _flat((s.times_ms for s in sequences), most), np.int64)
        rows, types = _fill(filled, item_rows, np.int32, missing=-1), _fill(filled, codes, np.int32)
        newest = self._known(rows, types).argmax(axis=1)[:, None]  # the newest event of all if none is known
        newest_ms = np.take_along_axis(times_ms, newest, axis=1)
        return rows, ages(np.where(filled, newest_ms - times_ms, 0)), types

    def _known(self, rows: NDArray[np.int32], types: NDArray[np.int32]) -> NDArray[np.bool_]:
        known: NDArray[np.bool_] = (rows >= 0) & (types > 0) & (types <= self.types)
        return known

    def user_context(self, contexts: Sequence[Context]) -> NDArray[np.int32]:
        """The tokens of each user's context, (batch, 8); missing ones are 0."""
        tokens = np.zeros((len(contexts), CONTEXT_COUNT), dtype=np.int32)
        for row, context in enumerate(contexts):
            if context:
                found = list(islice(self._context_tokens(context), CONTEXT_COUNT))
                tokens[row, : len(found)] = found
        return tokens

    def contexts_of(self, sequences: Sequence[UserSequence]) -> NDArray[np.int32]:
        """``user_context`` of each sequence's profile and events, with the newest value of each signal.

        All kept events count, not only the last N: in training, too, a value holds until a newer one comes.
        """
        return self.user_context([newest_context(s.told) if s.contexts or s.profile else {} for s in sequences])

    def _context_tokens(self, context: Context) -> Iterator[int]:
        for signal in self.user:
            value = context.get(signal.of)
            if not value or signal.kind is Kind.EVENTS:
                continue
            yield from (context_token(signal.of, each) for each in (value if isinstance(value, list) else [value]))

    def user_batch(
        self,
        matrix: NDArray[np.float16],
        row_index: NDArray[np.int32],
        ages: NDArray[np.float32],
        types: NDArray[np.int32],
        context: NDArray[np.int32],
    ) -> Arrays:
        """The user tower's input: ``vectors`` (batch, N, dim) are rows of *matrix*; row -1 is masked.

        Masked events come last, as padding does: towers may read places, and an event that is not known takes none.
        """
        known = self._known(row_index, types)
        if (known[:, 1:] & ~known[:, :-1]).any():
            order = np.argsort(~known, axis=1, kind="stable")
            known, row_index = np.take_along_axis(known, order, axis=1), np.take_along_axis(row_index, order, axis=1)
            ages, types = np.take_along_axis(ages, order, axis=1), np.take_along_axis(types, order, axis=1)
        vectors = matrix[
            row_index
        ]  # -1 reads the last row, which the next line clears; take() would be four times slower
        vectors[~known] = 0
        return {
            VECTORS: vectors,
            AGES: np.where(known, ages, np.float32(0)),
            TYPES: np.where(known, types, np.int32(0)),
            CONTEXT: context,
        }

    def declaration(self) -> dict[str, Any]:
        """Everything in these features that a trained tower depends on, as plain data."""
        return {
            "version": VERSION,
            "dimension": self.dimension,
            "history_length": self.history_length,
            "token_count": self.token_count,
            "text_buckets": self.text_buckets,
            "context": [CONTEXT_COUNT, CONTEXT_BUCKETS],
            "item": as_plain(self.item),
            "user": as_plain(self.user),
            "rules": dict(RULES),
            "types": {name: code for name, code in TYPE_CODES.items() if code <= self.types},
            "text_encoder": self.text_encoder
            and {"tokenizer_sha256": self.text_encoder.tokenizer_sha256, "length": self.text_encoder.length},
        }

    @property
    def digest(self) -> str:
        """The declaration's digest, sixteen hex digits."""
        return digest_of(self.declaration())


def digest_of(declaration: Mapping[str, Any]) -> str:
    """The digest of a declaration; the order of its keys does not matter."""
    canonical = json.dumps(declaration, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def features_of(declaration: Mapping[str, Any]) -> Features:
    """The features for towers that were trained with *declaration*.

    ``Misconfigured``, with both versions, if this build cannot compute them (``served_signals``).
    """
    try:
        return _features_of(declaration)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Misconfigured(f"not a declaration of features ({error!r:.80}): {str(declaration)[:120]}") from None


def _features_of(declaration: Mapping[str, Any]) -> Features:
    version = int(declaration["version"])
    here: dict[str, Any] = {"rules": dict(RULES), "context": [CONTEXT_COUNT, CONTEXT_BUCKETS]}
    for name, value in here.items():
        _agree(name, declaration[name], value, version)
    types = dict(declaration["types"])
    _agree("types", types, {name: code for name, code in TYPE_CODES.items() if name in types}, version)
    encoder = declaration["text_encoder"]
    return Features(
        dimension=int(declaration["dimension"]),
        history_length=int(declaration["history_length"]),
        token_count=int(declaration["token_count"]),
        text_buckets=int(declaration["text_buckets"]),
        item=served_signals(ITEM_TOWER, declaration["item"], ITEM_SIGNALS, trained_version=version),
        user=served_signals(USER_TOWER, declaration["user"], USER_SIGNALS, trained_version=version),
        types=max(types.values()),
        text_encoder=encoder and TextEncoder(str(encoder["tokenizer_sha256"]), int(encoder["length"])),
    )


def _agree(name: str, trained: object, built: object, version: int) -> None:
    if trained != built:
        raise Misconfigured(
            f"the towers were trained with version {version} of the features, this build has version {VERSION}: "
            f"{name!r} is {trained} there and {built} here; train the towers again (make train)"
        )


def id_token(item_id: str) -> int:
    """A 31-bit hash of the id, never 0."""
    return (hash64(f"id:{item_id}") & 0x7FFF_FFFF) or 1


@lru_cache(maxsize=10_000)
def context_token(name: str, value: str) -> int:
    """The bucket of one value of a user's context, never 0; case does not matter."""
    return 1 + hash64(f"{name}:{_plain(value).strip()}") % (CONTEXT_BUCKETS - 1)


def sentence(item: Item) -> str:
    """The item's text for a pretrained encoder."""
    return ". ".join(text[:_MAX_TEXT] for text in (item.title, item.description) if text.strip())


def ages(age_ms: NDArray[np.int64]) -> NDArray[np.float32]:
    """The tower's ages: log(1 + hours) before the user's newest event; the wall clock is not used."""
    return np.log1p(np.maximum(age_ms, 0) / 3_600_000.0).astype(np.float32)


def _item_texts(signal: Signal, item: Item) -> Iterator[str]:
    """The texts of a signal of an item, each with a prefix for its kind, so that kinds do not collide."""
    if signal.kind is Kind.CATEGORY:
        yield from _labelled(signal.name, getattr(item, signal.of, ""))
    elif signal.kind is Kind.ATTRIBUTES:
        yield from islice(_attributes(item.attributes), signal.most)
    elif signal.kind in (Kind.TEXT, Kind.WORDS, Kind.TRIGRAMS):
        words = _words(getattr(item, signal.of, ""), signal.most)
        if signal.kind is Kind.TRIGRAMS:
            yield from (f"g:{gram}" for gram in chain.from_iterable(map(_trigrams, words)))
            return
        yield from (f"w:{word}" for word in words)
        if signal.kind is Kind.TEXT:
            yield from (f"p:{left} {right}" for left, right in pairwise(words))


def _attributes(attributes: Mapping[str, Attribute]) -> Iterator[str]:
    for name, value in sorted(attributes.items()):
        if isinstance(value, str):
            yield from chain.from_iterable(_labelled(f"a:{name}", part) for part in value.split(SEVERAL))
        else:
            yield f"a:{name}:{_magnitude(value)}"


def _magnitude(value: float) -> str:
    """A boolean unchanged, a number as its sign and power of two: near values share a token."""
    if isinstance(value, bool) or value == 0 or not math.isfinite(value):
        return str(value).lower()
    return f"{'-' if value < 0 else ''}2^{math.floor(math.log2(abs(value)))}"


def _sized(number: float | None) -> tuple[float, float]:
    size = number if number is not None and number > 0 else 0.0
    return min(math.log1p(size), 12.0) / 4, float(size > 0)


def _labelled(name: str, text: str) -> Iterator[str]:
    plain = _plain(text).strip()
    if plain:
        yield f"{name}:{plain}"


def _plain(text: str) -> str:
    """The text with case and compatibility forms folded, cut before and after: folding can make it 18 times longer."""
    return unicodedata.normalize("NFKC", text[:_MAX_TEXT]).casefold()[:_MAX_TEXT]


def _words(text: str, most: int) -> list[str]:
    """The first words; a text without letters or digits (an emoji) counts as one word."""
    plain = _plain(text)
    words = list(islice((match.group() for match in _WORD.finditer(plain)), most))
    return words or ([plain.strip()] if plain.strip() else [])


def _trigrams(word: str) -> Iterator[str]:
    padded = f"<{word}>"
    return (padded[start : start + 3] for start in range(min(len(padded), TOKEN_COUNT) - 2))


def _flat(columns: Iterable[list[T]], most: int) -> Iterator[T]:
    """The newest values of each user's column one after the other, newest first."""
    return chain.from_iterable(column[: -most - 1 : -1] for column in columns)


def _fill(filled: NDArray[np.bool_], flat: Iterator[Any], dtype: type[N], *, missing: int = 0) -> NDArray[N]:
    out = np.full(filled.shape, missing, dtype)
    out[filled] = np.fromiter(flat, dtype, int(filled.sum()))
    return out
