"""Text search in the available items: SQLite's FTS5, in memory.

It was chosen over tantivy because a change is in the next search, without a commit of milliseconds and merging threads,
and because it comes with Python. Changes are queued and written by the search thread before its next search: so they
never block the event loop, and every search includes them.
"""

import asyncio
import math
import re
import sqlite3
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from nearline.errors import BadInput, Overloaded, Unavailable
from nearline.hashing import hash64
from nearline.item_vectors import ItemFields
from nearline.telemetry import counter, gauge, seconds

MAX_WORDS = 16
MAX_FOUND = 2_000
_MOST_WAITING = 64  # searches; one takes a few ms, and all share a thread
_DEADLINE_S = 0.5
_SLICE = 4_000  # changes of one write: 40 ms; SQLite would merge many small writes over and over
_LOOK_EVERY = 20_000  # SQLite operations between two checks of the deadline: about a millisecond
_WORD = re.compile(r"[^\W_]+")
# Per column: id (never searched), title, category, brand, attributes.
_BM25 = "bm25(items, 0.0, 10.0, 4.0, 4.0, 1.0)"
_SCHEMA = """
create virtual table items using fts5(
    item_id unindexed, title, category, brand, attributes,
    tokenize = "unicode61 remove_diacritics 2", prefix = '2 3'
)
"""
_FIND = f"select item_id, {_BM25} as score from items where items match ? order by score, rowid limit ?"
_PUT = "insert or replace into items(rowid, item_id, title, category, brand, attributes) values (?, ?, ?, ?, ?, ?)"
_DROP = "delete from items where rowid = ?"

_SEARCHES = seconds("text_search_seconds", "Duration of a text search in its thread, without the wait for it")
_WAITING = gauge("text_waiting_changes", "Changes of items that the text index has not written yet")
_CUT_OFF = counter("text_searches_cut_off_total", "Text searches that were stopped at their deadline")

T = TypeVar("T")
Match = tuple[str, float]  # id, score: higher is better


class TextIndex:
    """Finds items by words. ``put``, ``drop``, ``search`` are for the event loop; the database has its own thread."""

    def __init__(self, *, deadline_s: float = _DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._changes: dict[str, ItemFields | None] = {}
        self._cleared = False
        self._thread = ThreadPoolExecutor(1, "text-search")
        self._database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._database.execute(_SCHEMA)
        self._database.set_progress_handler(lambda: time.monotonic() > self._end, _LOOK_EVERY)
        self._end = math.inf  # deadline of the running statement, used only in the search thread
        self._searches = 0

    def put(self, item_id: str, shown: ItemFields) -> None:
        """Index the words of an available item, or replace them."""
        self._changes[item_id] = shown

    def drop(self, item_id: str) -> None:
        """Remove the item, if it is indexed."""
        self._changes[item_id] = None

    def clear(self) -> None:
        """Remove all items."""
        self._changes.clear()
        self._cleared = True

    async def search(self, text: str, most: int) -> tuple[list[Match], list[Match]]:
        """The items with all words of *text*, and those with some; at most *most* together, best first.

        The last word may be a prefix. Items with some words are only searched if fewer than *most* have all.
        ``BadInput`` if *text* has no word or too many, ``Overloaded`` if too many searches wait, ``Unavailable`` if
        the search exceeds its deadline.
        """
        words = words_of(text)
        if self._searches >= _MOST_WAITING:
            raise Overloaded(f"{self._searches} searches are waiting, at most {_MOST_WAITING} may; try again")
        self._searches += 1
        try:
            await self._write_all()
            return await self._ask(words, most)
        finally:
            self._searches -= 1

    async def run(self, every_s: float = 0.2) -> None:
        """Write queued changes until cancelled, so that a search has few to write first."""
        try:
            while True:
                await self._write_all()
                _WAITING.set(len(self._changes))
                await asyncio.sleep(every_s)
        finally:
            self.close()

    def close(self) -> None:
        """Wait for the running search and close the database; safe to call twice."""
        self._thread.shutdown()
        self._database.close()

    async def _ask(self, words: Sequence[str], most: int) -> tuple[list[Match], list[Match]]:
        try:
            return await self._in_thread(lambda: self._find(words, most))
        except sqlite3.OperationalError as error:
            _CUT_OFF.inc()
            problem = f"the search took longer than {self._deadline_s:g} s ({error}); give more words"
            raise Unavailable(problem) from None

    async def _write_all(self) -> None:
        """Let the thread write all queued changes, before any search that is submitted later."""
        while self._changes or self._cleared:
            cleared, self._cleared = self._cleared, False
            part = dict(islice(self._changes.items(), _SLICE))
            for item_id in part:
                del self._changes[item_id]
            await asyncio.shield(self._in_thread(lambda part=part, cleared=cleared: self._write(part, cleared)))  # type: ignore[misc]

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _write(self, changes: dict[str, ItemFields | None], cleared: bool) -> None:
        gone = [(_row(item_id),) for item_id, shown in changes.items() if shown is None]
        come = [(_row(item_id), item_id, *_texts(shown)) for item_id, shown in changes.items() if shown is not None]
        with self._database:
            self._database.execute("begin")
            if cleared:
                self._database.execute("delete from items")
            self._database.executemany(_DROP, gone)
            self._database.executemany(_PUT, come)

    def _find(self, words: Sequence[str], most: int) -> tuple[list[Match], list[Match]]:
        self._end = time.monotonic() + self._deadline_s
        try:
            with _SEARCHES.time():
                return self._found(words, most)
        finally:
            self._end = math.inf

    def _found(self, words: Sequence[str], most: int) -> tuple[list[Match], list[Match]]:
        full = self._matches(_all_of(words), most)
        if len(full) >= most or len(words) == 1:
            return full, []
        known = {item_id for item_id, _ in full}
        some = self._matches(_any_of(words), most + len(full))
        return full, [match for match in some if match[0] not in known][: most - len(full)]

    def _matches(self, expression: str, most: int) -> list[Match]:
        return [(item_id, -score) for item_id, score in self._database.execute(_FIND, (expression, most))]


def words_of(text: str) -> list[str]:
    """The words of *text*; ``BadInput`` if there are none or too many."""
    words = _WORD.findall(unicodedata.normalize("NFC", text))
    if not words:
        raise BadInput("no_words", f"no letter or digit to search for, came {text!r:.80}", field="q")
    if len(words) > MAX_WORDS:
        raise BadInput("too_many_words", f"at most {MAX_WORDS} words, came {len(words)}", field="q")
    return words


def _all_of(words: Sequence[str]) -> str:
    return " AND ".join(_terms(words))


def _any_of(words: Sequence[str]) -> str:
    return " OR ".join(_terms(words))


def _terms(words: Sequence[str]) -> Iterable[str]:
    """Each word in quotes, so that none is a keyword of the query language; the last as a prefix."""
    for nth, word in enumerate(words, 1):
        yield f'"{word}"' + ("*" if nth == len(words) and len(word) > 1 else "")


def _texts(shown: ItemFields) -> tuple[str, str, str, str]:
    values = (value for value in shown.attributes.values() if isinstance(value, str))
    return shown.title, shown.category, shown.brand, " ".join(values)


def _row(item_id: str) -> int:
    """The item's rowid: its hash as a signed 64-bit integer."""
    number = hash64(item_id)
    return number - (1 << 64) if number >= 1 << 63 else number
