"""``nearline recommend --all-users``: an answer for every user, in one Parquet file.

The answers come in parts. Finished parts lie beside the file until all are there; after an interruption the next run
continues with the users who are in no part yet.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import orjson
import polars as pl

from nearline.cli import parquet
from nearline.cli.console import bar, progress
from nearline.cli.exporting import records_of
from nearline.cli.parquet import Row, Schema
from nearline.errors import BadInput, Misconfigured, NearlineError, Unavailable
from nearline.key_file import own_key
from nearline.newest import Newest
from nearline.sequences import decode_sequence
from nearline.settings import Settings
from nearline.topics import USER_SEQUENCES
from nearline_client import AsyncClient, NotLetIn, RecommendOptions, Refused, Retries
from nearline_client import NearlineError as ClientError

SCHEMA: Schema = {
    "user_id": pl.String,
    "item_ids": pl.List(pl.String),
    "scores": pl.List(pl.Float64),
    "sources": pl.List(pl.String),
    "reason": pl.String,
    "degraded": pl.Boolean,
    "history_version": pl.Int64,
    "as_of_ms": pl.Int64,
    "request_id": pl.String,
}
USERS_PER_PART = 10_000
_PATIENT = Retries(attempts=12, most_s=10, total_s=300)
_ASKED_AS = "asked.json"


def recommend_all(
    settings: Settings, file: Path, options: RecommendOptions, *, users: Path | None = None, at_once: int = 16
) -> int:
    """Write an answer for each of *users* (a text file, one id a line; else all in the log) to *file*; return how many.

    After an interruption another run asks for the missing users; with other *options* it starts anew. ``Misconfigured``
    if retrieval refuses the options.
    """
    parts = Parts(file, options)
    with progress() as bars:
        ids = sorted(set(known_users(settings) if users is None else _listed(users)))
        client = AsyncClient(key=own_key(settings), retrieval=settings.retrieval, retries=_PATIENT)
        asyncio.run(
            ask_all(client, parts, ids, options, at_once=at_once, show=bar(bars, "asking for all users", len(ids)))
        )
        return parts.join()


def known_users(settings: Settings) -> Iterator[str]:
    """Every user who has a history or a profile, is not erased, and not idle for longer than the time to live."""
    oldest_ms = time.time_ns() // 1_000_000 - settings.history_ttl_ms
    newest = Newest()
    for records in records_of(settings, USER_SEQUENCES):
        newest.note(records)
    for records in records_of(settings, USER_SEQUENCES):
        for record in newest.take(records):
            try:
                sequence = decode_sequence(record.value or b"")
            except BadInput:
                continue
            if not sequence.erased and record.append_ms >= oldest_ms:
                yield sequence.user_id


def _listed(file: Path) -> Iterator[str]:
    try:
        lines = file.read_text().splitlines()
    except OSError as error:
        raise Misconfigured(f"cannot read the users in {file}: {error.strerror}") from None
    return (line.strip() for line in lines if line.strip())


class Parts:
    """The finished parts of *file*, in a folder next to it."""

    def __init__(self, file: Path, options: RecommendOptions) -> None:
        self.file = file
        self._folder = file.with_name(f"{file.name}.parts")
        self._folder.mkdir(parents=True, exist_ok=True)
        asked = self._folder / _ASKED_AS
        wanted = orjson.dumps(options, option=orjson.OPT_SORT_KEYS)
        if not asked.is_file() or asked.read_bytes() != wanted:
            self._clear()
            asked.write_bytes(wanted)

    def done(self) -> set[str]:
        """The users in finished parts."""
        return {user for file in self._files() for user in pl.read_parquet(file, columns=["user_id"])["user_id"]}

    def add(self, rows: Sequence[Row]) -> None:
        """Write *rows* as the next part."""
        parquet.write(self._folder / f"{len(self._files()):06}.parquet", rows, SCHEMA)

    def join(self) -> int:
        """Join all parts into the file, atomically, and delete them; return the number of users."""
        rows = (row for file in self._files() for row in parquet.rows_of(file))
        count = parquet.write(self.file, rows, SCHEMA)
        self._clear()
        self._folder.rmdir()
        return count

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.parquet"))

    def _clear(self) -> None:
        for file in self._folder.iterdir():
            file.unlink()


async def ask_all(
    client: AsyncClient,
    parts: Parts,
    user_ids: Iterable[str],
    options: RecommendOptions,
    *,
    at_once: int,
    show: Callable[[int], object] = lambda count: None,
    per_part: int = USERS_PER_PART,
) -> None:
    """Ask for each of *user_ids* who is in no part yet, *at_once* at a time, and write the answers part by part."""
    done = parts.done()
    left = (user_id for user_id in user_ids if user_id not in done)
    count = len(done)
    show(count)
    async with client:
        while batch := list(islice(left, per_part)):
            rows = []
            async for row in _answers(client, batch, options, at_once):
                rows.append(row)
                count += 1
                show(count)
            parts.add(rows)


async def _answers(
    client: AsyncClient, user_ids: Sequence[str], options: RecommendOptions, at_once: int
) -> AsyncIterator[Row]:
    """The rows of *user_ids*, in their order, with at most *at_once* concurrent requests."""
    ids = iter(user_ids)
    tasks = [asyncio.create_task(_answer(client, user_id, options)) for user_id in islice(ids, at_once)]
    try:
        while tasks:
            yield await tasks.pop(0)
            tasks += [asyncio.create_task(_answer(client, user_id, options)) for user_id in islice(ids, 1)]
    except ClientError as error:
        raise _ours(error) from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _answer(client: AsyncClient, user_id: str, options: RecommendOptions) -> Row:
    answer = cast("Mapping[str, Any]", await client.recommend(user_id, **options))
    items = answer["items"]
    return {
        "user_id": user_id,
        "item_ids": [item["item_id"] for item in items],
        "scores": [item.get("score") for item in items],
        "sources": [item.get("source") for item in items],
        **{name: answer.get(name) for name in list(SCHEMA)[4:]},
    }


def _ours(error: ClientError) -> NearlineError:
    if isinstance(error, NotLetIn):
        return Misconfigured(f"{error}; `nearline keys ensure` makes a key, NEARLINE_KEY names another")
    if isinstance(error, Refused):
        return BadInput("refused", str(error), field=error.field)
    return Unavailable(f"{error}; run it again, it continues where it stopped")
