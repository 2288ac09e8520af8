"""The read routes together: their parts, permissions, and allowed parameters."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from nearline.guard import RoutePermission
from nearline.keys import Permission
from nearline.space import Space
from services.retrieval.items.interface import ItemIndex
from services.retrieval.items.text_index import TextIndex
from services.retrieval.routes import known_user, lists, people, rank, search, sessions, similar
from services.retrieval.routes.bodies import MOST_ADMIN_BYTES, MOST_BYTES, BoundedBodies
from services.retrieval.routes.refusals import refuse_with
from services.retrieval.sessions import Sessions
from services.retrieval.users.active_users import ActiveUsers
from services.retrieval.users.session_vectors import KnownItems
from services.retrieval.users.store_guard import GuardedStore

# {of_user} and not {user_id}: the answer is about other users, so a user's own token has no access (nearline/guard.py).
READ_RULES = tuple(
    RoutePermission(method, path, Permission.READ)
    for method, path in (
        ("POST", sessions.PATH),
        ("POST", rank.PATH),
        ("GET", similar.PATH),
        ("GET", people.SIMILAR),
        ("GET", people.AUDIENCE),
        ("GET", lists.TRENDING),
        ("GET", lists.LATEST),
        ("GET", search.PATH),
        ("GET", known_user.PATH),
    )
)
_ALLOWED: dict[str, Mapping[str, str]] = {
    sessions.PATH: sessions.ALLOWED,
    rank.PATH: rank.ALLOWED,
    similar.PATH: similar.ALLOWED,
    people.SIMILAR: people.ALLOWED,
    people.AUDIENCE: people.ALLOWED,
    lists.TRENDING: lists.ALLOWED,
    lists.LATEST: lists.ALLOWED,
    search.PATH: search.ALLOWED,
    known_user.PATH: known_user.ALLOWED,
}
_MODELS: tuple[type[BaseModel], ...] = (
    sessions.SessionRecommendations,
    rank.RankedItems,
    similar.SimilarItems,
    people.SimilarUsers,
    people.Audience,
    lists.ListedItems,
    search.FoundItems,
    known_user.KnownUser,
)


@dataclass(frozen=True, slots=True)
class Reads:
    """The parts behind the read routes; if one is ``None``, its routes answer with what to configure."""

    space: Space
    items: ItemIndex
    store: GuardedStore
    sessions: Sessions | None = None
    texts: TextIndex | None = None
    users: ActiveUsers | None = None
    known: KnownItems | None = None
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000


def add_reads(app: FastAPI, reads: Reads, others: Mapping[str, Mapping[str, str]] | None = None) -> None:
    """Add the read routes to *app*; *others* are the allowed parameters of further routes, by path."""
    refuse_with(app, _ALLOWED | dict(others or {}))
    sessions.add(app, reads.sessions)
    rank.add(app, reads.items, reads.store, reads.space, reads.sessions)
    similar.add(app, reads.items, reads.known)
    people.add(app, reads.items, reads.users, reads.store, reads.space)
    lists.add(app, reads.items)
    search.add(app, reads.items, reads.texts)
    known_user.add(app, reads.items, reads.store, reads.space)
    most = dict.fromkeys((sessions.PATH, rank.PATH), MOST_BYTES) | dict.fromkeys(others or (), MOST_ADMIN_BYTES)
    app.add_middleware(BoundedBodies, paths=most)  # outermost


def describe_reads(document: dict[str, Any]) -> None:
    """Add to the OpenAPI *document* what FastAPI leaves out: the schema of session events, and nulls in examples."""
    schemas = document["components"]["schemas"]
    schemas["SessionEvent"] = sessions.SessionEvent.model_json_schema()
    for model in _MODELS:
        schemas[model.__name__]["example"] = model.model_json_schema()["example"]
