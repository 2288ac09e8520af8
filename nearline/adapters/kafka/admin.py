"""Creates, checks and describes the log's topics, and reads their consumers' offsets."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import GroupIdNotFoundError, InvalidGroupIdError, KafkaError, TopicAlreadyExistsError

from nearline.adapters.kafka.client import (
    BOOTSTRAP_MS,
    REQUEST_MS,
    brokers_of,
    connection,
    open_connection,
    unavailable,
)
from nearline.adapters.kafka.reader import polled
from nearline.errors import Misconfigured, Unavailable
from nearline.log import Extent, TopicExtent
from nearline.tls import Brokers
from nearline.topics import Topic

_MOST_ENDS = 1_000  # of transactions, one after another, that a look for records after them is worth
_LOOK_BYTES = 64 * 1024
_LOOK_MS, _LOOK_S = 100, 5.0  # of one poll, and in all
_RETRY_S = 0.2
_NEW_TOPICS_MS = 60_000  # a loaded broker took more than ten seconds for all their partitions


class Topics:
    """Creates, verifies and describes topics; blocking, for the command line and for start-up."""

    def __init__(self, log: Brokers | str) -> None:
        self._brokers = brokers_of(log)
        try:
            self._admin = KafkaAdminClient(
                **open_connection(self._brokers), request_timeout_ms=REQUEST_MS, bootstrap_timeout_ms=BOOTSTRAP_MS
            )
        except KafkaError as error:
            raise unavailable(self._brokers, error) from None

    def close(self) -> None:
        """Close the connection."""
        self._admin.close()

    def cluster_id(self) -> str:
        """The id of the Kafka cluster; a different id means a different log."""
        return str(self._admin.describe_cluster()["cluster_id"])

    def topic_ids(self, names: Iterable[str]) -> dict[str, str]:
        """The id of each topic, which changes when it is created anew; ``Unavailable`` if one is missing."""
        found = {topic["name"]: topic for topic in self._admin.describe_topics(list(names))}
        missing = [name for name, topic in found.items() if topic["error_code"]]
        if missing:
            raise Unavailable(f"missing topics: {', '.join(missing)}; run `nearline init`")
        return {name: str(topic["topic_id"]) for name, topic in found.items()}

    def names(self) -> set[str]:
        """The names of all topics in the log."""
        return set(self._admin.list_topics())

    def ensure(self, topics: Iterable[Topic]) -> dict[str, str]:
        """Create or correct each topic; return what was done: created, changed or "as it should be".

        Idempotent. ``Misconfigured`` if a topic has another number of partitions: that cannot be changed without
        breaking the order of its keys.
        """
        wanted = {topic.name: topic for topic in topics}
        done: dict[str, str] = {}
        present = self.names()
        self._check_partitions({name: topic for name, topic in wanted.items() if name in present})
        for name, topic in wanted.items():
            if name not in present:
                self._create(topic)
                done[name] = "created"
        self._admin.wait_for_topics(list(wanted), timeout_ms=_NEW_TOPICS_MS)
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
        if not wanted:
            return
        for described in self._admin.describe_topics(list(wanted)):
            name, partitions = described["name"], len(described["partitions"])
            if partitions != wanted[name].partitions:
                raise Misconfigured(
                    f"topic {name} has {partitions} partitions, expected {wanted[name].partitions}: they are chosen "
                    f"once; set NEARLINE_PARTITIONS={partitions} if all topics of users and items have as many, "
                    "else create the topic anew (make reset deletes everything on one machine)"
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
        """All settings of each topic in the broker, including its defaults."""
        found: dict[str, dict[str, str]] = {}
        for name in names:
            resource = ConfigResource(ConfigResourceType.TOPIC, name)
            described = self._admin.describe_configs([resource], config_filter="all")["topic"][name]
            found[name] = {key: str(each["value"]) for key, each in described.items()}
        return found

    def group_lag(self, group: str, topic: str) -> int | None:
        """How many records of *topic* *group* has not committed yet, or ``None`` if it never committed.

        The end of a transaction takes an offset of its own, which no reader commits: a partition in which nothing but
        such ends follows has no lag. Elsewhere they count.
        """
        consumer = KafkaConsumer(
            **open_connection(self._brokers),
            group_id=group,
            enable_auto_commit=False,
            max_partition_fetch_bytes=_LOOK_BYTES,
        )
        try:
            parts = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
            ends = consumer.end_offsets(parts)
            committed = {part: consumer.committed(part) for part in parts}
            if all(offset is None for offset in committed.values()):
                return None
            begins = consumer.beginning_offsets(parts)
            lags = {p: int(ends[p] - max(committed[p] or 0, begins[p])) for p in parts}
            short = [p for p, lag in lags.items() if 0 < lag <= _MOST_ENDS]
            without = _without_records(consumer, {p: ends[p] - lags[p] for p in short}, ends)
            return sum(lag for p, lag in lags.items() if p not in without)
        except Unavailable:  # a record that cannot be read is one that is left
            return sum(lags.values())
        finally:
            consumer.close()

    def end_offset(self, topic: str) -> int:
        """How many records were ever appended to *topic*, in all partitions; the end of a transaction counts as one."""
        consumer = KafkaConsumer(**open_connection(self._brokers))
        try:
            parts = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
            return sum(consumer.end_offsets(parts).values())
        finally:
            consumer.close()

    def records_in(self, topic: str) -> int:
        """How many records *topic* may hold: compaction leaves gaps."""
        consumer = KafkaConsumer(**open_connection(self._brokers))
        try:
            parts = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
            return int(sum(consumer.end_offsets(parts).values()) - sum(consumer.beginning_offsets(parts).values()))
        finally:
            consumer.close()

    def ends_of_records(self, topics: Sequence[str]) -> dict[str, dict[int, int]]:
        """For each of *topics* the offset after the last record of each partition that has one.

        It may be less than the partition's end, which counts the ends of transactions: no reader gets there.
        """
        consumer = KafkaConsumer(**open_connection(self._brokers), enable_auto_commit=False)
        try:
            return {topic: _ends_of_records(consumer, topic) for topic in topics}
        except KafkaError as error:
            raise unavailable(self._brokers, error) from None
        finally:
            consumer.close()

    def has_read(self, group: str, ends: Mapping[str, Mapping[int, int]]) -> bool:
        """Whether *group* has committed, of each topic and partition, all records up to *ends* that still exist.

        False while the log does not answer.
        """
        consumer = KafkaConsumer(**connection(self._brokers), group_id=group, enable_auto_commit=False)
        try:
            wanted = {TopicPartition(topic, p): end for topic, parts in ends.items() for p, end in parts.items()}
            begins = consumer.beginning_offsets(list(wanted))
            return all(max(consumer.committed(part) or 0, begins[part]) >= end for part, end in wanted.items())
        except KafkaError:
            return False
        finally:
            consumer.close()

    def forget_group(self, group: str) -> None:
        """Delete the offsets of *group*, which has no member; it may be unknown."""
        give_up = time.monotonic() + REQUEST_MS / 1000
        while True:
            try:
                self._admin.delete_groups([group])
                return
            except (GroupIdNotFoundError, InvalidGroupIdError):
                return
            except KafkaError as error:  # a new cluster has no coordinator until some group commits
                if not error.retriable or time.monotonic() > give_up:
                    raise unavailable(self._brokers, error) from None
                time.sleep(_RETRY_S)


def has_read(log: Brokers | str, group: str, ends: Mapping[str, Mapping[int, int]]) -> bool:
    """As ``Topics.has_read``; false while the log does not answer."""
    try:
        topics = Topics(log)
        try:
            return topics.has_read(group, ends)
        finally:
            topics.close()
    except Unavailable:
        return False


def _ends_of_records(consumer: Any, topic: str) -> dict[int, int]:
    parts = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
    begins, ends = consumer.beginning_offsets(parts), consumer.end_offsets(parts)
    found = {p.partition: _end_of_records(consumer, p, begins[p], ends[p]) for p in parts}
    return {partition: end for partition, end in found.items() if end is not None}


def _end_of_records(consumer: Any, part: Any, begin: int, end: int) -> int | None:
    """The offset after the last record between *begin* and *end*, searched backwards; ``None`` without a record."""
    back, last = 1, None
    while last is None and end - back // 8 > begin:
        consumer.assign([part])
        consumer.seek(part, max(begin, end - back))
        while consumer.position(part) < end:
            for record in consumer.poll(timeout_ms=200).get(part, ()):
                last = record.offset
        back *= 8
    return None if last is None else last + 1


def _without_records(consumer: Any, starts: Mapping[Any, int], ends: Mapping[Any, int]) -> set[Any]:
    """The partitions that hold no record from their offset in *starts* to the one in *ends*."""
    consumer.assign(list(starts))
    for part, start in starts.items():
        consumer.seek(part, start)
    found: set[tuple[str, int]] = set()
    give_up = time.monotonic() + _LOOK_S
    while unknown := [p for p in starts if tuple(p) not in found and consumer.position(p) < ends[p]]:
        if time.monotonic() > give_up:
            break
        found |= {(record.topic, record.partition) for record in polled(consumer, _LOOK_MS)}
    return {part for part in starts if tuple(part) not in found} - set(unknown)


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


async def log_extent(log: Brokers | str, topics: Sequence[str]) -> Extent:
    """The id of the log and the first and end offsets of *topics*; ``Unavailable`` without the log or one of them."""
    return await asyncio.to_thread(_log_extent, brokers_of(log), topics)


def _log_extent(brokers: Brokers, topics: Sequence[str]) -> Extent:
    try:
        admin = Topics(brokers)
        try:
            cluster, ids = admin.cluster_id(), admin.topic_ids(topics)
        finally:
            admin.close()
        consumer = KafkaConsumer(**open_connection(brokers), bootstrap_timeout_ms=BOOTSTRAP_MS)
        try:
            return Extent(cluster, {name: _topic_extent(consumer, name, ids[name]) for name in topics})
        finally:
            consumer.close()
    except KafkaError as error:
        raise unavailable(brokers, error) from None


def _topic_extent(consumer: Any, name: str, topic_id: str) -> TopicExtent:
    parts = [TopicPartition(name, partition) for partition in consumer.partitions_for_topic(name) or ()]
    first, end = consumer.beginning_offsets(parts), consumer.end_offsets(parts)
    return TopicExtent(topic_id, {p.partition: first[p] for p in parts}, {p.partition: end[p] for p in parts})


async def committed(log: Brokers | str, group: str, topic: str) -> dict[int, int]:
    """The committed offset of *group* for each partition of *topic* that has one."""
    return await asyncio.to_thread(_committed, brokers_of(log), group, topic)


def _committed(brokers: Brokers, group: str, topic: str) -> dict[int, int]:
    try:
        consumer = KafkaConsumer(
            **open_connection(brokers),
            bootstrap_timeout_ms=BOOTSTRAP_MS,
            group_id=group,
            enable_auto_commit=False,
        )
        try:
            parts = [TopicPartition(topic, partition) for partition in consumer.partitions_for_topic(topic) or ()]
            offsets = {part.partition: consumer.committed(part) for part in parts}
        finally:
            consumer.close()
    except KafkaError as error:
        raise unavailable(brokers, error) from None
    return {partition: offset for partition, offset in offsets.items() if offset is not None}
