"""The item engine on Milvus, through pymilvus: a server, or for tests a file (milvus-lite, in this process).

Space 7 is the collection ``nearline_items_7``; ``nearline_gone_7`` holds the versions of hidden items, so that reading
an older record again never brings them back. Only ids, quoted, get from callers' input into an expression.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import grpc
import numpy as np
from numpy.typing import NDArray
from pymilvus import AsyncMilvusClient, DataType, MilvusClient, MilvusException

from nearline.errors import Misconfigured, SpaceMismatch, Unavailable
from nearline.ids import MAX_ID_BYTES
from nearline.item_engine import MAX_PRINTED, MAX_RESULTS, Card, EngineHits, EngineRow
from nearline.space import Space
from nearline.telemetry import get_logger

T = TypeVar("T")

ALIAS = "nearline_live"
_ITEMS, _GONE = "nearline_items_", "nearline_gone_"
_MAX_FACTS = 512
_HNSW = {"index_type": "HNSW", "metric_type": "IP", "params": {"M": 16, "efConstruction": 200}}
_ITEM_INDEXES: Mapping[str, Mapping[str, Any]] = {"vector": _HNSW, "listed_ms": {"index_type": "INVERTED"}}
_GONE_INDEXES: Mapping[str, Mapping[str, Any]] = {"v": {"index_type": "FLAT", "metric_type": "IP"}}
_LEAST_EF = 64
_WRITE_S = 5.0  # less than a session of kafka/group_reader.py, so that no write outlives its partition
_OPEN_S = 5.0
_RETRY_S = 0.5
_NOT_FOUND = (100, 1600)  # a collection, an alias
_LEVELS = ("Strong", "Session", "Bounded", "Eventually")


@dataclass(frozen=True, slots=True)
class MilvusAddress:
    """Where Milvus is and how to query it.

    *consistency*: with Strong a query sees every write acknowledged before it, by any writer.
    """

    uri: str
    token: str = ""
    database: str = ""
    consistency: str = "Strong"
    width: int = 4  # HNSW's ef for each result
    shards: int = 1  # of a new collection
    replicas: int = 1  # of a loaded collection


def parse_address(url: str) -> MilvusAddress:
    """Parse a ``milvus://`` (``milvuss://`` with TLS) URL; ``Misconfigured`` with what came if it is malformed."""
    parts = urlsplit(url)
    options = _options(parts)
    if not parts.hostname:
        if not parts.path.endswith(".db"):
            raise Misconfigured(
                f"Milvus is milvus://[user:password@]host:19530[/database] or milvus:///file.db, came no host and the "
                f"path {parts.path!r}"
            )
        return MilvusAddress(parts.path, **options)
    scheme = "https" if parts.scheme == "milvuss" else "http"
    token = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
    uri = f"{scheme}://{parts.hostname}:{parts.port or 19530}"
    return MilvusAddress(uri, token, parts.path.strip("/"), **options)


def _options(parts: SplitResult) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name == "consistency" and value.capitalize() in _LEVELS:
            options[name] = value.capitalize()
        elif name in ("width", "shards", "replicas") and value.isdecimal() and 1 <= int(value) <= 1_000:
            options[name] = int(value)
        else:
            raise Misconfigured(
                f"{name}={value!r:.80} in the address of Milvus: known are consistency ({', '.join(_LEVELS).lower()}) "
                "and width, shards and replicas (1-1000)"
            )
    return options


class MilvusItems:
    """The items of *space* in Milvus; *read_ms* is the deadline of a search."""

    def __init__(self, address: MilvusAddress, space: Space, *, read_ms: int) -> None:
        self._address = address
        self._space = space
        self._read_s = read_ms / 1000
        self._items = f"{_ITEMS}{space.number}"
        self._gone = f"{_GONE}{space.number}"
        self._client: AsyncMilvusClient | None = None
        self._mending: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it also logs, with a stack trace, what it raises

    async def open(self) -> None:
        """Connect, and create what is missing; ``SpaceMismatch`` if the collection has another dimension."""
        await self.close()
        await self._answer(asyncio.to_thread(self._prepare), "opening", 3 * _OPEN_S)
        self._client = self._new_client()
        self._check(await self._ask("describe_collection", self._items, within_s=_OPEN_S))

    async def close(self) -> None:
        """Close the connection; safe to call twice."""
        client, self._client = self._client, None
        tasks = [*self._leaving, *([self._mending] if self._mending is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if client is not None:
            await _closed(client)

    async def search(self, vector: NDArray[np.float32], limit: int, where: str) -> EngineHits:
        """The *limit* best items by inner product with *vector* among those that pass *where*."""
        if len(vector) != self._space.dimension:
            raise SpaceMismatch(f"a search with a vector of {len(vector)} dimensions in {self._described()}")
        limit = min(limit, MAX_RESULTS)
        hits = await self._ask(
            "search",
            self._items,
            data=[vector],
            filter=where,
            limit=limit,
            output_fields=["printed"],  # else the vectors are returned too
            search_params={"params": {"ef": max(_LEAST_EF, self._address.width * limit)}},
            consistency_level=self._address.consistency,
            within_s=self._read_s,
        )
        return [(hit["item_id"], hit["entity"]["printed"].encode(), hit["distance"]) for hit in hits[0]]

    async def versions(self, item_ids: Sequence[str]) -> dict[str, int]:
        """The newest version put or hidden of each of *item_ids* that has one and was not erased since."""
        gone = await self._versions(self._gone, item_ids)
        shown = await self.shown_versions(item_ids)
        return {item_id: max(shown.get(item_id, 0), gone.get(item_id, 0)) for item_id in {*shown, *gone}}

    async def shown_versions(self, item_ids: Sequence[str]) -> dict[str, int]:
        """The versions of the available items among *item_ids*."""
        return await self._versions(self._items, item_ids)

    async def _versions(self, collection: str, item_ids: Sequence[str]) -> dict[str, int]:
        rows = await self._query(collection, among(item_ids), ["item_id", "version"], MAX_RESULTS)
        return {row["item_id"]: row["version"] for row in rows}

    async def cards(self, item_ids: Sequence[str]) -> list[Card]:
        """The available items among *item_ids*, in any order."""
        return await self.matching(among(item_ids), MAX_RESULTS) if item_ids else []

    async def vectors(self, item_ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The vectors of the available items among *item_ids*; at most ``MAX_RESULTS`` ids."""
        if not item_ids:
            return {}
        rows = await self._query(self._items, among(item_ids), ["item_id", "vector"], MAX_RESULTS)
        return {row["item_id"]: np.asarray(row["vector"], np.float32) for row in rows}

    async def matching(self, where: str, limit: int) -> list[Card]:
        """Any *limit* items that pass *where*; all of them if they are fewer."""
        rows = await self._query(self._items, where, ["item_id", "version", "printed"], min(limit, MAX_RESULTS))
        return [Card(row["item_id"], row["version"], row["printed"].encode()) for row in rows]

    async def count(self, where: str) -> int:
        """How many items pass *where*."""
        rows = await self._query(self._items, where, ["count(*)"], None)
        return int(rows[0]["count(*)"])

    async def put(self, rows: Sequence[EngineRow]) -> None:
        """Make *rows* available, replacing other versions; each id comes once."""
        if rows:
            await self._write("upsert", self._items, data=[_fields(row) for row in rows])
            await self._delete(self._gone, [row.item_id for row in rows])

    async def hide(self, versions: Mapping[str, int]) -> None:
        """Make these items unavailable, and keep the version at which they became so."""
        if versions:
            rows = [{"item_id": item_id, "version": version, "v": [0.0, 0.0]} for item_id, version in versions.items()]
            await self._write("upsert", self._gone, data=rows)
            await self._delete(self._items, list(versions))

    async def forget(self, item_ids: Sequence[str]) -> None:
        """Erase these items and their versions."""
        await self._delete(self._items, item_ids)
        await self._delete(self._gone, item_ids)

    async def live(self) -> int | None:
        """The space that the alias points at, or ``None``; ``SpaceMismatch`` if it is no space's collection."""
        try:
            found = await self._answer(self._connected().describe_alias(ALIAS), "describe_alias", _OPEN_S)
        except Unavailable as error:
            if isinstance(error.__context__, MilvusException) and error.__context__.code in _NOT_FOUND:
                return None
            raise
        name = str(found["collection_name"])
        number = name.removeprefix(_ITEMS)
        if number == name or not number.isdecimal():
            raise SpaceMismatch(f"the alias {ALIAS} of Milvus points at {name!r}, which is no space's collection")
        return int(number)

    async def make_live(self) -> None:
        """Point the alias at this space, in one step."""
        change = "create_alias" if await self.live() is None else "alter_alias"
        await self._ask(change, self._items, ALIAS, within_s=_OPEN_S)

    def _prepare(self) -> None:
        """Create the missing collections and indexes, and load them, with the blocking client.

        The asynchronous client waits for an index with a call that milvus-lite lacks. A replica completes what another
        left unfinished; two at the same time do no harm.
        """
        client = MilvusClient(**self._where(), timeout=_OPEN_S)
        try:
            self._make(client, self._items, self._items_schema(client), _ITEM_INDEXES)
            self._make(client, self._gone, self._gone_schema(client), _GONE_INDEXES)
            self._index_facts(client)
            for name in (self._items, self._gone):
                client.load_collection(name, replica_number=self._address.replicas)
        finally:
            client.close()

    def _make(self, client: MilvusClient, name: str, schema: Any, indexes: Mapping[str, Mapping[str, Any]]) -> None:
        if not client.has_collection(name):
            try:
                client.create_collection(
                    name, schema=schema, num_shards=self._address.shards, consistency_level="Strong"
                )
            except MilvusException:
                if not client.has_collection(name):  # else another replica was faster
                    raise
        for field, index in indexes.items():
            _make_index(client, name, field, index)

    def _index_facts(self, client: MilvusClient) -> None:
        """Index the facts for filters. milvus-lite has no index of arrays: its filters scan every item instead."""
        try:
            _make_index(client, self._items, "facts", {"index_type": "INVERTED"})
        except MilvusException as error:
            get_logger().warning("filters will be slow: no index of facts", reason=f"{error!s:.200}")

    def _items_schema(self, client: MilvusClient) -> Any:
        schema = client.create_schema(
            auto_id=False, enable_dynamic_field=False, description=f"Nearline: {self._described()}"
        )
        schema.add_field("item_id", DataType.VARCHAR, is_primary=True, max_length=MAX_ID_BYTES)
        schema.add_field("item_hash", DataType.INT64)
        schema.add_field("version", DataType.INT64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self._space.dimension)
        schema.add_field("price", DataType.DOUBLE, nullable=True)
        schema.add_field("listed_ms", DataType.DOUBLE, nullable=True)
        schema.add_field("facts", DataType.ARRAY, element_type=DataType.INT64, max_capacity=_MAX_FACTS)
        schema.add_field("numbers", DataType.JSON)
        schema.add_field("printed", DataType.VARCHAR, max_length=MAX_PRINTED)
        return schema

    def _gone_schema(self, client: MilvusClient) -> Any:
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("item_id", DataType.VARCHAR, is_primary=True, max_length=MAX_ID_BYTES)
        schema.add_field("version", DataType.INT64)
        schema.add_field("v", DataType.FLOAT_VECTOR, dim=2)  # a collection must have a vector
        return schema

    def _check(self, described: Mapping[str, Any]) -> None:
        """Check that an existing collection is ours and has this space's dimension."""
        by_name = {field["name"]: field for field in described["fields"]}
        dimension = by_name.get("vector", {}).get("params", {}).get("dim")
        if dimension is None:
            raise Misconfigured(f"the collection {self._items} of Milvus is not ours: it has {', '.join(by_name)}")
        self._space.check(f"the collection {self._items}", number=self._space.number, dimension=int(dimension))

    def _described(self) -> str:
        return f"space {self._space.number} of {self._space.dimension} dimensions"

    def _where(self) -> dict[str, str]:
        return {"uri": self._address.uri, "token": self._address.token, "db_name": self._address.database}

    def _connected(self) -> AsyncMilvusClient:
        if self._client is None:
            raise Unavailable("Milvus has not answered yet")
        return self._client

    async def _query(self, collection: str, where: str, fields: list[str], limit: int | None) -> list[Any]:
        """Rows of *collection*, including every acknowledged write."""
        given = {} if limit is None else {"limit": limit}
        return list(
            await self._ask(
                "query",
                collection,
                filter=where,
                output_fields=fields,
                consistency_level="Strong",
                within_s=_WRITE_S,
                **given,
            )
        )

    async def _delete(self, collection: str, item_ids: Sequence[str]) -> None:
        if item_ids:
            await self._write("delete", collection, filter=among(item_ids))

    async def _write(self, call: str, collection: str, **given: Any) -> None:
        await self._ask(call, collection, within_s=_WRITE_S, **given)

    async def _ask(self, call: str, *given: Any, within_s: float, **named: Any) -> Any:
        client = self._connected()
        try:
            return await self._answer(getattr(client, call)(*given, timeout=within_s, **named), call, within_s)
        except Unavailable:
            self._mend_soon(client)
            raise

    async def _answer(self, call: Awaitable[T], doing: str, within_s: float) -> T:
        """The result of *call* within the deadline; pymilvus' own deadline starts again with each retry."""
        try:
            return await asyncio.wait_for(call, within_s)
        except TimeoutError:
            raise self._away(doing, f"no answer within {within_s:g} s") from None
        except (MilvusException, grpc.RpcError, ValueError) as error:
            raise self._away(doing, error) from None

    def _new_client(self) -> AsyncMilvusClient:
        return AsyncMilvusClient(**self._where(), timeout=_OPEN_S, dedicated=True)

    def _mend_soon(self, failed: AsyncMilvusClient) -> None:
        """Replace the *failed* client in the background; one attempt at a time.

        gRPC would reconnect by itself, but pymilvus' own reconnect hangs once a deadline interrupted it, and a
        restarted engine may not have loaded the collections.
        """
        if self._client is failed and (self._mending is None or self._mending.done()):
            self._mending = asyncio.ensure_future(self._mend(failed))

    async def _mend(self, failed: AsyncMilvusClient) -> None:
        try:
            await self._answer(asyncio.to_thread(self._prepare), "mending", 3 * _OPEN_S)
        except Unavailable:
            await asyncio.sleep(_RETRY_S)
            return
        self._client = self._new_client()
        task = asyncio.ensure_future(_closed(failed, after_s=_OPEN_S))  # once other callers' calls have ended
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _away(self, doing: str, problem: object) -> Unavailable:
        return Unavailable(f"Milvus at {self._address.uri} does not answer ({doing}): {problem!s:.200}")


async def _closed(client: AsyncMilvusClient, after_s: float = 0.0) -> None:
    try:
        await asyncio.sleep(after_s)
    finally:
        with contextlib.suppress(MilvusException, grpc.RpcError, grpc.aio.UsageError):
            await client.close()


def among(item_ids: Sequence[str]) -> str:
    """The condition that an item is one of *item_ids*; pymilvus' own condition breaks at a quote."""
    return f"item_id in [{', '.join(map(quoted, item_ids))}]"


def quoted(text: str) -> str:
    """*text* as a string literal of Milvus' expressions, safe for any content."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _fields(row: EngineRow) -> dict[str, Any]:
    """A row for pymilvus, with unsigned hashes as signed numbers with the same bits."""
    return {
        "item_id": row.item_id,
        "item_hash": signed(row.item_hash),
        "version": row.version,
        "vector": row.vector,
        "price": row.price,
        "listed_ms": row.listed_ms,
        "facts": list(row.facts),
        "numbers": dict(row.numbers),
        "printed": row.printed.decode(),
    }


def signed(number: int) -> int:
    """The signed number with the same 64 bits, for Milvus' INT64."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _make_index(client: MilvusClient, collection: str, field: str, index: Mapping[str, Any]) -> None:
    if not client.list_indexes(collection, field_name=field):
        wanted = client.prepare_index_params()
        wanted.add_index(field, **index)
        client.create_index(collection, wanted)
