"""Nearline's client for Python: ``Client`` and ``AsyncClient`` send events and items and read recommendations."""

from nearline_client.answers import (
    Context,
    Event,
    EventResults,
    Item,
    ItemAnswer,
    ItemChange,
    ItemOfBatch,
    ItemResults,
    ListOptions,
    Profile,
    Recommendations,
    Recommended,
    RecommendOptions,
    SessionContext,
    SessionEvent,
    SessionOptions,
)
from nearline_client.async_client import AsyncClient
from nearline_client.calls import event
from nearline_client.client import Client
from nearline_client.errors import (
    NearlineError,
    NotLetIn,
    NotThere,
    OtherVersion,
    Problem,
    QueueFull,
    Refused,
    TooMany,
    Unavailable,
    UnexpectedAnswer,
)
from nearline_client.retrying import NEVER, Retries

__version__ = "0.1.0"
__all__ = [
    "NEVER",
    "AsyncClient",
    "Client",
    "Context",
    "Event",
    "EventResults",
    "Item",
    "ItemAnswer",
    "ItemChange",
    "ItemOfBatch",
    "ItemResults",
    "ListOptions",
    "NearlineError",
    "NotLetIn",
    "NotThere",
    "OtherVersion",
    "Problem",
    "Profile",
    "QueueFull",
    "RecommendOptions",
    "Recommendations",
    "Recommended",
    "Refused",
    "Retries",
    "SessionContext",
    "SessionEvent",
    "SessionOptions",
    "TooMany",
    "Unavailable",
    "UnexpectedAnswer",
    "event",
]
