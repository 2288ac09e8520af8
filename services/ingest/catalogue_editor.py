"""Applies callers' changes to the catalogue: checked, in order, and without losing one of two concurrent changes.

It follows the topic ``items`` as a table, since a change of some fields needs the current item.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from nearline.errors import BadInput, Unavailable
from nearline.ids import check_id, check_new_id
from nearline.items import MAX_ITEM_BYTES, PURGE, Item, decode_item, encode_item, item_of
from services.ingest.appender import Appender
from services.ingest.clicks import ItemCheck
from services.ingest.table_view import StoredValue, TableView, Turns, append_to

MAX_BATCH = 500
ANY = "*"  # as a condition: the item exists, in any version


@dataclass(frozen=True, slots=True)
class AcceptedItem:
    """An accepted item of a batch, and its new version."""

    item_id: str
    version: int


@dataclass(frozen=True, slots=True)
class RefusedItem:
    """A refused item of a batch, with its id if it has one."""

    item_id: str | None
    problem: BadInput


class CatalogueEditor:
    """Changes and reads the catalogue for callers.

    Changes of one item run one after the other in this process, so two concurrent patches are both kept. A change by
    another process is seen when its record arrives, milliseconds later; if two processes patch one item within that
    time only the later change is kept, so a catalogue should be changed through one process.
    A condition (*if_match*: a version, or ``ANY``) is checked against this process's view.
    """

    def __init__(self, table: TableView, items: Appender, *, is_read: Callable[[], bool], turn_s: float = 5.0) -> None:
        self._table = table
        self._items = items
        self._is_read = is_read
        self._turns = Turns("item_id", turn_s)

    def check(self, *, strict: bool) -> ItemCheck:
        """Looks up events' items. Before the catalogue is read, and while it is empty, no item is called unknown.

        With *strict* an empty one knows no item, and before it is read this raises ``Unavailable``.
        """
        if strict and not self._is_read():
            raise Unavailable("the catalogue is still being read from the log; try again when /readyz says so")
        is_of_use = strict or (self._is_read() and len(self._table) > 0)
        return ItemCheck(self._table.__contains__ if is_of_use else None, strict)

    def get(self, item_id: str) -> tuple[int, Item]:
        """The version and the item; ``BadInput`` (``not_listed``) if it is not in the catalogue."""
        listed = self._known(item_id)
        if listed is None:
            raise not_listed(item_id)
        return listed.version, decode_item(listed.raw)

    async def put(self, item_id: str, body: Mapping[str, Any], if_match: int | str | None = None) -> tuple[int, Item]:
        """Add the item, or replace it as a whole; return its new version and the item."""
        check_new_id("item_id", item_id)
        item = _item(body)
        raw = _encoded(item)
        async with self._turns.of([item_id]):
            self._check(item_id, if_match)
            return await self._append(item_id, raw), item

    async def patch(self, item_id: str, body: Mapping[str, Any], if_match: int | str | None = None) -> tuple[int, Item]:
        """Change the given fields of an item; ``null`` removes a field (or one attribute)."""
        async with self._turns.of([item_id]):
            listed = self._known(item_id)
            if listed is None:
                raise not_listed(item_id)
            self._check(item_id, if_match)
            item = _item(merged(orjson.loads(listed.raw), body))
            return await self._append(item_id, _encoded(item)), item

    async def delete(self, item_id: str, *, purge: bool = False, if_match: int | str | None = None) -> int:
        """Delete the item, whether it exists or not, with *purge* also its vector; return the version."""
        async with self._turns.of([item_id]):
            self._check(item_id, if_match)
            return await self._append(item_id, None, purge=purge)

    async def put_many(self, bodies: Sequence[object]) -> list[AcceptedItem | RefusedItem]:
        """Add or replace many items, each accepted or refused by itself; return one outcome per body, in order."""
        checked = [_checked(body) for body in bodies]
        del bodies  # parsed bodies would take several times their size while waiting for the log
        messages = [one for one in checked if not isinstance(one, RefusedItem)]
        ids = [key.decode() for key, _ in messages]
        async with self._turns.of(ids):
            places = await self._items.append(messages) if messages else []
            for item_id, (_, raw), place in zip(ids, messages, places, strict=True):
                self._table.note(item_id, place, raw)
        puts = (AcceptedItem(item_id, place.version) for item_id, place in zip(ids, places, strict=True))
        return [one if isinstance(one, RefusedItem) else next(puts) for one in checked]

    def _known(self, item_id: str) -> StoredValue | None:
        check_id("item_id", item_id)
        if not self._is_read():
            raise Unavailable("the catalogue is still being read from the log; try again when /readyz says so")
        return self._table.get(item_id)

    def _check(self, item_id: str, if_match: int | str | None) -> None:
        if if_match is None:
            return
        listed = self._known(item_id)
        if listed is None or if_match not in (ANY, listed.version):
            now = f"is version {listed.version}" if listed else "is not listed"
            raise BadInput(
                "other_version", f"the item {now}, If-Match says {if_match}; read it again", field="If-Match"
            )

    async def _append(self, item_id: str, raw: bytes | None, *, purge: bool = False) -> int:
        place = await append_to(self._items, self._table, item_id, raw, (PURGE,) if purge else ())
        return place.version


def not_listed(item_id: str) -> BadInput:
    """The error for an item that is not in the catalogue."""
    return BadInput("not_listed", f"item {item_id!r:.140} is not in the catalogue; add it with PUT", field="item_id")


def merged(item: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object *item* with *patch* applied to it and to its attributes (a JSON merge patch, RFC 7396)."""
    changed = {**item, **patch}
    old, new = item.get("attributes"), patch.get("attributes")
    if isinstance(new, dict):
        changed["attributes"] = _without_nulls({**(old or {}), **new})
    return _without_nulls(changed)


def _without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _checked(body: object) -> tuple[bytes, bytes] | RefusedItem:
    """The message for one item of a batch, whose id is in its body."""
    item_id = body.get("item_id") if isinstance(body, dict) else None
    try:
        if not isinstance(body, dict):
            raise BadInput("not_an_object", f"an item must be a JSON object, came {type(body).__name__}: {body!r:.80}")
        if "item_id" not in body:
            raise BadInput(
                "missing_field", f"required field 'item_id' is missing; came {sorted(body)}"[:500], field="item_id"
            )
        key = check_new_id("item_id", item_id).encode()
        return key, _encoded(_item({name: value for name, value in body.items() if name != "item_id"}))
    except BadInput as problem:
        return RefusedItem(item_id if isinstance(item_id, str) else None, problem)


def _item(body: Mapping[str, Any]) -> Item:
    """The item in *body*, which need not have a format version."""
    return item_of({"v": 1, **body})


def _encoded(item: Item) -> bytes:
    raw = encode_item(item)
    if len(raw) > MAX_ITEM_BYTES:
        raise BadInput("too_large", f"the item has {len(raw):,} bytes; at most {MAX_ITEM_BYTES:,} are accepted")
    return raw
