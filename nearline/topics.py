"""The log's topics: every name and every setting, in one place. ``nearline init`` creates and verifies them."""

from dataclasses import dataclass, field

from nearline.space import Space

CLICKS = "clicks"
CLICKS_DLQ = "clicks-dlq"
USER_SEQUENCES = "user-sequences"
USER_SEQUENCES_DLQ = "user-sequences-dlq"
USERS = "users"
USER_SEEN = "user-seen"
EXPOSURES = "exposures"
RULES = "rules"
ITEMS = "items"
ITEMS_DLQ = "items-dlq"
ITEM_POPULARITY = "item-popularity"
API_KEYS = "api-keys"

PARTITIONS = 8  # for ever: a key's partition, and so its order, must never change
_DAY_MS = 24 * 3600 * 1000
_HOUR_MS = 3600 * 1000
_MIB = 1024 * 1024
# 500 events with the longest ids and contexts come to 1.8 MB, which a dead letter holds in base64.
MAX_SEQUENCE_BYTES = 5 * _MIB // 2

_ALWAYS = {"message.timestamp.type": "LogAppendTime"}
_COMPACT = {
    "cleanup.policy": "compact",
    "segment.bytes": str(64 * _MIB),
    "segment.ms": str(_HOUR_MS),
    "min.cleanable.dirty.ratio": "0.3",
    "delete.retention.ms": str(7 * _DAY_MS),
}
# Small segments, so that a topic that keeps an hour does not keep a day: only whole old segments are deleted.
_ROLLING = {"segment.bytes": str(64 * _MIB), "segment.ms": str(_HOUR_MS // 6)}


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it must be; *config* holds only what differs from the broker's defaults."""

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)


def item_vectors_topic(space: Space) -> str:
    """The topic of the item vectors of *space*."""
    return f"item-vectors.{space.number}"


def user_updates_topic(space: Space) -> str:
    """The topic that tells which users' documents of *space* changed, as soon as the store has them."""
    return f"user-updates.{space.number}"


def all_topics(space: Space, *, history_ttl_ms: int) -> list[Topic]:
    """Every topic that a system serving *space* needs.

    ``user-sequences`` expires with the history (*history_ttl_ms*, counted from a user's last event), as the job's state
    and the store do; ``user-seen``, which is written less often, a quarter later. Dead-letter topics take larger
    records than their sources, so that none can be refused.
    """
    expiring = {"cleanup.policy": "compact,delete", "retention.ms": str(history_ttl_ms)}
    letters = {"max.message.bytes": str(4 * _MIB), "retention.ms": str(30 * _DAY_MS)}
    return [
        Topic(CLICKS, PARTITIONS, _ALWAYS | {"max.message.bytes": str(_MIB), "retention.ms": str(30 * _DAY_MS)}),
        Topic(
            USER_SEQUENCES,
            PARTITIONS,
            _ALWAYS | _COMPACT | expiring | {"max.message.bytes": str(MAX_SEQUENCE_BYTES)},
        ),
        Topic(USER_SEEN, PARTITIONS, _ALWAYS | _COMPACT | expiring | {"retention.ms": str(history_ttl_ms * 5 // 4)}),
        Topic(USERS, PARTITIONS, _ALWAYS | _COMPACT),
        Topic(user_updates_topic(space), PARTITIONS, _ALWAYS | {"retention.ms": str(_HOUR_MS)} | _ROLLING),
        Topic(EXPOSURES, PARTITIONS, _ALWAYS | {"retention.ms": str(30 * _DAY_MS)}),
        Topic(RULES, 1, _ALWAYS | _COMPACT),  # one: rules and scenarios are read in the order in which they were put
        Topic(ITEMS, PARTITIONS, _ALWAYS | _COMPACT),
        Topic(item_vectors_topic(space), PARTITIONS, _ALWAYS | _COMPACT),
        Topic(ITEM_POPULARITY, 1, _ALWAYS | _COMPACT),
        Topic(API_KEYS, 1, _ALWAYS | _COMPACT),  # one: a revocation is never overtaken
        Topic(CLICKS_DLQ, 1, _ALWAYS | letters),
        Topic(ITEMS_DLQ, 1, _ALWAYS | letters),
        Topic(USER_SEQUENCES_DLQ, 1, _ALWAYS | letters),
    ]
