"""The keys in the topic ``api-keys``, by id."""

from nearline.errors import BadInput
from nearline.keys import Key, decode_key
from nearline.log import Record
from nearline.telemetry import gauge

_KEYS = gauge("api_keys", "API keys that are not revoked")


class KeyRing:
    """Keys by id. ``generation`` changes with every record, so that grants cached from older ones can be dropped."""

    def __init__(self) -> None:
        self._keys: dict[str, Key] = {}
        self.generation = 0

    def get(self, key_id: str) -> Key | None:
        """The key with that id, revoked or not."""
        return self._keys.get(key_id)

    def all(self) -> list[Key]:
        """Every key, oldest first."""
        return sorted(self._keys.values(), key=lambda key: (key.created_ms, key.id))

    def apply(self, record: Record) -> None:
        """Apply a record of ``api-keys``; a tombstone deletes.

        ``BadInput`` for an invalid one. The id of that record then has no key, so it opens nothing.
        """
        self.generation += 1
        self._keys.pop(record.id, None)
        if record.value is not None:
            key = decode_key(record.value)
            if key.id != record.id:
                raise BadInput("bad_key", f"the record of {record.id!r:.40} holds the key {key.id}")
            self._keys[key.id] = key
        _KEYS.set(sum(key.revoked_ms is None for key in self._keys.values()))
