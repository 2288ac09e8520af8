"""Decides what to do with a change in the catalogue; pure, without I/O."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import xxhash

from nearline.errors import BadInput
from nearline.features import Arrays
from nearline.ids import check_id
from nearline.item_table import ItemTable
from nearline.item_vectors import ItemFields, ItemVector
from nearline.items import PURGE, Item, decode_item
from nearline.log import Record

RETIRED_KEPT_MS = 90 * 24 * 3600 * 1000  # how long a history may still use a deleted item

ItemInputs = Callable[[Sequence[tuple[str, Item]]], Arrays]  # ``Features.item_inputs`` of the served towers


@dataclass(frozen=True, slots=True)
class Encode:
    """The model's input changed: encode the item, then publish."""

    item_id: str
    version: int
    item: Item
    input_digest: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish this vector without the model: the change did not affect its input, or retired the item."""

    vector: ItemVector


@dataclass(frozen=True, slots=True)
class Bury:
    """Publish a tombstone: the item is to be erased."""

    item_id: str


@dataclass(frozen=True, slots=True)
class Ignore:
    """Do nothing: an older change, or a delete of an unknown item."""


Decision = Encode | Publish | Bury | Ignore


def newest_of_each(records: list[Record]) -> list[Record]:
    """The newest record of each key, from whatever partition: only the last of a burst of changes counts."""
    in_order = sorted(records, key=lambda record: record.order)
    return list({record.key or record.order: record for record in in_order}.values())


def decide(record: Record, table: ItemTable, read: ItemInputs) -> Decision:
    """Decide about *record* of ``items``, given the published *table*; ``BadInput`` if it is not a valid change.

    A record older than the published version is ignored. One of the same version is a replay or, if several changes of
    the item were appended in one millisecond, perhaps a later one: it is published (again).
    """
    item_id = check_id("item_id", _text(record.key))
    known = table.get(item_id)
    if not record.value:
        return _deleted(item_id, record, table)
    item = decode_item(record.value)
    if known is not None and known.version > record.version:
        return Ignore()
    digest = input_digest(item_id, item, read)
    if known is None or known.retired_ms is not None or known.input_digest != digest:
        return Encode(item_id, record.version, item, digest)
    assert table.candidates is not None
    candidate, history = table.candidates[known.row].copy(), table.history[known.row].copy()
    return Publish(ItemVector(item_id, record.version, shown(item), candidate, history, digest))


def _text(key: bytes | None) -> str:
    try:
        return (key or b"").decode()
    except UnicodeDecodeError as error:
        raise BadInput("bad_id", f"the record's key, the item id, is not UTF-8: {error}") from None


def _deleted(item_id: str, record: Record, table: ItemTable) -> Decision:
    known = table.get(item_id)
    if known is not None and known.version > record.version:
        return Ignore()
    if any(name == PURGE[0] for name, _ in record.headers):
        return Bury(item_id)
    if known is None or (known.retired_ms is not None and known.version == record.version):
        return Ignore()
    return retire(item_id, table, version=record.version, now_ms=known.retired_ms or record.append_ms)


def retire(item_id: str, table: ItemTable, *, version: int, now_ms: int) -> Publish:
    """Remove the item from all answers; its history vector stays for users' histories."""
    known = table.get(item_id)
    assert known is not None
    history = table.history[known.row].copy()
    return Publish(ItemVector(item_id, version, ItemFields(""), None, history, known.input_digest, now_ms))


def orphans(table: ItemTable, published: Mapping[str, int], listed: set[str]) -> list[str]:
    """The items that were *published* before the catalogue was read, are not *listed* in it, and did not change since.

    They were deleted while item_tower was down. *published* are versions (``ItemTable.live_versions``).
    """
    now = table.live_versions()
    return sorted(item_id for item_id in published.keys() - listed if now.get(item_id) == published[item_id])


def shown(item: Item) -> ItemFields:
    """The item's fields that answers show and requests filter by."""
    return ItemFields(
        item.title,
        item.category,
        item.locale,
        item.price,
        item.brand,
        item.listed_ms,
        item.available,
        item.attributes,
    )


def input_digest(item_id: str, item: Item, read: ItemInputs) -> str:
    """The digest of the item tower's input for the item."""
    digest = xxhash.xxh3_64()
    for name, array in sorted(read([(item_id, item)]).items()):
        digest.update(name.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
