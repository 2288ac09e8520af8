"""Measures each hot function of an answer by itself, with the input of an answer of fifty items.

    .venv/services/bin/python -m benchmarks.hot

benchmarks/answer_profile.py finds out how much of an answer's time each takes.
"""

import os
import sys
import time
import timeit
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nearline.adapters.signed_tokens import SignedTokens
from nearline.filters import Filter
from nearline.hashing import hash64_all
from nearline.rules import Action, Rule
from nearline.space import Space
from nearline.user_documents import UserDocument, decode_user_document, encode_user_document
from services.retrieval.items.interface import Candidates, ItemFeatures
from services.retrieval.merchandising.effects import pin_positions, touches, weighted, with_pins
from services.retrieval.pages import ListPage, PageTokens
from services.retrieval.pipeline.diversity import Selected, mmr

_DIMENSION = 64
_SEEN = 2_000
_K, _POOL = 50, 150  # places, and candidates that diversity chooses from
_RULES = 10  # boosts of 20 items each, and half as many pins
_ROUNDS = 5
_SECRET = b"of this benchmark alone, 32 byte"


def main() -> None:
    """Print a line for each."""
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # as the parts of a system run (local/system.py)
        command = [sys.executable, "-m", "benchmarks.hot"]
        os.execve(sys.executable, command, {**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    for what, function in hot_functions(np.random.default_rng(1)).items():
        print(f"{what:<40} {microseconds(function):9.1f} us")


def hot_functions(random: np.random.Generator) -> Mapping[str, Callable[[], object]]:
    """Each hot function, ready to be called."""
    space = Space(1, _DIMENSION)
    stored = encode_user_document(_document(random), space)
    pages = PageTokens(SignedTokens(_SECRET, "pages", lives_s=1_800), space)
    served = [f"item-{n}" for n in range(_K)]
    first = ListPage(vector=_unit(random, 1)[0])
    ninth = ListPage(first.vector, served=hash64_all([f"before-{n}" for n in range(8 * _K)]), number=8)
    tokens = [_token(pages, page, served) for page in (first, ninth)]
    traits = ItemFeatures(random.integers(0, 20, _POOL).astype(np.uint64), _unit(random, _POOL))
    worth = np.sort(random.random(_POOL))[::-1]
    pool = Candidates([f"item-{n}" for n in range(_POOL)], [b""] * _POOL, worth)
    weights = [_boost(f"r-{n}", random) for n in range(_RULES)]
    pins = [Rule(f"p-{n}", Action.PIN, items=(f"item-{100 + n}",), position=1 + 4 * n) for n in range(_RULES // 2)]
    allowed = set(pool.item_ids)
    return {
        "a document of 2,000 seen items, decoded": lambda: decode_user_document(stored, space),
        "ten boosts over 150 candidates": lambda: weighted(
            pool.scores, weights, [touches(rule, pool, _no_filter) for rule in weights]
        ),
        "five pins among 50 items": lambda: with_pins(served, pin_positions(pins, {}, allowed, _K), _K),
        "diversity: 50 of 150": lambda: mmr(worth, traits, Selected(), _K, 0.3),
        "a page's token, written": lambda: pages.next(first, "u", served),
        "the same of a ninth page": lambda: pages.next(ninth, "u", served),
        "a page's token, checked and read": lambda: pages.open(tokens[0], "u"),
        "the same of a ninth page ": lambda: pages.open(tokens[1], "u"),
    }


def _token(pages: PageTokens, page: ListPage, served: Sequence[str]) -> str:
    token = pages.next(page, "u", served)
    assert token is not None
    return token


def microseconds(function: Callable[[], object]) -> float:
    """Processor time of one call: the least of a few rounds of a fifth of a second or more, with warm caches."""
    timer = timeit.Timer(function, timer=time.process_time)
    count, took = timer.autorange(lambda number, took: None)
    return min(took, *timer.repeat(_ROUNDS - 1, count)) / count * 1e6


def _document(random: np.random.Generator) -> UserDocument:
    seen = np.sort(random.integers(0, 2**63, _SEEN).astype(np.uint64))
    vector, events = _unit(random, 1)[0], random.integers(0, 2**63, 50).astype(np.uint64)
    return UserDocument(vector, 1, 1, "e-1", 1, 1, seen, seen[::20], events)


def _boost(rule_id: str, random: np.random.Generator) -> Rule:
    items = tuple(f"item-{n}" for n in random.choice(1_000, 20, replace=False).tolist())
    return Rule(rule_id, Action.BOOST, items=items, factor=1.5)


def _no_filter(wanted: Filter, items: Candidates) -> NDArray[np.bool_]:
    raise NotImplementedError("rules of this benchmark name items")


def _unit(random: np.random.Generator, count: int) -> NDArray[np.float32]:
    vectors = random.standard_normal((count, _DIMENSION), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


if __name__ == "__main__":
    main()
