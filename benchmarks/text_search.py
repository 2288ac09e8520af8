"""Measures text search: memory, the first filling, and searches, over 100,000 made-up titles.

    python -m benchmarks.text_search [--items 100000]

Words are drawn as they are in a shop: 600 common ones by Zipf's law, and rare ones.
"""

import argparse
import asyncio
import random
import time

import psutil

from nearline.item_vectors import ItemFields
from services.retrieval.items.text_index import TextIndex

COMMON = [f"word{nth}" for nth in range(600)]
WEIGHTS = [1 / (nth + 1) ** 0.8 for nth in range(600)]
SEARCHES = ("rare77", "word0", "word0 word3", "word9 rare1", "word0 word1 word2 rare5 nothing")


def titles(count: int, seed: int = 1) -> list[ItemFields]:
    """Items with six words in the title, a category and a brand."""
    drawn = random.Random(seed)
    rare = [f"rare{nth}" for nth in range(20_000)]
    return [
        ItemFields(
            " ".join(drawn.choices(COMMON, WEIGHTS, k=4) + drawn.choices(rare, k=2)), drawn.choice(COMMON), brand="b"
        )
        for _ in range(count)
    ]


async def measure(count: int) -> None:
    """Print the table."""
    items = titles(count)
    before = psutil.Process().memory_info().rss
    texts = TextIndex(deadline_s=60.0)
    started = time.perf_counter()
    for nth, shown in enumerate(items):
        texts.put(f"item-{nth}", shown)
    await texts.search("word0", 1)
    print(f"filled with {count:,} items: {time.perf_counter() - started:.1f} s")
    print(f"memory: {(psutil.Process().memory_info().rss - before) / 1e6:.0f} MB")
    for words in SEARCHES:
        print(f"  {words:<34} {await _best_ms(texts, words):6.1f} ms")
    texts.close()


async def _best_ms(texts: TextIndex, words: str, times: int = 7) -> float:
    took = []
    for _ in range(times):
        started = time.perf_counter()
        await texts.search(words, 20)
        took.append(time.perf_counter() - started)
    return min(took) * 1e3


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    asyncio.run(measure(parser.parse_args().items))
