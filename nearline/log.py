"""The services' types for the log: messages to append and records read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from nearline.versions import order_of, version_of

Message = tuple[bytes | None, bytes | None]  # key (None = any partition), value (None = tombstone)
AddressedMessage = tuple[bytes | None, bytes | None, int]  # to a partition that need not be the key's


class Appended(NamedTuple):
    """Where and when the log appended a message."""

    append_ms: int
    partition: int
    offset: int

    @property
    def version(self) -> int:
        """The version of the record (nearline/versions.py)."""
        return version_of(self.append_ms, self.partition)

    @property
    def order(self) -> int:
        """The record's place in the order of its topic, also across partitions."""
        return order_of(*self)


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a topic; ``value`` is ``None`` for a tombstone."""

    topic: str
    partition: int
    offset: int
    append_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def id(self) -> str:
        """The key as text; our topics' keys are ids in UTF-8."""
        return (self.key or b"").decode(errors="replace")

    @property
    def version(self) -> int:
        """Its version (nearline/versions.py); a later record of its partition may have the same one."""
        return version_of(self.append_ms, self.partition)

    @property
    def order(self) -> int:
        """Its place in the order of its topic, also across partitions."""
        return order_of(self.append_ms, self.partition, self.offset)


@dataclass(frozen=True, slots=True)
class TopicExtent:
    """A topic's id, which changes when it is created anew, and its first and end offsets."""

    topic_id: str
    first: Mapping[int, int]  # partition -> offset of the oldest record that may exist
    end: Mapping[int, int]  # partition -> offset of the next record


@dataclass(frozen=True, slots=True)
class Extent:
    """The id of a log, and the extents of some of its topics."""

    cluster: str
    topics: Mapping[str, TopicExtent]


class GroupLog(Protocol):
    """Topics read as a member of a group (nearline/adapters/kafka/group_reader.py)."""

    async def poll(self) -> list[Record]: ...
    async def stay(self) -> None: ...
    def done(self, records: list[Record]) -> None: ...


class CommitLookup(Protocol):
    """Says of single records of a topic whether they count (nearline/adapters/kafka/transactions.py)."""

    def is_committed(self, partition: int, offset: int) -> bool | None: ...
    def close(self) -> None: ...
