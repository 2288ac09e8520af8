"""The log's topics with their names and settings. ``nearline init`` creates and checks them."""

from dataclasses import dataclass, field

from nearline.log import AddressedMessage
from nearline.space import Space

CLICKS = "clicks"
CLICKS_DLQ = "clicks-dlq"
USER_SEQUENCES = "user-sequences"
USER_SEQUENCES_DLQ = "user-sequences-dlq"
USERS = "users"
USER_SEEN = "user-seen"
USER_UPDATES = "user-updates."  # the prefix: one topic a space
EXPOSURES = "exposures"
RULES = "rules"
ITEMS = "items"
ITEMS_DLQ = "items-dlq"
ITEM_POPULARITY = "item-popularity"
API_KEYS = "api-keys"

HEARTBEAT_MS = 24 * 3600 * 1000  # how often each partition of a topic that forgets gets a record (FORGETTING)
PARTITIONS = 8  # by default; never changes afterwards: a key's partition, and so its order, must stay
_DAY_MS = 24 * 3600 * 1000
_HOUR_MS = 3600 * 1000
_MIB = 1024 * 1024
# 500 events with the longest ids and contexts are 1.8 MB; a dead letter holds them in base64.
MAX_SEQUENCE_BYTES = 5 * _MIB // 2

_ALWAYS = {"message.timestamp.type": "LogAppendTime"}
# Others write these with any codec; the broker packs their batches anew, so that every reader can read them. Batches
# that come in lz4, as all of ours do, stay as they are.
_FROM_OTHERS = {"compression.type": "lz4"}
_COMPACT = {
    "cleanup.policy": "compact",
    "segment.bytes": str(64 * _MIB),
    "segment.ms": str(_HOUR_MS),
    "min.cleanable.dirty.ratio": "0.3",
    "delete.retention.ms": str(7 * _DAY_MS),
}
# Topics whose replaced and deleted records must leave the disk: within two days, also where no user writes. Kafka never
# compacts a partition's last segment, and ends it only when a later record comes: so there is a heartbeat.
FORGETTING = (USERS, USER_SEQUENCES, USER_SEEN)
_FORGETS = {"max.compaction.lag.ms": str(_DAY_MS)}
# A record is kept until its whole segment is old enough; Kafka's default of seven days would be added to 30.
_DAILY = {"segment.ms": str(_DAY_MS)}
# Small segments, since only whole segments are deleted: a topic of an hour would otherwise keep a day.
_ROLLING = {"segment.bytes": str(64 * _MIB), "segment.ms": str(_HOUR_MS // 6)}


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic's required settings; *config* holds only those that differ from the broker's defaults."""

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)


def everywhere(key: bytes, partitions: int) -> list[AddressedMessage]:
    """The messages that delete *key* in each of a topic's *partitions*: another client may use another partitioner.

    Compaction works within a partition, so a value elsewhere would come back when the delete has left the log.
    """
    return [(key, None, partition) for partition in range(partitions)]


def item_vectors_topic(space: Space) -> str:
    """The topic of the item vectors of *space*."""
    return f"item-vectors.{space.number}"


def user_updates_topic(space: Space) -> str:
    """The topic that announces each changed user document of *space* as soon as it is stored."""
    return f"{USER_UPDATES}{space.number}"


def all_topics(space: Space, *, partitions: int = PARTITIONS) -> list[Topic]:
    """Every topic of a system that serves *space*; those with users or items as keys have *partitions*.

    ``user-sequences`` and ``user-seen`` are compacted only: the job writes null values for users who are idle for too
    long. With ``compact,delete`` they might never leave: retention looks at a segment's newest record, and each
    compaction merges neighbouring segments. Dead-letter topics accept larger records than their sources, so that
    every dead letter fits.
    """
    month = _DAILY | {"retention.ms": str(30 * _DAY_MS)}
    letters = month | {"max.message.bytes": str(4 * _MIB)}
    return [
        Topic(CLICKS, partitions, _ALWAYS | _FROM_OTHERS | month | {"max.message.bytes": str(_MIB)}),
        Topic(
            USER_SEQUENCES,
            partitions,
            _ALWAYS | _COMPACT | _FORGETS | {"max.message.bytes": str(MAX_SEQUENCE_BYTES)},
        ),
        Topic(USER_SEEN, partitions, _ALWAYS | _COMPACT | _FORGETS),
        Topic(USERS, partitions, _ALWAYS | _FROM_OTHERS | _COMPACT | _FORGETS),
        Topic(user_updates_topic(space), partitions, _ALWAYS | {"retention.ms": str(_HOUR_MS)} | _ROLLING),
        Topic(EXPOSURES, partitions, _ALWAYS | month),
        Topic(RULES, 1, _ALWAYS | _COMPACT),  # one: rules and scenarios are read in the order of their writes
        Topic(ITEMS, partitions, _ALWAYS | _FROM_OTHERS | _COMPACT),
        Topic(item_vectors_topic(space), partitions, _ALWAYS | _COMPACT),
        Topic(ITEM_POPULARITY, 1, _ALWAYS | _COMPACT),
        Topic(API_KEYS, 1, _ALWAYS | _COMPACT),  # one: revocations are read in order
        Topic(CLICKS_DLQ, 1, _ALWAYS | letters),
        Topic(ITEMS_DLQ, 1, _ALWAYS | letters),
        Topic(USER_SEQUENCES_DLQ, 1, _ALWAYS | letters),
    ]
