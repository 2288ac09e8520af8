"""The language of filters lives in nearline/filters.py, for rules of the log hold filters too; its names from here."""

from nearline.filters import (
    ATTRIBUTE,
    MAX_BYTES,
    NUMBERS,
    TEXTS,
    AllOf,
    AnyOf,
    Compared,
    Filter,
    FilterError,
    Missing,
    Node,
    Not,
    Same,
    Value,
    parse,
)

__all__ = [
    "ATTRIBUTE",
    "MAX_BYTES",
    "NUMBERS",
    "TEXTS",
    "AllOf",
    "AnyOf",
    "Compared",
    "Filter",
    "FilterError",
    "Missing",
    "Node",
    "Not",
    "Same",
    "Value",
    "parse",
]
