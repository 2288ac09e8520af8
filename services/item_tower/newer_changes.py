"""Changes that are newer than what is published: of items with records in several partitions of ``items``.

A client with another partitioner writes an item elsewhere than all others do, and partitions are read in any order.
"""

from collections.abc import Iterable, Mapping

from nearline.item_table import ItemTable
from nearline.log import Record
from nearline.newest import Newest
from nearline.versions import is_offset, place_of, version_of

_MOST_DELETES = 100_000


class NewerChanges:
    """The versions of changes that outdate records that are still to be read, though no published vector shows them.

    A delete of an unknown item and a purge leave nothing in the table, and what another replica reads comes later. So
    it knows the last deletes that this process read, and what the start found.
    """

    def __init__(self) -> None:
        self._found: dict[str, int] = {}
        self._deleted: dict[str, int] = {}

    def find(self, newest: Newest) -> None:
        """Keep the versions of items with records in several partitions."""
        self._found = {key.decode(errors="replace"): _version(order) for key, order in newest.orders(newest.contested)}

    def note(self, record: Record) -> None:
        """Keep the version of a delete that was just read."""
        if record.value:
            return
        self._deleted[record.id] = max(record.version, self._deleted.pop(record.id, 0))
        if len(self._deleted) > _MOST_DELETES:
            del self._deleted[next(iter(self._deleted))]

    def outdate(self, record: Record) -> bool:
        """Whether a newer change of the item is known."""
        return record.version < max(self._found.get(record.id, 0), self._deleted.get(record.id, 0))


def missed(newest: Newest, table: ItemTable, committed: Mapping[int, int]) -> dict[bytes, int]:
    """The orders of those *newest* changes that were read, up to *committed*, but are not in the published *table*.

    Earlier releases took an item's offset for its version, so a change in another partition, or in the log of another
    cluster, could be ignored. What is not committed yet comes by itself.
    """
    orders = newest.orders()
    return {key: order for key, order in orders if _is_read(order, committed) and _is_missed(key, order, newest, table)}


def _is_read(order: int, committed: Mapping[int, int]) -> bool:
    _, partition, offset = place_of(order)
    return offset < committed.get(partition, 0)


def _is_missed(key: bytes, order: int, newest: Newest, table: ItemTable) -> bool:
    known, is_contested = table.get(key.decode(errors="replace")), key in newest.contested
    if known is None:
        return is_contested and newest.is_listed(key)  # else it was refused, or purged
    if is_offset(known.version) and not is_contested:
        return known.version != place_of(order)[2]
    return known.version < _version(order)


def _version(order: int) -> int:
    append_ms, partition, _ = place_of(order)
    return version_of(append_ms, partition)


def among(records: Iterable[Record], orders: Mapping[bytes, int]) -> list[Record]:
    """Those of *records* that are their key's in *orders*."""
    return [record for record in records if record.key is not None and orders.get(record.key) == record.order]
