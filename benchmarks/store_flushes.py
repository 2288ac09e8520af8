"""Measures what LMDB's flags cost a batch of user documents, by what a system crash may do to the file.

Documents of 50 and of 2,000 seen items are written as ``user_tower`` writes them: 64 in a transaction, each compared
with the stored one. All ways take turns, each in an environment of its own. The files are flushed every 5 s, as the
store does, and that time counts too.

    .venv/services/bin/python -m benchmarks.store_flushes [--folder FOLDER]
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from nearline.adapters.lmdb import FLUSHES, Flushes, LmdbStore
from nearline.space import Space
from nearline.user_documents import UserDocument, encode_user_document

_SPACE = Space(1, 64)
_USERS = 2_048
_BATCH = 64
_TURNS = 9
_FLUSH_S = 5.0  # services/user_tower/app.py

# What a system crash may do to a store that is written with these flags, by LMDB's documentation.
WAYS: dict[str, tuple[Flushes, str]] = {
    "sync=False": (FLUSHES, "corrupt it, unless the file system keeps the order of writes"),
    "sync=False, writemap": ({"sync": False, "writemap": True}, "corrupt it"),
    "map_async, writemap": ({"map_async": True, "writemap": True}, "corrupt it"),
    "metasync=False": ({"metasync": False}, "undo the last transaction"),
    "sync": ({}, "take nothing"),
    "sync, writemap": ({"writemap": True}, "take nothing"),
}


def _documents(seen: int, version: int) -> list[dict[str, bytes]]:
    """A document for each user, in batches; the later *version* wins."""
    random = np.random.default_rng(1)
    hashes = np.sort(random.integers(1, 2**63, seen).astype(np.uint64))
    vector = np.full(64, 0.125, np.float32)
    document = UserDocument(vector, version, version, f"e{version}", 1, 2, hashes, hashes[:50], hashes[:50])
    raw = encode_user_document(document, _SPACE)
    names = [f"user-{number}" for number in range(_USERS)]
    return [dict.fromkeys(names[start : start + _BATCH], raw) for start in range(0, _USERS, _BATCH)]


async def _turn(store: LmdbStore, seen: int, version: int) -> list[float]:
    """The milliseconds of each batch, with its share of the flushes that a second of writing needs."""
    took = []
    for batch in _documents(seen, version):
        started = time.perf_counter()
        await store.put_many_if_newer(batch)
        took.append((time.perf_counter() - started) * 1000)
    started = time.perf_counter()
    await store.keep_house()
    share = sum(took) / 1000 / _FLUSH_S * (time.perf_counter() - started) * 1000 / len(took)
    return [each + share for each in took]


async def _measure(folder: Path) -> None:
    print(f"milliseconds a batch of {_BATCH} documents, medians of {_TURNS} turns of {_USERS:,} users (least to most)")
    for seen in (50, 2_000):
        stores = {
            way: LmdbStore(folder / f"{seen} {way}", _SPACE, ttl_ms=10**12, writer=True, flushes=flushes)
            for way, (flushes, _) in WAYS.items()
        }
        for store in stores.values():
            await store.open()
        means: dict[str, list[float]] = {way: [] for way in WAYS}
        for version in range(1, _TURNS + 2):
            for way, store in stores.items():
                means[way].append(statistics.mean(await _turn(store, seen, version)))
        for store in stores.values():
            await store.close()
        least = statistics.median(means["sync=False"][1:])
        for way, found in means.items():
            median = statistics.median(found[1:])
            times = f"{median:7.2f} ({min(found[1:]):.2f} to {max(found[1:]):.2f}) {median / least:5.2f} x"
            print(f"{seen:>5} seen, {way:<21} {times}   a system crash may {WAYS[way][1]}")


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store_flushes", description=main.__doc__)
    parser.add_argument("--folder", type=Path, help="where the files are made and deleted: on the disk that matters")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        asyncio.run(_measure(Path(folder)))


if __name__ == "__main__":
    main()
