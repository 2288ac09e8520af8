"""The loop of ``user_tower``: reads sequences and seen snapshots, stores documents, then commits the offsets.

A burst of one user's clicks costs one inference: in each poll only a user's newest sequence is encoded (all of them
count as seen). While Triton is down, seen items are still stored and the records wait, uncommitted, up to
``MOST_WAITING`` users; while the store is down, nothing is processed. If the store refuses a write because another
replica stored a newer version, the write is rebuilt from the stored document.

A user whose history has items without a vector is encoded again, from the same sequence, when one of the vectors comes
(missing_items.py).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from nearline.dead_letters import encode_dead_letter, letter_about
from nearline.errors import BadAnswer, BadInput, SpaceMismatch, Unavailable
from nearline.features import HISTORY_LENGTH, Features
from nearline.item_table import ItemTable
from nearline.log import GroupLog, Record
from nearline.reasons import reasons_of
from nearline.salvage import salvage
from nearline.seen import SeenPolicy, decode_seen, encode_seen
from nearline.sequences import TriggerEvent, UserSequence, decode_sequence
from nearline.space import Space
from nearline.store import UserStore
from nearline.telemetry import counter, gauge, get_logger, seconds, sizes
from nearline.topics import USER_SEEN, USER_SEQUENCES, USER_SEQUENCES_DLQ
from nearline.user_documents import UserDocument, decode_user_document, encode_user_document
from services.user_tower.documents import Arrived, News, advance, snapshot_beside
from services.user_tower.freshness import Freshness, Laps
from services.user_tower.missing_items import MissingItems

CHUNK = 64  # users in one request: measured 25 times the users/s of single requests
IN_FLIGHT = 2
MOST_WAITING = 10_000
RETRY_S = 0.2
_ATTEMPTS = 5  # a write that loses a race is rebuilt; five losses in a row mean that another replica loops
# A round costs some 2 ms of processor time even for few users, so under load users are gathered for a moment.
ROUND_S = 0.006

SEQUENCES = counter("sequences_total", "Sequences read from the log.")
SNAPSHOTS = counter("seen_snapshots_total", "Snapshots of seen items read from the log.")
RACES = counter("user_write_races_total", "Writes rebuilt because the store had a newer version.")
ENCODED = counter("user_vectors_total", "User vectors encoded and stored.")
UNKNOWN_ITEMS = counter("unknown_items_total", "Events of encoded histories whose item has no vector yet.")
REASONS = reasons_of("ids", "sequences", "seen", others=("bad_answer",))
REFUSED = counter(
    "sequences_refused_total", "Sequences and snapshots sent to the dead-letter queue.", "reason", known=REASONS
)
AWAY = counter("user_tower_waits_total", "Rounds in which Triton or the store was down.")
WAITING = gauge("user_tower_waiting_users", "Users whose sequences wait for Triton or the store.")
STORED_AFTER = seconds("sequence_to_stored_seconds", "From a sequence's append to its stored vector.")
BATCH = seconds("user_tower_batch_seconds", "One batch, from poll to stored.")
BATCH_USERS = sizes("user_tower_batch_users", "Users in one batch.")

NewsByUser = dict[str, News]


class Lacking(NamedTuple):
    """A sequence, and those of its items that have no vector."""

    sequence: UserSequence
    items: frozenset[str]


class UserEncoder(Protocol):
    """The user tower, as the worker needs it."""

    @property
    def features(self) -> Features: ...
    async def encode_users(self, batch: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]: ...


DeadLetters = Callable[[str, list[tuple[bytes, bytes | None]]], Awaitable[object]]
Announce = Callable[[Mapping[str, UserDocument], Mapping[str, TriggerEvent]], None]  # must neither wait nor fail


class UserWorker:
    """Turns sequences into stored documents; one instance and one reader per process."""

    def __init__(
        self,
        space: Space,
        *,
        reader: GroupLog,
        table: ItemTable,
        towers: UserEncoder,
        store: UserStore,
        dead_letters: DeadLetters,
        announce: Announce,
        policy: SeenPolicy,
        kept: int = HISTORY_LENGTH,
        missing: MissingItems | None = None,
        ttl_ms: int | None = None,
        freshness: Freshness | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        retry_s: float = RETRY_S,
    ) -> None:
        self._space = space
        self._reader = reader
        self._table = table
        self._towers = towers
        self._store = store
        self._dead_letters = dead_letters
        self._announce = announce
        self._policy = policy
        self._kept = kept
        self._missing = MissingItems() if missing is None else missing
        self._ttl_ms = ttl_ms
        self._freshness = Freshness() if freshness is None else freshness
        self._now_ms = now_ms
        self._retry_s = retry_s
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._waiting: list[Record] = []
        self._waiting_users: NewsByUser = {}

    async def run(self) -> None:
        """Read and process sequences until cancelled; rounds with records start ``ROUND_S`` apart."""
        clock = asyncio.get_running_loop().time
        while True:
            polled_at = await self.step()
            await asyncio.sleep(polled_at + ROUND_S - clock())

    async def step(self) -> float:
        """One round: poll, process the records, and the waiting ones if their dependency is up again.

        Returns the loop's time at which the poll returned.
        """
        if len(self._waiting_users) < MOST_WAITING:
            records = await self._reader.poll()
        else:
            await self._reader.stay()
            records = []
        polled_at = asyncio.get_running_loop().time()
        users = await self._take(records)
        await self._erase(records)
        self._add_due(users)
        if not users and not self._waiting and not self._waiting_users:
            self._reader.done(records)
            return polled_at
        self._waiting += records
        for user_id, news in users.items():
            self._waiting_users.setdefault(user_id, News()).add(news)
        await self._deal(users)
        WAITING.set(len(self._waiting_users))
        return polled_at

    def _add_due(self, users: NewsByUser) -> None:
        """Add to *users* those whose missing items have vectors now; newer sequences of a user replace the wait."""
        for user_id, news in users.items():
            if news.sequences:
                self._missing.forget(user_id)
        for user_id, news in self._missing.take().items():
            users.setdefault(user_id, News()).add(news)

    async def _deal(self, fresh: NewsByUser) -> None:
        try:
            BATCH_USERS.observe(len(self._waiting_users))
            with BATCH.time():
                await self._in_chunks(self._waiting_users, self._encode_and_write)
        except Unavailable as error:
            await self._hold(fresh, error)
            return
        now = self._now_ms()
        for record in filter(_is_sequence, self._waiting):
            STORED_AFTER.observe(max(0, now - record.append_ms) / 1000)
        self._reader.done(self._waiting)
        self._waiting, self._waiting_users = [], {}

    async def _hold(self, fresh: NewsByUser, error: Unavailable) -> None:
        """Handle an outage of Triton or the store: store seen items if possible, then pause."""
        AWAY.inc()
        get_logger().warning("waiting", reason=str(error), users=len(self._waiting_users))
        try:
            await self._in_chunks(fresh, self._write_seen)
        except Unavailable as store_error:
            await self._outlast_store(store_error)
            return
        self._let_go_of_snapshots(fresh)
        await asyncio.sleep(self._retry_s)
        await self._reader.stay()

    def _let_go_of_snapshots(self, written: NewsByUser) -> None:
        """Drop stored snapshots of waiting users: those of 10,000 would take 260 MB."""
        for user_id, news in written.items():
            waiting = self._waiting_users[user_id]
            if waiting.snapshot is news.snapshot:
                waiting.snapshot = None

    async def _outlast_store(self, error: Unavailable) -> None:
        """Return once the store answers again; meanwhile stay in the group."""
        get_logger().warning("store away", reason=str(error))
        while True:
            await self._reader.stay()
            await asyncio.sleep(self._retry_s)
            try:
                await self._store.open()
                await self._store.get("-")
                return
            except Unavailable:
                continue

    async def _take(self, records: list[Record]) -> NewsByUser:
        users: NewsByUser = {}
        sequences = sum(map(_is_sequence, records))
        SEQUENCES.inc(sequences)
        SNAPSHOTS.inc(len(records) - sequences)
        for record in records:
            if self._is_past(record):
                continue
            if record.value:
                try:
                    users.setdefault(record.id, News()).add(_news(record, record.value))
                except BadInput as error:
                    await self._refuse(record, error.reason, str(error))
            elif _is_sequence(record):
                users.pop(record.id, None)
        return {user_id: news for user_id, news in users.items() if news.sequences or news.snapshot}

    def _is_past(self, record: Record) -> bool:
        """Whether the record is older than an idle user's may be; the job's null value follows within two days."""
        if self._ttl_ms is None or not record.value:
            return False
        # An active user's snapshot is up to a quarter older than the last event.
        lasts_ms = self._ttl_ms if _is_sequence(record) else self._ttl_ms * 5 // 4
        return record.append_ms < self._now_ms() - lasts_ms

    async def _erase(self, records: list[Record]) -> None:
        """Delete the documents of users with a tombstone, unless a later sequence of the same poll follows."""
        last = {record.id: record for record in filter(_is_sequence, records)}
        for user_id, record in last.items():
            if not record.value:
                self._waiting_users.pop(user_id, None)
                self._missing.forget(user_id)
                await self._delete(user_id)

    async def _delete(self, user_id: str) -> None:
        while True:
            try:
                await self._store.delete(user_id)
                return
            except Unavailable as error:
                await self._outlast_store(error)

    async def _in_chunks(self, users: NewsByUser, work: Callable[[NewsByUser], Awaitable[None]]) -> None:
        items = list(users.items())
        chunks = [dict(items[start : start + CHUNK]) for start in range(0, len(items), CHUNK)]

        failures: list[Unavailable] = []

        async def one(chunk: NewsByUser) -> None:
            async with self._slots:
                if failures:
                    return  # the dependency is down: do not wait for its deadline in every chunk
                try:
                    await work(chunk)
                except Unavailable as error:
                    failures.append(error)

        await asyncio.gather(*(one(chunk) for chunk in chunks))
        if failures:
            raise failures[0]

    async def _encode_and_write(self, chunk: NewsByUser) -> None:
        laps = Laps()
        stored = await self._stored(chunk)
        laps.end("read")
        newest = ((stored[user_id], news.newest) for user_id, news in chunk.items())
        sequences = [one for document, one in newest if one and _is_ahead(one, document)]
        vectors, lacking = await self._encode(sequences, laps)
        await self._write(chunk, stored, vectors, laps)
        ENCODED.inc(len(vectors))
        for each in lacking:
            self._wait_for_items(each, chunk[each.sequence.user_id].arrived)

    def _wait_for_items(self, lacking: Lacking, arrived: list[Arrived]) -> None:
        """Encode the sequence again once it lacks fewer items; *arrived* are its clicks if no vector was stored."""
        sequence, items = lacking
        news = News([sequence], arrived=arrived)
        still = self._without_vector(items)
        if len(still) < len(items):  # a vector came while the tower computed
            self._missing.make_due(sequence.user_id, news)
        else:
            self._missing.wait(sequence.user_id, news, still)

    def _without_vector(self, items: Iterable[str]) -> frozenset[str]:
        return frozenset(item for item in items if item not in self._table)

    async def _write_seen(self, chunk: NewsByUser) -> None:
        await self._write(chunk, await self._stored(chunk), {}, Laps())

    async def _write(
        self,
        chunk: NewsByUser,
        stored: Mapping[str, UserDocument | None],
        vectors: Mapping[str, NDArray[np.float32]],
        laps: Laps,
    ) -> None:
        """Store the documents of *chunk*; ``Unavailable`` if another replica stored newer ones in every attempt."""
        for _ in range(_ATTEMPTS):
            documents = self._advanced(chunk, stored, vectors)
            await self._write_snapshots(chunk, documents)
            encoded = {user_id: encode_user_document(one, self._space) for user_id, one in documents.items()}
            changed_ms = {user_id: one.history_version for user_id, one in documents.items()}
            if await self._store.put_many_if_newer(encoded, changed_ms) == len(encoded):
                laps.end("store")
                self._announce(documents, self._freshness.stored(chunk, vectors, laps))
                return
            RACES.inc()
            stored = await self._stored(chunk)
        raise Unavailable(f"{_ATTEMPTS} writes in a row lost a race; does another replica loop over the same users?")

    async def _write_snapshots(self, chunk: NewsByUser, documents: Mapping[str, UserDocument]) -> None:
        """Store the snapshots that belong beside *documents*, before these: no reader may find items missing."""
        beside = ((user_id, snapshot_beside(document, chunk[user_id])) for user_id, document in documents.items())
        snapshots = {user_id: snapshot for user_id, snapshot in beside if snapshot is not None}
        if snapshots:
            encoded = {user_id: encode_seen(snapshot) for user_id, snapshot in snapshots.items()}
            changed_ms = {user_id: snapshot.version for user_id, snapshot in snapshots.items()}
            await self._store.put_seen_if_newer(encoded, changed_ms)

    def _advanced(
        self, chunk: NewsByUser, stored: Mapping[str, UserDocument | None], vectors: Mapping[str, NDArray[np.float32]]
    ) -> dict[str, UserDocument]:
        now = self._now_ms()
        return {
            user_id: advance(
                stored[user_id], news, vectors.get(user_id), policy=self._policy, now_ms=now, kept=self._kept
            )
            for user_id, news in chunk.items()
        }

    async def _stored(self, chunk: NewsByUser) -> dict[str, UserDocument | None]:
        raws = await self._store.get_many(list(chunk))
        return {user_id: await self._decoded(user_id, raw) for user_id, raw in zip(chunk, raws, strict=True)}

    async def _decoded(self, user_id: str, raw: bytes | None) -> UserDocument | None:
        """The document, or ``None``; an unreadable one is removed, since its versions would refuse every write."""
        if raw is None:
            return None
        try:
            return decode_user_document(raw, self._space)
        except (BadInput, SpaceMismatch) as error:
            get_logger().error("stored document refused, rebuilding it", user_id=user_id, reason=str(error))
        await self._store.delete_document(user_id)
        return None

    async def _encode(
        self, sequences: Sequence[UserSequence], laps: Laps
    ) -> tuple[dict[str, NDArray[np.float32]], list[Lacking]]:
        """The vector of each sequence that can be encoded: it needs a known input, and a valid answer.

        And the sequences that lack items.

        A known input is an item with a vector, or a context that the towers read: a profile alone is enough.
        """
        features = self._towers.features
        rows, ages, types = features.user_rows(sequences, self._table.row_of)
        context = features.contexts_of(sequences)
        unknown = (rows < 0) & (types > 0)
        UNKNOWN_ITEMS.inc(int(unknown.sum()))
        incomplete = (sequences[place] for place in np.flatnonzero(unknown.any(axis=1)).tolist())
        lacking = [Lacking(each, self._without_vector(each.items)) for each in incomplete]
        events_known = ((rows >= 0) & (types > 0) & (types <= features.types)).any(axis=1)
        encodable = np.flatnonzero(events_known | context.any(axis=1))
        laps.end("gather")

        async def encode(part: Sequence[int]) -> list[NDArray[np.float32]]:
            picked = np.asarray(part)
            batch = features.user_batch(self._table.history, rows[picked], ages[picked], types[picked], context[picked])
            return list(await self._towers.encode_users(batch))

        good, bad = await salvage(encode, [int(index) for index in encodable])
        laps.end("triton")
        for index, error in bad:
            await self._refuse_answer(sequences[index], error)
        return {sequences[index].user_id: vector for index, vector in good}, lacking

    async def _refuse_answer(self, sequence: UserSequence, error: BadAnswer) -> None:
        records = filter(_is_sequence, reversed(self._waiting))
        record = next((record for record in records if record.id == sequence.user_id), None)
        if record is None:  # encoded again for an item: its record was processed, and the vector without the item stays
            get_logger().warning("the vector with a new item is not valid", user_id=sequence.user_id)
        else:
            await self._refuse(record, "bad_answer", str(error))

    async def _refuse(self, record: Record, reason: str, detail: str) -> None:
        REFUSED.labels(reason=reason).inc()
        # Without the detail, which quotes the record and so its user; the dead letter has it.
        where = f"{record.topic}/{record.partition}/{record.offset}"
        get_logger().warning("sequence refused", reason=reason, record=where, user_id=record.id)
        letter = letter_about(record, reason, detail)
        await self._dead_letters(USER_SEQUENCES_DLQ, [(record.key or b"", encode_dead_letter(letter))])


def _is_sequence(record: Record) -> bool:
    return record.topic == USER_SEQUENCES


def _news(record: Record, value: bytes) -> News:
    if record.topic == USER_SEEN:
        return News(snapshot=decode_seen(value))
    sequence = decode_sequence(value)
    cause = sequence.cause
    return News([sequence], arrived=[] if cause is None else [Arrived(cause, record.append_ms)])


def _is_ahead(newest: UserSequence, stored: UserDocument | None) -> bool:
    return stored is None or newest.version >= stored.vector_version
