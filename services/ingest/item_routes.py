"""The routes of items."""

import re
from typing import Annotated, Any

from fastapi import FastAPI, Header, Path, Query, Request, Response

from nearline.errors import BadInput
from nearline.ids import MAX_ID_BYTES
from nearline.items import Item
from nearline.telemetry import counter
from services.ingest import catalogue_editor as items
from services.ingest.bodies import Reservation, Room
from services.ingest.callers import caller_of
from services.ingest.catalogue_editor import ANY, CatalogueEditor
from services.ingest.http_io import (
    answer,
    answers,
    batch_answer,
    etag,
    json_body,
    json_of,
    object_of,
    one_or_many,
    one_or_more,
    problem_of,
    ref,
    strict_id,
)
from services.ingest.schemas import Deleted, ItemAnswer, ItemIn, ItemOfBatch, ItemPatch, ItemResults, Problems

CHANGES = ("delete", "patch", "put")
_ACCEPTED = counter("ingest_items_accepted_total", "Changes of items that are in the log", "change", known=CHANGES)

ItemIdPath = Annotated[
    str,
    Path(
        description=f"1-{MAX_ID_BYTES} UTF-8 bytes without control characters; slashes need no escape",
        examples=["lamp-1"],
    ),
]
IfMatch = Annotated[
    str | None,
    Header(
        description='Only if the item has this version, as in ETag ("3547340800000003"), or * for any; else 412.',
        examples=['"3547340800000003"'],
    ),
]
Purge = Annotated[bool, Query(description="also delete the item's vector, which users' histories may otherwise use")]


def add_items(app: FastAPI, room: Room, catalogue: CatalogueEditor) -> None:
    """Add the routes of items to *app*."""

    @app.post(
        "/items",
        summary="Add or replace up to 500 items",
        responses=answers({200: ItemResults, 207: ItemResults, 422: ItemResults | Problems}, 408, 413),
        openapi_extra=one_or_many(ItemOfBatch, items.MAX_BATCH),
    )
    async def post_items(request: Request) -> Response:
        """Send one item as an object, or 1-500 as an array, each with its `item_id`; statuses as for `POST /events`."""
        with Reservation(room, caller_of(request)) as place:
            outcomes = await catalogue.put_many(one_or_more(await json_of(request, place), items.MAX_BATCH))
        accepted = sum(isinstance(one, items.AcceptedItem) for one in outcomes)
        _ACCEPTED.labels("put").inc(accepted)
        return batch_answer(list(map(_item_result, outcomes)), accepted)

    @app.get(
        "/items/{item_id:text}", summary="An item in the catalogue", responses=answers({200: ItemAnswer}, 404, 422)
    )
    async def get_item(request: Request, item_id: ItemIdPath) -> Response:
        """The item in the catalogue. Retrieval knows whether it is available in answers yet."""
        item_id = strict_id(request, "item_id", item_id)
        return _item(item_id, *catalogue.get(item_id))

    @app.put(
        "/items/{item_id:text}",
        summary="Add or replace an item",
        responses=answers({200: ItemAnswer}, 408, 412, 413, 422),
        openapi_extra=json_body(ref(ItemIn)),
    )
    async def put_item(request: Request, item_id: ItemIdPath, if_match: IfMatch = None) -> Response:
        """Replaces the item as a whole. The answer comes when the log has acknowledged it."""
        item_id = strict_id(request, "item_id", item_id)
        with Reservation(room, caller_of(request)) as place:
            body = object_of(await json_of(request, place))
            changed = await catalogue.put(item_id, body, _condition(if_match))
        _ACCEPTED.labels("put").inc()
        return _item(item_id, *changed)

    @app.patch(
        "/items/{item_id:text}",
        summary="Change some fields of an item",
        responses=answers({200: ItemAnswer}, 404, 408, 412, 413, 422),
        openapi_extra=json_body(ref(ItemPatch)),
    )
    async def patch_item(request: Request, item_id: ItemIdPath, if_match: IfMatch = None) -> Response:
        """A JSON merge patch (RFC 7396): `{"available": false}` makes the item unavailable, `null` removes a field.
        Patches of one item are applied one after the other, so none is lost.
        """
        item_id = strict_id(request, "item_id", item_id)
        with Reservation(room, caller_of(request)) as place:
            body = object_of(await json_of(request, place))
            changed = await catalogue.patch(item_id, body, _condition(if_match))
        _ACCEPTED.labels("patch").inc()
        return _item(item_id, *changed)

    @app.delete(
        "/items/{item_id:text}",
        summary="Delete an item",
        responses=answers({200: Deleted}, 412, 422),
    )
    async def delete_item(
        request: Request, item_id: ItemIdPath, purge: Purge = False, if_match: IfMatch = None
    ) -> Response:
        """Removes the item from all answers; also allowed for an unknown item. Users' histories keep its vector for 90
        days, unless *purge* is set.
        """
        item_id = strict_id(request, "item_id", item_id)
        with Reservation(room, caller_of(request)):
            version = await catalogue.delete(item_id, purge=purge, if_match=_condition(if_match))
        _ACCEPTED.labels("delete").inc()
        return answer(200, {"item_id": item_id, "version": version}, etag(version))


def _condition(if_match: str | None) -> int | str | None:
    if if_match is None or if_match == ANY:
        return if_match
    version = re.fullmatch(r'"?(\d{1,18})"?', if_match, re.ASCII)
    if version is None:
        expected = 'If-Match must be a version like "3547340800000003", or *'
        raise BadInput("wrong_type", f"{expected}; came {if_match!r:.80}", field="If-Match")
    return int(version.group(1))


def _item(item_id: str, version: int, item: Item) -> Response:
    return answer(200, {"item_id": item_id, "version": version, "item": item}, etag(version))


def _item_result(outcome: items.AcceptedItem | items.RefusedItem) -> dict[str, Any]:
    if isinstance(outcome, items.AcceptedItem):
        return {"status": "accepted", "item_id": outcome.item_id, "version": outcome.version}
    return {"status": "refused", "item_id": outcome.item_id, **problem_of(outcome.problem)}
