"""Serialises an answer: its provenance, then its items, whose JSON is mostly made when an item changes."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import orjson

from services.retrieval.items.printed import BEFORE_SCORE, closed, print_scores
from services.retrieval.result import Group, Source

SCORE, SOURCE = "score", "source"
_BEFORE_SOURCE = b',"source":'
_SOURCES = {source: orjson.dumps(source) for source in Source}
_ITEM_ENDS = {source: _BEFORE_SOURCE + printed + b"}" for source, printed in _SOURCES.items()}
_CUT_ITEMS = 20_000  # kept, for requests that name fields


def print_answer(about: Mapping[str, object], groups: Sequence[Group], fields: frozenset[str] | None = None) -> bytes:
    """*about* and the items of *groups* as one JSON object; of each item only *fields* and its id, or everything."""
    printed = (_print_items(group, fields) for group in groups if len(group.items))
    return orjson.dumps(about)[:-1] + b',"items":[' + b",".join(printed) + b"]}"


def _print_items(group: Group, fields: frozenset[str] | None) -> bytes:
    if fields is not None:
        return _print_some(group, fields)
    if group.notes:
        return _print_with_notes(group, group.items.printed, _BEFORE_SOURCE + _SOURCES[group.source])
    return _print_all(group)


def _print_all(group: Group) -> bytes:
    """The group's items as JSON, joined by commas; two pieces per item, because this is a tenth of an answer's time."""
    end = _ITEM_ENDS[group.source]
    pieces = [b""] * (2 * len(group.items))
    pieces[::2] = group.items.printed
    pieces[1::2] = print_scores(group.items.scores).replace(b",", end + b"\n").split(b"\n")
    return b"".join(pieces)[1:] + end


def _print_with_notes(group: Group, starts: Sequence[bytes], end: bytes) -> bytes:
    return closed(starts, print_scores(group.items.scores).split(b","), end, group.notes)


def _print_some(group: Group, fields: frozenset[str]) -> bytes:
    starts = [_cut(printed, fields) for printed in group.items.printed]
    end = _BEFORE_SOURCE + _SOURCES[group.source] if SOURCE in fields else b""
    if SCORE in fields:
        return _print_with_notes(group, [start + BEFORE_SCORE for start in starts], end)
    return closed(starts, [b""] * len(starts), end, group.notes)


@lru_cache(_CUT_ITEMS)
def _cut(printed: bytes, fields: frozenset[str]) -> bytes:
    """An item's JSON with only its id and *fields*, without the closing brace: ``,{"item_id":…``."""
    item = orjson.loads(printed[1 : -len(BEFORE_SCORE)] + b"}")
    kept = {name: value for name, value in item.items() if name == "item_id" or name in fields}
    return b"," + orjson.dumps(kept)[:-1]
