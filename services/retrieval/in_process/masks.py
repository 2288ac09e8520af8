"""A cache of which items pass recent filters, kept up to date while items change.

A filter's mask is computed once from its columns; after that only items that changed since its last use are tested
again.
"""

from collections import OrderedDict
from dataclasses import dataclass

from nearline.filters import Filter
from services.retrieval.in_process.columns import FieldColumns
from services.retrieval.in_process.rows import Rows

_MOST = 256  # filters
_MOST_BYTES = 32 * 1024 * 1024


@dataclass(slots=True)
class _KeptMask:
    """The rows that pass a filter, as of the change number *end* of the columns."""

    rows: Rows
    end: int


class Masks:
    """The rows that pass a filter, cached; the least recently used filter is evicted first."""

    def __init__(self, columns: FieldColumns, *, most: int = _MOST, most_bytes: int = _MOST_BYTES) -> None:
        self._columns = columns
        self._most = most
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, _KeptMask] = OrderedDict()

    def __len__(self) -> int:
        """How many filters are cached."""
        return len(self._kept)

    def rows(self, wanted: Filter) -> Rows:
        """The rows that pass *wanted* now; use them before anything changes."""
        kept = self._kept.get(wanted.key)
        if kept is None:
            return self._make(wanted)
        self._kept.move_to_end(wanted.key)
        if kept.end != self._columns.changes.end:
            return self._renew(kept, wanted)
        return kept.rows

    def _renew(self, kept: _KeptMask, wanted: Filter) -> Rows:
        changed = self._columns.changes.since(kept.end)
        if changed is None or len(changed) > self._columns.slots // 8:
            return self._make(wanted)
        kept.rows.reserve(self._columns.slots)
        kept.rows.change(changed, self._columns.passing(wanted.node, changed))
        kept.end = self._columns.changes.end
        return kept.rows

    def _make(self, wanted: Filter) -> Rows:
        rows = Rows(self._columns.passing(wanted.node))
        self._kept[wanted.key] = _KeptMask(rows, self._columns.changes.end)
        while len(self._kept) > self._most or (len(self._kept) > 1 and self._size() > self._most_bytes):
            self._kept.popitem(last=False)
        return rows

    def _size(self) -> int:
        return sum(kept.rows.size for kept in self._kept.values())
