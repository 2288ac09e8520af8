"""The newest record of each key of a compacted topic, in whatever order its partitions are read."""

from collections.abc import Iterable, Iterator

from nearline.log import Record
from nearline.versions import place_of


class Newest:
    """The newest record of each key of a compacted topic: ``note`` in the first pass, ``take`` in the second.

    A key is taken once, at least as new as in the first pass, even if it is changed or compacted in between. A key
    needs about 200 bytes.
    """

    def __init__(self) -> None:
        self._orders: dict[bytes, int] = {}  # twice the newest record's order, and 1 more if it has a value
        self.contested: set[bytes] = set()  # keys with records in several partitions

    def note(self, records: Iterable[Record]) -> None:
        """The first pass: *records* of any partition."""
        for record in records:
            if record.key is None:
                continue
            noted, known = 2 * record.order + bool(record.value), self._orders.get(record.key)
            if known is None or noted > known:
                self._orders[record.key] = noted
            if known is not None and place_of(known // 2)[1] != record.partition:
                self.contested.add(record.key)

    def take(self, records: Iterable[Record]) -> list[Record]:
        """The second pass: those of *records* that are their key's newest, and have a value."""
        return [record for record in records if self._is_due(record) and record.value]

    def listed(self) -> Iterator[bytes]:
        """The keys whose newest record has a value."""
        return (key for key, noted in self._orders.items() if noted % 2)

    def is_listed(self, key: bytes) -> bool:
        """Whether the newest record of *key* has a value."""
        return self._orders.get(key, 0) % 2 == 1

    def orders(self, keys: Iterable[bytes] | None = None) -> Iterator[tuple[bytes, int]]:
        """Each of *keys* (all, if left out) with the order of its newest record."""
        return ((key, self._orders[key] // 2) for key in (self._orders if keys is None else keys))

    def _is_due(self, record: Record) -> bool:
        noted = None if record.key is None else self._orders.get(record.key)
        if record.key is None or noted is None or record.order < noted // 2:
            return False
        del self._orders[record.key]
        return True
