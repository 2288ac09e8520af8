"""What the services see of the log: a record, wherever it was read from."""

from dataclasses import dataclass


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
