"""The log, by kafka-python. Its calls block, so each client here runs in one thread of its own.

``Topics`` creates and checks topics, ``Producer`` writes, ``TableReader`` reads a compacted topic as a table (all of
it, no group), ``GroupReader`` shares a topic among replicas and commits what was dealt with.
"""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import KafkaError, MessageSizeTooLargeError, TopicAlreadyExistsError
from kafka.partitioner.default import murmur2
from kafka.structs import OffsetAndMetadata

from nearline.errors import BadInput, Misconfigured, Unavailable
from nearline.log import Extent, Record, TopicExtent
from nearline.telemetry import gauge
from nearline.tls import Brokers, ssl_context
from nearline.topics import Topic

T = TypeVar("T")
Message = tuple[bytes | None, bytes | None]  # key (None = any partition), value (None = tombstone)
_LAG = gauge("lag_records", "Records of the log that this part has not read yet", "topic", "partition")
_POLL_MS = 500  # how long a poll waits when nothing comes; a record ends the wait at once
_REQUEST_MS = 10_000
_DELIVERY_S = 30.0
_GRACE_S = 2.0  # kafka-python notices a deadline that passed a moment later
_RECONNECT_MS = 1_000
_LAG_EVERY_S = 1.0
_BOOTSTRAP_MS = 3_000  # how long a client looks for a broker before it says that there is none
_NEW_TOPICS_MS = 60_000  # a crowded broker was seen to take more than ten seconds for all their partitions


def _brokers(where: Brokers | str) -> Brokers:
    """A plain address is one in the clear."""
    return Brokers(where) if isinstance(where, str) else where


def connection(brokers: Brokers) -> dict[str, Any]:
    """What every client of kafka-python is told of where the log is and how one gets in."""
    login: dict[str, Any] = {}
    if brokers.user:
        login = {
            "sasl_mechanism": brokers.mechanism,
            "sasl_plain_username": brokers.user,
            "sasl_plain_password": brokers.password,
        }
    protocol = ("SASL_" if brokers.user else "") + ("SSL" if brokers.tls else "PLAINTEXT")
    secured = {"ssl_context": ssl_context(brokers.tls)} if brokers.tls else {}
    return {"bootstrap_servers": brokers.addresses.split(","), "security_protocol": protocol, **secured, **login}


def _unavailable(brokers: Brokers, error: Exception) -> Unavailable:
    refused = _refused_handshake(brokers) if brokers.tls else None
    if refused is not None:
        return Unavailable(f"Kafka at {brokers.addresses} is not who it should be, or does not speak TLS: {refused}")
    hint = "is the broker up?" + ("" if brokers.tls else " Does it want TLS?")
    hint += f" Does it know user {brokers.user!r} with this password, by {brokers.mechanism}?" if brokers.user else ""
    return Unavailable(f"Kafka at {brokers.addresses} does not answer: {error!r:.200}; {hint}")


def _refused_handshake(brokers: Brokers) -> str | None:
    """Why TLS fails with the first broker, which kafka-python keeps to itself; ``None`` if it does not, or none is."""
    assert brokers.tls is not None
    host, _, port = brokers.addresses.split(",")[0].rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=_BOOTSTRAP_MS / 1000) as plain,
            ssl_context(brokers.tls).wrap_socket(plain, server_hostname=host),
        ):
            return None
    except ssl.SSLError as error:
        return str(error)[:200]
    except OSError:
        return None


class _Client:
    """One kafka-python client and the thread that alone may use it."""

    def __init__(self, log: Brokers | str) -> None:
        self._brokers = _brokers(log)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka")

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, function, *args)
        except MessageSizeTooLargeError as error:
            raise BadInput("too_large", f"the log takes no record of that size: {error}") from None
        except KafkaError as error:
            raise _unavailable(self._brokers, error) from None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect; ``Unavailable`` when no broker answers."""
        raise NotImplementedError

    async def close(self) -> None:
        """Let go of the connection and its thread; safe to call twice."""
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)


class Topics:
    """Creates, verifies and describes topics; blocking, for the command line and for start-up."""

    def __init__(self, log: Brokers | str) -> None:
        self._brokers = _brokers(log)
        try:
            self._admin = KafkaAdminClient(
                **connection(self._brokers), request_timeout_ms=_REQUEST_MS, bootstrap_timeout_ms=_BOOTSTRAP_MS
            )
        except KafkaError as error:
            raise _unavailable(self._brokers, error) from None

    def close(self) -> None:
        """Close the connection."""
        self._admin.close()

    def cluster_id(self) -> str:
        """The id of the Kafka cluster; another id means another log."""
        return str(self._admin.describe_cluster()["cluster_id"])

    def topic_ids(self, names: Iterable[str]) -> dict[str, str]:
        """The id of each topic, another when it is created anew; ``Unavailable`` if one is missing."""
        found = {topic["name"]: topic for topic in self._admin.describe_topics(list(names))}
        missing = [name for name, topic in found.items() if topic["error_code"]]
        if missing:
            raise Unavailable(f"missing topics: {', '.join(missing)}; run `nearline init`")
        return {name: str(topic["topic_id"]) for name, topic in found.items()}

    def names(self) -> set[str]:
        """The names of all topics that there are."""
        return set(self._admin.list_topics())

    def ensure(self, topics: Iterable[Topic]) -> dict[str, str]:
        """Make each topic as it should be; return what was done: created, changed or "as it should be".

        Idempotent. ``Misconfigured`` if a topic has another number of partitions: that cannot be changed without
        breaking the order of its keys.
        """
        wanted = {topic.name: topic for topic in topics}
        done: dict[str, str] = {}
        present = self.names()
        for name, topic in wanted.items():
            if name not in present:
                self._create(topic)
                done[name] = "created"
        self._admin.wait_for_topics(list(wanted), timeout_ms=_NEW_TOPICS_MS)
        self._check_partitions(wanted)
        for name, changed in self._settle_configs({n: t for n, t in wanted.items() if n not in done}).items():
            done[name] = f"changed {', '.join(changed)}" if changed else "as it should be"
        return done

    def _create(self, topic: Topic) -> None:
        try:
            self._admin.create_topics([NewTopic(topic.name, topic.partitions, -1, topic_configs=topic.config)])
        except TopicAlreadyExistsError:
            pass
        except KafkaError as error:
            raise Unavailable(f"cannot create topic {topic.name}: {error!r:.200}") from None

    def _check_partitions(self, wanted: Mapping[str, Topic]) -> None:
        for described in self._admin.describe_topics(list(wanted)):
            name, partitions = described["name"], len(described["partitions"])
            if partitions != wanted[name].partitions:
                raise Misconfigured(
                    f"topic {name} has {partitions} partitions, Nearline needs {wanted[name].partitions}: "
                    "create it anew (make reset deletes everything on one machine)"
                )

    def _settle_configs(self, topics: Mapping[str, Topic]) -> dict[str, list[str]]:
        changed: dict[str, list[str]] = {}
        for name, topic in topics.items():
            resource = ConfigResource(ConfigResourceType.TOPIC, name)
            described = self._admin.describe_configs([resource], config_filter="all")
            found = described["topic"][name]
            changed[name] = [k for k, v in topic.config.items() if str(found.get(k, {}).get("value")) != v]
            if changed[name]:
                self._admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, topic.config)])
        return changed

    def settings_of(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """All settings of each topic as the broker has them, its defaults among them."""
        found: dict[str, dict[str, str]] = {}
        for name in names:
            resource = ConfigResource(ConfigResourceType.TOPIC, name)
            described = self._admin.describe_configs([resource], config_filter="all")["topic"][name]
            found[name] = {key: str(each["value"]) for key, each in described.items()}
        return found

    def group_lag(self, group: str, topic: str) -> int | None:
        """Records of *topic* that *group* has not committed yet, or ``None`` if it never committed."""
        consumer = KafkaConsumer(**connection(self._brokers), group_id=group, enable_auto_commit=False)
        try:
            parts = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
            ends = consumer.end_offsets(parts)
            committed = {part: consumer.committed(part) for part in parts}
            if all(offset is None for offset in committed.values()):
                return None
            begins = consumer.beginning_offsets(parts)
            return sum(int(ends[p] - max(committed[p] or 0, begins[p])) for p in parts)
        finally:
            consumer.close()

    def end_offset(self, topic: str) -> int:
        """How many records were ever appended to *topic*, over all partitions."""
        consumer = KafkaConsumer(**connection(self._brokers))
        try:
            parts = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
            return sum(consumer.end_offsets(parts).values())
        finally:
            consumer.close()


def wait_for_topics(log: Brokers | str, names: Sequence[str], *, deadline_s: float) -> None:
    """Return once every topic exists; ``Unavailable`` naming ``nearline init`` when the deadline passes."""
    end = time.monotonic() + deadline_s
    missing: set[str] = set(names)
    reason = ""
    while time.monotonic() < end:
        try:
            topics = Topics(log)
            missing = set(names) - topics.names()
            topics.close()
            reason = f"missing topics: {', '.join(sorted(missing))}; run `nearline init`"
        except Unavailable as error:
            reason = str(error)
        if not missing:
            return
        time.sleep(0.2)
    raise Unavailable(f"waited {deadline_s:g} s: {reason}")


class Producer(_Client):
    """Writes to the log; what ``send_all`` returned from is in the log, acknowledged by all replicas.

    With *linger_ms* records wait that long for others of their partition: fewer requests, later records. What the log
    has not acknowledged after *delivery_s* is ``Unavailable``; it may have got in all the same. The next send then
    starts with a new client.
    """

    _producer: Any = None

    def __init__(self, log: Brokers | str, *, linger_ms: int = 0, delivery_s: float = _DELIVERY_S) -> None:
        super().__init__(log)
        self._linger_ms = linger_ms
        self._delivery_s = delivery_s
        self._failed: list[Exception] = []

    async def open(self) -> None:
        """Connect; ``Unavailable`` when no broker answers."""
        await self._call(self._connected)

    def _connected(self) -> Any:
        if self._producer is None:
            self._producer = self._connect()
        return self._producer

    def _connect(self) -> Any:
        return KafkaProducer(
            **connection(self._brokers),
            bootstrap_timeout_ms=_BOOTSTRAP_MS,
            enable_idempotence=True,
            acks="all",
            compression_type="lz4",
            linger_ms=self._linger_ms,
            max_request_size=4 * 1024 * 1024,
            max_block_ms=min(_REQUEST_MS, int(self._delivery_s * 1000)),
            request_timeout_ms=int(self._delivery_s * 1000),
            delivery_timeout_ms=int(self._delivery_s * 1000) + self._linger_ms,
            # By default it looks ever more rarely, in the end every 30 s, whether a broker is back.
            reconnect_backoff_max_ms=_RECONNECT_MS,
        )

    async def prepare(self, topic: str) -> None:
        """Learn where *topic*'s partitions are, so that the first send does not wait for that."""
        await self._call(lambda: self._connected().partitions_for(topic))

    async def send_all(
        self, topic: str, messages: Sequence[Message], headers: Sequence[tuple[str, bytes]] = ()
    ) -> list[int]:
        """Append *messages* in order and return their offsets; ``BadInput`` if one is too large for the topic."""
        return await self._call(self._send_all, topic, messages, headers)

    def _send_all(self, topic: str, messages: Sequence[Message], headers: Sequence[tuple[str, bytes]]) -> list[int]:
        producer = self._connected()
        try:
            futures = [producer.send(topic, key=k, value=v, headers=list(headers)) for k, v in messages]
            if futures:
                producer.flush(timeout=self._delivery_s + _GRACE_S)
            return [int(future.get(timeout=_GRACE_S).offset) for future in futures]
        except MessageSizeTooLargeError:
            raise
        except KafkaError:
            self._abandon()
            raise

    def _abandon(self) -> None:
        """Let go of the client without waiting for what it still holds.

        kafka-python 3.0.12: an idempotent producer whose batches expired while they were under way may send nothing
        ever after, and its own ``close`` then gives up before it has ended its thread.
        """
        producer, self._producer = self._producer, None
        producer._sender.force_close()
        with contextlib.suppress(KafkaError):
            producer.close(timeout=_GRACE_S)

    async def send_soon(self, topic: str, messages: Sequence[Message]) -> None:
        """Hand *messages* over to be appended in order, without waiting; ``flush`` says whether all of them were."""
        await self._call(self._send_soon, topic, messages)

    def _send_soon(self, topic: str, messages: Sequence[Message]) -> None:
        producer = self._connected()
        for key, value in messages:
            producer.send(topic, key=key, value=value).add_errback(self._failed.append)

    async def flush(self) -> None:
        """Return when everything sent is in the log; ``Unavailable`` if something sent soon never got there."""
        await self._call(lambda: self._connected().flush(self._delivery_s + _GRACE_S))
        if self._failed:
            failed, self._failed = self._failed, []
            raise Unavailable(f"{len(failed):,} records did not get into the log, the first: {failed[0]!r:.200}")

    async def close(self) -> None:
        """Send what is buffered, if the log takes it in time, and disconnect."""
        if self._producer is not None:
            await self._call(self._close)
        await super().close()

    def _close(self) -> None:
        try:
            self._producer.flush(timeout=self._delivery_s)
        finally:
            self._abandon()


async def newest_of(log: Brokers | str, topic: str, key: bytes) -> Record | None:
    """The newest record under *key* in *topic*, from a look at all of its partition; ``Unavailable`` without those."""
    return await asyncio.to_thread(_newest_of, _brokers(log), topic, key)


def _newest_of(brokers: Brokers, topic: str, key: bytes) -> Record | None:
    newest = None
    try:
        consumer = KafkaConsumer(**connection(brokers), bootstrap_timeout_ms=_BOOTSTRAP_MS, max_poll_records=2_000)
        try:
            partitions = sorted(consumer.partitions_for_topic(topic) or ())
            if not partitions:
                raise Unavailable(f"topic {topic} does not exist; run `nearline init`")
            part = TopicPartition(topic, partitions[(murmur2(key) & 0x7FFFFFFF) % len(partitions)])
            consumer.assign([part])
            consumer.seek_to_beginning(part)
            end = consumer.end_offsets([part])[part]
            while consumer.position(part) < end:
                for r in consumer.poll(timeout_ms=_POLL_MS).get(part, ()):
                    if r.key == key:
                        newest = Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
        finally:
            consumer.close()
    except KafkaError as error:
        raise _unavailable(brokers, error) from None
    return newest


async def log_extent(log: Brokers | str, topics: Sequence[str]) -> Extent:
    """Which log *log* leads to, and how far *topics* reach; ``Unavailable`` without it or one of them."""
    return await asyncio.to_thread(_log_extent, _brokers(log), topics)


def _log_extent(brokers: Brokers, topics: Sequence[str]) -> Extent:
    try:
        admin = Topics(brokers)
        try:
            cluster, ids = admin.cluster_id(), admin.topic_ids(topics)
        finally:
            admin.close()
        consumer = KafkaConsumer(**connection(brokers), bootstrap_timeout_ms=_BOOTSTRAP_MS)
        try:
            return Extent(cluster, {name: _topic_extent(consumer, name, ids[name]) for name in topics})
        finally:
            consumer.close()
    except KafkaError as error:
        raise _unavailable(brokers, error) from None


def _topic_extent(consumer: Any, name: str, topic_id: str) -> TopicExtent:
    parts = [TopicPartition(name, partition) for partition in consumer.partitions_for_topic(name) or ()]
    first, end = consumer.beginning_offsets(parts), consumer.end_offsets(parts)
    return TopicExtent(topic_id, {p.partition: first[p] for p in parts}, {p.partition: end[p] for p in parts})


async def committed(log: Brokers | str, group: str, topic: str) -> dict[int, int]:
    """The next offset that *group* has not dealt with, of each partition of *topic* of which it has said one."""
    return await asyncio.to_thread(_committed, _brokers(log), group, topic)


def _committed(brokers: Brokers, group: str, topic: str) -> dict[int, int]:
    try:
        consumer = KafkaConsumer(
            **connection(brokers),
            bootstrap_timeout_ms=_BOOTSTRAP_MS,
            group_id=group,
            enable_auto_commit=False,
        )
        try:
            parts = [TopicPartition(topic, partition) for partition in consumer.partitions_for_topic(topic) or ()]
            offsets = {part.partition: consumer.committed(part) for part in parts}
        finally:
            consumer.close()
    except KafkaError as error:
        raise _unavailable(brokers, error) from None
    return {partition: offset for partition, offset in offsets.items() if offset is not None}


class _Reader(_Client):
    """What both readers share: polling in the thread, records out."""

    _consumer: Any = None
    _looked_at = 0.0
    lag = 0

    def __init__(self, log: Brokers | str) -> None:
        super().__init__(log)
        self._told: set[Any] = set()  # the partitions that the gauge has

    def _consumer_config(self) -> dict[str, Any]:
        return {
            **connection(self._brokers),
            "bootstrap_timeout_ms": _BOOTSTRAP_MS,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "fetch_max_wait_ms": _POLL_MS,
            "max_partition_fetch_bytes": 4 * 1024 * 1024,
            "check_crcs": True,
        }

    def _records(self, timeout_ms: int) -> list[Record]:
        polled = self._consumer.poll(timeout_ms=timeout_ms)
        return [
            Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
            for records in polled.values()
            for r in records
        ]

    def _look_at_lag(self) -> None:
        """Bring ``lag`` up to date, once a second: each ``position`` is a hop to kafka-python's own thread and back."""
        if time.monotonic() - self._looked_at < _LAG_EVERY_S:
            return
        self._looked_at = time.monotonic()
        ends = {part: self._consumer.highwater(part) for part in self._consumer.assignment()}
        lags = {part: max(0, end - self._consumer.position(part)) for part, end in ends.items() if end is not None}
        self.lag = sum(lags.values())
        for part in self._told - lags.keys():
            _LAG.remove(part.topic, str(part.partition))  # another replica's now
        for part, lag in lags.items():
            _LAG.labels(part.topic, str(part.partition)).set(lag)
        self._told = set(lags)

    async def close(self) -> None:
        """Disconnect; safe to call twice."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await self._call(consumer.close)
        await super().close()


class TableReader(_Reader):
    """Reads all of a compacted topic from its beginning, and goes on following it.

    A partition in *start_at* is read from that offset instead; from its beginning if the log does not have it.
    ``caught_up`` turns true once everything is read that was in the topic when it was opened, and stays so.
    """

    def __init__(
        self, log: Brokers | str, topic: str, *, start_at: Mapping[int, int] | None = None, batch: int = 2_000
    ) -> None:
        super().__init__(log)
        self._topic = topic
        self._start_at = start_at or {}
        self._batch = batch
        self._waiting_for: dict[Any, int] = {}
        self.caught_up = False

    async def open(self) -> None:
        """Connect and note the end offsets; ``Unavailable`` without a broker or the topic."""
        await self._call(self._connect)

    def _connect(self) -> None:
        consumer = KafkaConsumer(**self._consumer_config(), max_poll_records=self._batch)
        self._consumer = consumer
        partitions = consumer.partitions_for_topic(self._topic)
        if not partitions:
            raise Unavailable(f"topic {self._topic} does not exist; run `nearline init`")
        parts = [TopicPartition(self._topic, p) for p in sorted(partitions)]
        consumer.assign(parts)
        consumer.seek_to_beginning(*(part for part in parts if part.partition not in self._start_at))
        for part in parts:
            if part.partition in self._start_at:
                consumer.seek(part, self._start_at[part.partition])
        self._waiting_for = dict(consumer.end_offsets(parts))
        self._settle()

    async def poll(self) -> list[Record]:
        """The next records (at most a batch; none if nothing comes within half a second)."""
        return await self._call(self._poll)

    def _poll(self) -> list[Record]:
        records = self._records(_POLL_MS)
        if not self.caught_up:
            self._settle()
        self._look_at_lag()
        return records

    def _settle(self) -> None:
        """Forget each partition whose old end is reached; an empty or compacted-away tail counts as reached."""
        for part, end in list(self._waiting_for.items()):
            if end == 0 or self._consumer.position(part) >= end:
                del self._waiting_for[part]
        self.caught_up = not self._waiting_for


class GroupReader(_Reader):
    """Reads topics as a member of *group*: each partition belongs to one replica at a time.

    Topics of equally many partitions are shared out alike, so a key's records all come to one replica; between topics
    they come in no order.

    Nothing is committed until ``done`` names it, so what a killed replica had not dealt with is read again.
    """

    def __init__(self, log: Brokers | str, topics: str | Sequence[str], group: str, *, batch: int = 500) -> None:
        super().__init__(log)
        self._topics = [topics] if isinstance(topics, str) else list(topics)
        self._group = group
        self._batch = batch
        self._dealt_with: dict[Any, int] = {}
        self._settled: dict[Any, int] = {}
        self._committed_at = 0.0

    async def open(self) -> None:
        """Join the group; ``Unavailable`` without a broker or one of the topics."""
        await self._call(self._connect)

    def _connect(self) -> None:
        self._consumer = KafkaConsumer(
            **self._consumer_config(),
            group_id=self._group,
            max_poll_records=self._batch,
            session_timeout_ms=6_000,
            heartbeat_interval_ms=1_500,
        )
        # kafka-python 3.0.12: a member that joins before it knows the topic's partitions gets none, for good.
        for topic in self._topics:
            if not self._consumer.partitions_for_topic(topic):
                raise Unavailable(f"topic {topic} does not exist; run `nearline init`")
        self._consumer.subscribe(self._topics)

    async def poll(self) -> list[Record]:
        """The next records (at most a batch; none if nothing comes within half a second)."""
        return await self._call(self._poll)

    def _poll(self) -> list[Record]:
        self._commit_now_and_then()
        records = self._records(_POLL_MS)
        self._look_at_lag()
        return records

    async def stay(self) -> None:
        """Stay in the group without reading on, for as long as a dependency is away; call it again and again."""
        await self._call(self._stay)

    def _stay(self) -> None:
        parts = self._consumer.assignment()
        self._consumer.pause(*parts)
        try:
            self._consumer.poll(timeout_ms=100)
        finally:
            self._consumer.resume(*self._consumer.paused())

    def done(self, records: Iterable[Record]) -> None:
        """Note that *records* are dealt with; they are committed within a quarter of a second, and on close."""
        for record in records:
            part = TopicPartition(record.topic, record.partition)
            self._dealt_with[part] = max(self._dealt_with.get(part, 0), record.offset + 1)

    async def settle(self) -> None:
        """Commit how far was read, when all of it is dealt with: past records that compaction took away, too."""
        await self._call(self._settle)

    def _settle(self) -> None:
        for part in self._consumer.assignment():
            position = self._consumer.position(part, timeout_ms=1_000)
            if position is not None and self._settled.get(part) != position:
                self._settled[part] = self._dealt_with[part] = position

    def _commit_now_and_then(self) -> None:
        if self._dealt_with and time.monotonic() - self._committed_at > 0.25:
            self._commit()

    def _commit(self) -> None:
        owned = self._consumer.assignment()
        offsets = {p: OffsetAndMetadata(o, "", -1) for p, o in self._dealt_with.items() if p in owned}
        self._dealt_with = {}
        self._committed_at = time.monotonic()
        if offsets:
            self._consumer.commit_async(offsets)

    async def close(self) -> None:
        """Commit what is dealt with and leave the group."""
        if self._consumer is not None:
            await self._call(self._commit_last)
        await super().close()

    def _commit_last(self) -> None:
        owned = self._consumer.assignment()
        offsets = {p: OffsetAndMetadata(o, "", -1) for p, o in self._dealt_with.items() if p in owned}
        if offsets:
            try:
                self._consumer.commit(offsets, timeout_ms=3_000)
            except KafkaError:
                return  # the records are read again: at least once
