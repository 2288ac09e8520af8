"""``GET /users/{user_id}``: what is stored about a user."""

from fastapi import FastAPI, Request, Response
from pydantic import Field

from nearline.space import Space
from services.retrieval.items.interface import ItemIndex
from services.retrieval.models import Refused
from services.retrieval.routes.documents import document_of
from services.retrieval.routes.forms import ID, RequestClock, RouteAnswer, UserId, example
from services.retrieval.users.store_guard import GuardedStore

PATH = "/users/{user_id:text}"
ALLOWED = {"user_id": ID}


class KnownUser(RouteAnswer):
    """What is stored about a user. Seen items are stored as hashes, so there are no ids of items."""

    model_config = example(
        {
            "user_id": "17850",
            "space": 1,
            "has_vector": True,
            "vector_version": 1732100000123,
            "history_version": 1732100000123,
            "newest_event_id": "e-42",
            "as_of_ms": 1732100000000,
            "stored_ms": 1732100000150,
            "events": 50,
            "seen": 212,
            "purchased": 34,
            "categories": ["candles", "tableware"],
        }
    )

    user_id: str
    space: int = Field(description="the embedding space that this process serves; each space has its own document")
    has_vector: bool
    vector_version: int | None = Field(description="version of the history that the vector used; null without a vector")
    history_version: int = Field(description="version of the seen items; newer than the vector if the tower failed")
    newest_event_id: str = Field(description="the newest event that the vector used; without a vector, that arrived")
    as_of_ms: int = Field(description="when that event happened, UTC ms")
    stored_ms: int = Field(description="when the document was written, UTC ms")
    events: int = Field(description="how many of the newest events the document contains")
    seen: int = Field(description="how many items count as seen")
    purchased: int = Field(description="how many of them count as bought")
    categories: list[str] = Field(description="the categories with most of the seen items that this process knows")


def add(app: FastAPI, items: ItemIndex, store: GuardedStore, space: Space) -> None:
    """Add the route to *app*."""

    @app.get(
        PATH,
        summary="What is stored about a user",
        responses={200: {"model": KnownUser}, 404: {"model": Refused}, 422: {"model": Refused}},
    )
    async def known_user(request: Request, user_id: UserId) -> Response:
        """The user's document, which answers use. Ingest's route with the same path returns the declared profile."""
        clock = RequestClock(request)
        document = await document_of(user_id, store, space)
        has_vector = document.vector is not None
        return clock.answer(
            {
                "user_id": user_id,
                "space": space.number,
                "has_vector": has_vector,
                "vector_version": document.vector_version if has_vector else None,
                "history_version": document.history_version,
                "newest_event_id": document.newest_event_id,
                "as_of_ms": document.as_of_ms,
                "stored_ms": document.stored_ms,
                "events": len(document.events),
                "seen": len(document.seen),
                "purchased": len(document.purchased),
                "categories": items.favourite_categories(document.seen.tolist()),
            }
        )
