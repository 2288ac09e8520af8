"""The fields that filters compare, as columns by slot: comparing one field of all items is one numpy operation.

Category, locale, brand, price and listing time have a value at every slot. An attribute has one column per type,
because it may be text on one item and a number on another. While few items have the attribute, its column is sparse
(slots and values), so that 6,400 attributes on 1 % of the items cost twice what 64 on every item do, and not a hundred
times as much. Once a quarter of all slots have it, a dense column is faster and hardly larger.

Text is stored as its 64-bit hash, which is enough to compare; codes would need reference counts as items come and go.
The probability that one of a million texts has the hash of another given text is 1 in 10^13.
"""

import operator
from array import array
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearline.filters import (
    ATTRIBUTE,
    NUMBERS,
    TEXTS,
    AllOf,
    AnyOf,
    Compared,
    Filter,
    Missing,
    Node,
    Not,
    Same,
)
from nearline.hashing import hash64
from nearline.item_vectors import ItemFields
from nearline.items import Attribute
from services.retrieval.in_process.graphs import Slots
from services.retrieval.in_process.rows import SlotMask

Words = NDArray[Any]  # float64 with NaN for none, or uint64 hashes of text with 0 for none
Check = Callable[[Words], SlotMask]  # false for none

_FIRST = 1024  # slots
_DENSE = 4  # a column with a value at more than one slot in so many is dense
_PATIENCE = 32  # changes that a sparse column collects before it sorts them in, at least; each takes 100 bytes
_MANY = 1024  # slots of a lookup, from which on sorting first is faster
_JOURNAL = 65_536  # changes that are kept: two minutes at 500/s
_SIGNS: dict[str, Callable[[Words, float], SlotMask]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Journal:
    """The slots that changed, in order; when it is full, the older half is dropped."""

    def __init__(self) -> None:
        self._slots = array("q")
        self._forgotten = 0

    @property
    def end(self) -> int:
        """How many changes there have been in total."""
        return self._forgotten + len(self._slots)

    def note(self, slot: int) -> None:
        """Note that *slot* changed."""
        if len(self._slots) == _JOURNAL:
            del self._slots[: _JOURNAL // 2]
            self._forgotten += _JOURNAL // 2
        self._slots.append(slot)

    def since(self, end: int) -> Slots | None:
        """The slots that changed since ``end`` was *end*, each once; ``None`` if they are no longer kept."""
        if end < self._forgotten:
            return None
        return np.unique(np.frombuffer(self._slots[end - self._forgotten :], np.int64))


class Dense:
    """A column with a value at every slot; *blank* means no value."""

    def __init__(self, blank: Words, slots: int) -> None:
        self._values = np.full(slots, blank)
        self._blank = blank
        self.count = 0

    def reserve(self, slots: int) -> None:
        """Have room for *slots*."""
        self._values = np.concatenate((self._values, np.full(slots - len(self._values), self._blank)))

    def put(self, slot: int, value: float) -> None:
        """Give *slot*, which has none, this value."""
        self._values[slot] = value
        self.count += 1

    def drop(self, slot: int) -> None:
        """Take its value from *slot*, which has one."""
        self._values[slot] = self._blank
        self.count -= 1

    def test(self, check: Check, slots: Slots | None) -> SlotMask:
        """Whether the value passes *check* at each of *slots*, or at every slot."""
        return check(self._values if slots is None else self._values[slots])

    def at(self, slots: Slots) -> Words:
        """The value of each of *slots*."""
        return self._values[slots]

    def sparse(self, patience: int) -> "Sparse":
        """The same column as ``Sparse``."""
        column = Sparse(self._blank, len(self._values), patience)
        has = np.flatnonzero(~(self._values == self._blank) & (self._values == self._values))
        column._slots, column._values, column.count = has.astype(np.int32), self._values[has], self.count
        return column


class Sparse:
    """A column with values at few slots, sorted by slot; recent changes are kept apart until they are sorted in."""

    def __init__(self, blank: Words, slots: int, patience: int) -> None:
        self._room = slots
        self._blank = blank
        self._slots = np.empty(0, np.int32)
        self._values = np.empty(0, blank.dtype)
        self._changed: dict[int, float | None] = {}  # None: the value was removed
        self._patience = patience
        self.count = 0

    def reserve(self, slots: int) -> None:
        """Have room for *slots*."""
        self._room = slots

    def put(self, slot: int, value: float) -> None:
        """Give *slot*, which has none, this value."""
        self.count += 1
        self._change(slot, value)

    def drop(self, slot: int) -> None:
        """Take its value from *slot*, which has one."""
        self.count -= 1
        self._change(slot, None)

    def test(self, check: Check, slots: Slots | None) -> SlotMask:
        """Whether the value passes *check* at each of *slots*, or at every slot."""
        if slots is not None:
            return check(self._at(slots))
        self._sort()
        passing = np.zeros(self._room, bool)
        passing[self._slots] = check(self._values)
        return passing

    def dense(self) -> Dense:
        """The same column as ``Dense``."""
        self._sort()
        column = Dense(self._blank, self._room)
        column._values[self._slots] = self._values
        column.count = self.count
        return column

    def _at(self, slots: Slots) -> Words:
        if len(slots) > _MANY:
            self._sort()
        values = np.full(len(slots), self._blank)
        if len(self._slots):
            places = self._slots.searchsorted(slots).clip(max=len(self._slots) - 1)
            has = self._slots[places] == slots
            values[has] = self._values[places[has]]
        for place, slot in enumerate(slots.tolist() if self._changed else ()):
            if slot in self._changed:
                value = self._changed[slot]
                values[place] = self._blank if value is None else value
        return values

    def _change(self, slot: int, value: float | None) -> None:
        self._changed[slot] = value
        if len(self._changed) > self._patience * (1 + len(self._slots) // 256):
            self._sort()

    def _sort(self) -> None:
        if not self._changed:
            return
        changed = np.fromiter(self._changed, np.int32)
        kept = np.ones(len(self._slots), bool)
        if len(kept):
            places = self._slots.searchsorted(changed).clip(max=len(kept) - 1)
            kept[places[self._slots[places] == changed]] = False
        added = {slot: value for slot, value in self._changed.items() if value is not None}
        slots = np.concatenate((self._slots[kept], np.fromiter(added, np.int32)))
        values = np.concatenate((self._values[kept], np.array(list(added.values()), self._values.dtype)))
        order = slots.argsort(kind="stable")
        self._slots, self._values = slots[order], values[order]
        self._changed.clear()


class FieldColumns:
    """The fields of the available items by slot, and a journal of changed slots."""

    def __init__(self) -> None:
        self.changes = Journal()
        self.slots = _FIRST  # room
        self._available = np.zeros(_FIRST, bool)
        self._shown = 0
        self._fields = {name: Dense(_BLANK[str], _FIRST) for name in TEXTS}
        self._fields |= {name: Dense(_BLANK[float], _FIRST) for name in NUMBERS}
        self._attributes: dict[str, dict[type, Dense | Sparse]] = {}
        self._made = 0

    def reserve(self, slots: int) -> None:
        """Have room for *slots*."""
        if slots <= self.slots:
            return
        self.slots = max(slots, self.slots * 3 // 2)
        self._available = np.concatenate((self._available, np.zeros(self.slots - len(self._available), bool)))
        for field in self._fields.values():
            field.reserve(self.slots)
        for kinds in self._attributes.values():
            for kind, column in kinds.items():
                kinds[kind] = self._fitting(column)
                kinds[kind].reserve(self.slots)

    def put(self, slot: int, shown: ItemFields) -> None:
        """Add an available item at *slot*, which is empty."""
        self.reserve(slot + 1)
        fields = self._fields
        for name in TEXTS:
            fields[name].put(slot, _hashed(getattr(shown, name)))
        for name in NUMBERS:
            number = getattr(shown, name)
            fields[name].put(slot, np.nan if number is None else number)
        for name, value in shown.attributes.items():
            self._put_attribute(slot, name, value)
        self._available[slot] = True
        self._shown += 1
        self.changes.note(slot)

    def clear(self, slot: int, attributes: Mapping[str, Attribute]) -> None:
        """Remove the item at *slot*, which had *attributes*."""
        for name, value in attributes.items():
            kinds, kind = self._attributes[name], _kind(value)
            kinds[kind].drop(slot)
            if not kinds[kind].count:
                del kinds[kind]
            if not kinds:
                del self._attributes[name]
        self._available[slot] = False  # which hides the fields: they stay until another item is put there
        self._shown -= 1
        self.changes.note(slot)

    def words(self, name: str, slots: Slots) -> Words:
        """The values of the field *name* at *slots*: hashes of text, or numbers."""
        return self._fields[name].at(slots)

    def check(self, wanted: Filter) -> None:
        """Raise ``FilterError`` if no available item has an attribute of *wanted*, or none with a type it compares.

        While no item is available, every attribute is accepted.
        """
        if not self._shown:
            return
        for name, kinds, position in wanted.compared:
            known = self._attributes.get(name)
            if known is None:
                raise wanted.unknown(name, position, self._attributes)
            if kinds and not kinds & known.keys():
                raise wanted.mistyped(name, position, known)

    def passing(self, node: Node, slots: Slots | None = None) -> SlotMask:
        """Whether each of *slots*, or every slot, has an available item that passes *node*."""
        passing: SlotMask = (self._available if slots is None else self._available[slots]) & self._true(node, slots)
        return passing

    def _true(self, node: Node, slots: Slots | None) -> SlotMask:
        match node:
            case Same(name, values):
                return self._same(name, values, slots)
            case Compared(name, sign, bound):
                numbers = self._kinds(name).get(float)
                return self._any(
                    [numbers.test(lambda came: _SIGNS[sign](came, bound), slots)] if numbers else [], slots
                )
            case Missing(name):
                return ~self._any(
                    [column.test(_PRESENT[kind], slots) for kind, column in self._kinds(name).items()], slots
                )
            case Not(part):
                return ~self._true(part, slots)
            case AllOf(parts):
                return reduce(operator.and_, [self._true(part, slots) for part in parts])
            case AnyOf(parts):
                return reduce(operator.or_, [self._true(part, slots) for part in parts])

    def _same(self, name: str, values: Iterable[Attribute], slots: Slots | None) -> SlotMask:
        by_kind: dict[type, list[float]] = {}
        for value in values:
            by_kind.setdefault(_kind(value), []).append(_word(value))
        known = self._kinds(name)
        tests = [known[kind].test(_one_of(kind, words), slots) for kind, words in by_kind.items() if kind in known]
        return self._any(tests, slots)

    def _any(self, masks: list[SlotMask], slots: Slots | None) -> SlotMask:
        return reduce(operator.or_, masks, np.zeros(self.slots if slots is None else len(slots), bool))

    def _kinds(self, name: str) -> Mapping[type, Dense | Sparse]:
        """The columns of the field *name*, by the type of their values."""
        if name.startswith(ATTRIBUTE):
            return self._attributes.get(name.removeprefix(ATTRIBUTE), {})
        return {str if name in TEXTS else float: self._fields[name]}

    def _put_attribute(self, slot: int, name: str, value: Attribute) -> None:
        kinds, kind = self._attributes.setdefault(name, {}), _kind(value)
        column = kinds.get(kind)
        if column is None:
            column = kinds[kind] = Sparse(_BLANK[kind], self.slots, self._patience())
        column.put(slot, _word(value))
        if isinstance(column, Sparse) and column.count * _DENSE > self.slots:
            kinds[kind] = column.dense()

    def _fitting(self, column: Dense | Sparse) -> Dense | Sparse:
        """*column*, or its sparse form if that takes less memory now that there are more slots."""
        if isinstance(column, Dense) and column.count * _DENSE * 4 < self.slots:
            return column.sparse(self._patience())
        return column

    def _patience(self) -> int:
        """A different number for each column, so that columns that change together are not sorted at the same time."""
        self._made += 1
        return _PATIENCE + 11 * self._made % _PATIENCE


def _kind(value: Attribute) -> type:
    """The type as which *value* is compared: text, number or truth value."""
    return float if type(value) is int else type(value)


def _word(value: Attribute) -> float:
    return _hashed(value) if isinstance(value, str) else float(value)


def _hashed(text: str) -> int:
    return hash64(text) or 1  # 0 stands for none


def _one_of(kind: type, words: list[float]) -> Check:
    if len(words) == 1:
        word = _BLANK[kind].dtype.type(words[0])
        return lambda values: values == word
    sought = np.array(words, _BLANK[kind].dtype)
    return lambda values: np.isin(values, sought)


_EMPTY = np.uint64(_hashed(""))
_BLANK: Mapping[type, Any] = {str: np.uint64(0), float: np.float64(np.nan), bool: np.float64(np.nan)}
_PRESENT: Mapping[type, Check] = {  # there is a value, and it is not the empty text
    str: lambda values: (values != 0) & (values != _EMPTY),
    float: lambda values: values == values,
    bool: lambda values: values == values,
}
