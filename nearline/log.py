"""What the services see of the log: messages to append, and records, wherever they were read from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

Message = tuple[bytes | None, bytes | None]  # key (None = any partition), value (None = tombstone)


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
        """The key as text; records of our topics are keyed by an id's UTF-8 bytes."""
        return (self.key or b"").decode(errors="replace")


@dataclass(frozen=True, slots=True)
class TopicExtent:
    """Which topic this is (one of the same name that was created anew has another id) and what it holds."""

    topic_id: str
    first: Mapping[int, int]  # partition -> offset of the oldest record that may be there
    end: Mapping[int, int]  # partition -> offset of the next record


@dataclass(frozen=True, slots=True)
class Extent:
    """Which log this is, and how far some of its topics reach."""

    cluster: str
    topics: Mapping[str, TopicExtent]


class GroupLog(Protocol):
    """Topics read as a member of a group (nearline/adapters/kafka/group_reader.py)."""

    async def poll(self) -> list[Record]: ...
    async def stay(self) -> None: ...
    def done(self, records: list[Record]) -> None: ...
