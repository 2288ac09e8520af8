"""A catalogue of any size for the benchmarks: distinct titles out of the words of the Online Retail titles, seeded."""

from collections.abc import Sequence

import numpy as np

from local.layout import ROOT
from nearline.datasets import derived_category, load_online_retail
from nearline.items import Item

_SHORTEST, _LONGEST = 3, 6  # words in a title; the shop's own have 2 to 7


def bench_items(count: int, seed: int) -> dict[str, Item]:
    """*count* items with ids of their own and titles that differ in their words, not only in their order.

    Words come as often as they do in the shop's titles, so the vectors crowd together as a shop's do.
    """
    titles = [item.title for item in load_online_retail(ROOT / "data" / "online-retail").items.values()]
    words = [word for title in titles for word in title.upper().split()]
    random = np.random.default_rng(seed)
    return {f"bench-{n:06d}": _item(title, random) for n, title in enumerate(_titles(words, count, random))}


def _titles(words: Sequence[str], count: int, random: np.random.Generator) -> list[str]:
    titles: dict[frozenset[str], str] = {}
    pool = np.array(words)
    while len(titles) < count:
        drawn = random.choice(pool, (count, _LONGEST)).tolist()
        for row, length in zip(drawn, random.integers(_SHORTEST, _LONGEST + 1, count).tolist(), strict=True):
            chosen = row[:length]
            if len(set(chosen)) == length:
                titles.setdefault(frozenset(chosen), " ".join(chosen))
    return list(titles.values())[:count]


def _item(title: str, random: np.random.Generator) -> Item:
    price = round(float(random.lognormal(0.8, 0.9)), 2)
    return Item(title, category=derived_category(title), locale="en", price=price)
