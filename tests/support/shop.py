"""Both services as a shop meets them: all routes behind the guard, a key of every scope, a catalogue and users."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from starlette.types import ASGIApp

from nearline.adapters.limits import AddressLimits
from nearline.adapters.tokens import UserTokens
from nearline.guard import Guard, RoutePermission
from nearline.item_vectors import ItemFields, ItemVector
from nearline.key_ring import KeyRing
from nearline.keys import EVERYTHING, encode_key, make_key
from nearline.log import Record
from services.ingest.api import RULES as INGEST_RULES
from services.retrieval.api import RULES as RETRIEVAL_RULES
from tests.support.ingest_door import Door
from tests.support.read_world import World, at, user
from tests.support.served import Weather, served

USER, OTHER_USER = "17850", "13047"
MUG, LAMP = "22423", "85123A"


@dataclass(frozen=True)
class Shop:
    """Where both services answer, the key that opens them, and what is behind them."""

    retrieval: str
    ingest: str
    key: str
    asked: dict[str, Weather]  # what came to each service, by its name


def world_of_a_shop() -> World:
    """Retrieval with forty items and two that have names, and two users who have seen some."""
    world = World()
    for nth, (item_id, title, category) in enumerate(((MUG, "REGENCY CAKESTAND", "mugs"), (LAMP, "RED LAMP", "lamps"))):
        vector = at(nth + 0.5)
        shown = ItemFields(
            title, category, price=12.5, listed_ms=1_700_000_000_000, brand="", attributes={"colour": "red"}
        )
        world.catalogue.apply(ItemVector(item_id, 1, shown, vector, vector.astype(np.float16), "d"))
    world.put_users(**{USER: user(0, seen=("i0",)), OTHER_USER: user(2)})
    return world


@contextmanager
def shop() -> Iterator[Shop]:
    """A shop behind real sockets, for as long as the block runs."""
    world, door = world_of_a_shop(), Door()
    key, kept = make_key("shop", [str(scope) for scope in EVERYTHING], now_ms=1)
    ring = KeyRing()
    ring.apply(Record("api-keys", 0, 0, 0, kept.id.encode(), encode_key(kept)))

    def guarded(app: ASGIApp, rules: tuple[RoutePermission, ...]) -> Guard:
        spend = AddressLimits().spend
        return Guard(app, rules, ring, tokens=UserTokens(), spend=spend, is_near=lambda scope: False)

    try:
        asked = {
            "retrieval": Weather(guarded(world.app, RETRIEVAL_RULES)),
            "ingest": Weather(guarded(door.app, INGEST_RULES)),
        }
        with served(asked["retrieval"]) as retrieval, served(asked["ingest"]) as ingest:
            yield Shop(retrieval, ingest, key, asked)
    finally:
        world.close()


def documents() -> dict[str, dict]:  # type: ignore[type-arg]
    """The OpenAPI documents of both services, by what they are called."""
    world = World()
    try:
        retrieval = world.get("/openapi.json").json()
    finally:
        world.close()
    return {"retrieval": retrieval, "ingest": Door().api.openapi()}
