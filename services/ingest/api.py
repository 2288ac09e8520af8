"""The HTTP interface: ``POST /events``, the items' routes, and what every refusal looks like."""

import re
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

import orjson
from fastapi import FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute

from nearline.errors import BadInput, NearlineError, Overloaded, Unavailable
from nearline.events import load_json
from nearline.guard import STATUS_RULES, Rule, describe
from nearline.ids import MAX_ID_BYTES
from nearline.items import Item
from nearline.keys import Permission
from nearline.telemetry import counter
from services.ingest import catalogue as items
from services.ingest import clicks
from services.ingest.appender import Appender
from services.ingest.bodies import Bounds, Place, Room
from services.ingest.catalogue import ANY, Catalogue
from services.ingest.schemas import (
    Deleted,
    EventIn,
    EventResults,
    ItemAnswer,
    ItemIn,
    ItemOfBatch,
    ItemPatch,
    ItemResults,
    Problems,
)

RULES = (
    Rule("POST", "/events", Permission.EVENTS),
    Rule("POST", "/items", Permission.ITEMS),
    *(Rule(method, "/items/{item_id:text}", Permission.ITEMS) for method in ("GET", "PUT", "PATCH", "DELETE")),
    *STATUS_RULES,
)

RETRY_AFTER_S = "1"
# Of refusals with these reasons; every other is 422: the request is understood and can never be accepted as it is.
_STATUS = {"not_listed": 404, "body_too_slow": 408, "other_version": 412, "body_too_large": 413}
# After the others the rest of a body is thrown away: a caller that is hung up on while it sends never sees the answer.
_HANG_UP = {408}

_EVENTS_ACCEPTED = counter("ingest_events_accepted_total", "Events that are in the log")
_EVENTS_REFUSED = counter("ingest_events_refused_total", "Events that can never be accepted", "reason")
_ITEMS_ACCEPTED = counter("ingest_items_accepted_total", "Changes of items that are in the log", "change")
_REFUSED = counter("ingest_requests_refused_total", "Requests of which nothing was done", "status", "reason")

ItemId = Annotated[
    str,
    Path(description=f"1-{MAX_ID_BYTES} UTF-8 bytes without control characters; slashes may stay", examples=["lamp-1"]),
]
IfMatch = Annotated[
    str | None,
    Header(
        description='Do it only if the item is in this version, as ETag gave it ("17"), or * for any: else 412.',
        examples=['"17"'],
    ),
]
Purge = Annotated[bool, Query(description="also forget the item's vector, which users' histories may else use")]
Answers = dict[int | str, dict[str, Any]]


class _Text(PathConvertor):
    """The rest of a path, whatever it holds: starlette's own ends at a line break, and a bad id must be called bad."""

    regex = r"[\s\S]*"


def create_api(
    events: Appender,
    catalogue: Catalogue,
    status: Sequence[BaseRoute],
    bounds: Bounds | None = None,
    *,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> FastAPI:
    """The routes; *status* are /healthz, /readyz and /metrics."""
    register_url_convertor("text", _Text())
    app = FastAPI(
        title="Nearline ingest",
        version="1",
        description="Events and items, checked and in the log before they are answered.",
        redirect_slashes=False,
        exception_handlers={
            NearlineError: _refuse,
            HTTPException: _refuse_route,
            RequestValidationError: _refuse_parameters,
            ClientDisconnect: _hung_up,
        },
    )
    room = Room(bounds or Bounds())
    _add_events(app, room, events, now_ms)
    _add_items(app, room, catalogue)
    app.router.routes.extend(status)
    _describe_bodies(app)
    describe(app.openapi(), RULES)
    return app


def _add_events(app: FastAPI, room: Room, events: Appender, now_ms: Callable[[], int]) -> None:
    @app.post(
        "/events",
        summary="Send one event, or up to 500",
        responses=_answers({200: EventResults, 207: EventResults, 422: EventResults | Problems}, 408, 413),
        openapi_extra=_one_or_many(EventIn, clicks.MAX_BATCH),
    )
    async def post_events(request: Request) -> Response:
        """One event as an object, or 1-500 as an array; each is judged by itself. The answer comes when the log has
        acknowledged all that were accepted: 200 if that is every one, 207 if some were refused, 422 if all were. So
        after a 2xx nothing has to be sent again; after 429 and 503 all of it has to, and events that bring their own
        `event_id` may be sent as often as one likes.
        """
        with Place(room) as place:
            # No name for the parsed body: while the log is waited for, it would take several times its size.
            verdicts = clicks.judge(_one_or_more(await _json(request, place), clicks.MAX_BATCH), now_ms=now_ms())
            accepted = [(one.key, one.value) for one in verdicts if isinstance(one, clicks.Accepted)]
            if accepted:
                await events.append(accepted)
        _EVENTS_ACCEPTED.inc(len(accepted))
        return _batch(list(map(_event_result, verdicts)), len(accepted))


def _add_items(app: FastAPI, room: Room, catalogue: Catalogue) -> None:
    @app.post(
        "/items",
        summary="List or replace up to 500 items",
        responses=_answers({200: ItemResults, 207: ItemResults, 422: ItemResults | Problems}, 408, 413),
        openapi_extra=_one_or_many(ItemOfBatch, items.MAX_BATCH),
    )
    async def post_items(request: Request) -> Response:
        """One item as an object, or 1-500 as an array, each with its `item_id`; statuses as of `POST /events`."""
        with Place(room) as place:
            outcomes = await catalogue.put_many(_one_or_more(await _json(request, place), items.MAX_BATCH))
        accepted = sum(isinstance(one, items.Put) for one in outcomes)
        _ITEMS_ACCEPTED.labels("put").inc(accepted)
        return _batch(list(map(_item_result, outcomes)), accepted)

    @app.get(
        "/items/{item_id:text}", summary="An item as it is listed", responses=_answers({200: ItemAnswer}, 404, 422)
    )
    async def get_item(request: Request, item_id: ItemId) -> Response:
        """What the catalogue says of the item. Whether answers may show it already is retrieval's matter."""
        item_id = _strict(request, item_id)
        return _item(item_id, *catalogue.get(item_id))

    @app.put(
        "/items/{item_id:text}",
        summary="List or replace an item",
        responses=_answers({200: ItemAnswer}, 408, 412, 413, 422),
        openapi_extra=_body(_ref(ItemIn)),
    )
    async def put_item(request: Request, item_id: ItemId, if_match: IfMatch = None) -> Response:
        """The item is replaced as a whole. Answered when the log has acknowledged it."""
        item_id = _strict(request, item_id)
        with Place(room) as place:
            body = _object(await _json(request, place))
            changed = await catalogue.put(item_id, body, _condition(if_match))
        _ITEMS_ACCEPTED.labels("put").inc()
        return _item(item_id, *changed)

    @app.patch(
        "/items/{item_id:text}",
        summary="Change some fields of an item",
        responses=_answers({200: ItemAnswer}, 404, 408, 412, 413, 422),
        openapi_extra=_body(_ref(ItemPatch)),
    )
    async def patch_item(request: Request, item_id: ItemId, if_match: IfMatch = None) -> Response:
        """A JSON merge patch (RFC 7396): `{"available": false}` hides, `null` takes a field away. Patches of one item
        take their turn, so none loses another's change.
        """
        item_id = _strict(request, item_id)
        with Place(room) as place:
            body = _object(await _json(request, place))
            changed = await catalogue.patch(item_id, body, _condition(if_match))
        _ITEMS_ACCEPTED.labels("patch").inc()
        return _item(item_id, *changed)

    @app.delete(
        "/items/{item_id:text}",
        summary="Take an item out of every answer",
        responses=_answers({200: Deleted}, 412, 422),
    )
    async def delete_item(
        request: Request, item_id: ItemId, purge: Purge = False, if_match: IfMatch = None
    ) -> Response:
        """Right to call whether the item is listed or not. Users' histories keep its vector for 90 days, unless
        *purge* is set.
        """
        item_id = _strict(request, item_id)
        with Place(room):
            version = await catalogue.delete(item_id, purge=purge, if_match=_condition(if_match))
        _ITEMS_ACCEPTED.labels("delete").inc()
        return _json_answer(200, {"item_id": item_id, "version": version}, _etag(version))


# --- requests --------------------------------------------------------------------------------------------------------


async def _json(request: Request, place: Place) -> Any:
    """What the body says; whatever its content type is called, it is read as JSON."""
    announced = request.headers.get("content-length", "")
    raw = await place.read(request.receive, int(announced[:18]) if announced.isdecimal() else 0)
    if not raw:
        raise BadInput("empty", "the body is empty; expected JSON")
    return load_json(raw)


def _one_or_more(body: Any, most: int) -> list[object]:
    """The objects of a body that is one object or an array of them."""
    if isinstance(body, dict):
        return [body]
    if not isinstance(body, list):
        raise BadInput("wrong_type", f"the body must be an object or an array of objects, came {type(body).__name__}")
    if not 1 <= len(body) <= most:
        raise BadInput("wrong_count", f"an array must hold 1-{most} objects, came {len(body):,}; send several requests")
    return body


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise BadInput("not_an_object", f"the body must be a JSON object, came {type(body).__name__}")
    return body


def _strict(request: Request, item_id: str) -> str:
    """The id of the path, unless its bytes are not UTF-8: a server decodes those to another id without a word."""
    if "\ufffd" in item_id:
        try:
            unquote_to_bytes(request.scope.get("raw_path") or b"").decode()
        except UnicodeDecodeError as broken:
            raise BadInput("bad_id", f"item_id is not UTF-8 in the address: {broken}", field="item_id") from None
    return item_id


def _condition(if_match: str | None) -> int | str | None:
    if if_match is None or if_match == ANY:
        return if_match
    version = re.fullmatch(r'"?(\d{1,18})"?', if_match, re.ASCII)
    if version is None:
        raise BadInput(
            "wrong_type", f'If-Match must be a version like "17", or *; came {if_match!r:.80}', field="If-Match"
        )
    return int(version.group(1))


# --- answers ---------------------------------------------------------------------------------------------------------


def _json_answer(status: int, body: object, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")


def _etag(version: int) -> dict[str, str]:
    return {"etag": f'"{version}"'}


def _item(item_id: str, version: int, item: Item) -> Response:
    return _json_answer(200, {"item_id": item_id, "version": version, "item": item}, _etag(version))


def _batch(results: list[dict[str, Any]], accepted: int) -> Response:
    refused = len(results) - accepted
    status = 422 if not accepted else 207 if refused else 200
    return _json_answer(status, {"accepted": accepted, "refused": refused, "results": results})


def _event_result(verdict: clicks.Accepted | clicks.Refused) -> dict[str, Any]:
    if isinstance(verdict, clicks.Accepted):
        return {"status": "accepted", "event_id": verdict.event_id}
    _EVENTS_REFUSED.labels(verdict.problem.reason).inc()
    return {"status": "refused", "event_id": verdict.event_id, **_problem(verdict.problem)}


def _item_result(outcome: items.Put | items.Refused) -> dict[str, Any]:
    if isinstance(outcome, items.Put):
        return {"status": "accepted", "item_id": outcome.item_id, "version": outcome.version}
    return {"status": "refused", "item_id": outcome.item_id, **_problem(outcome.problem)}


def _problem(error: BadInput) -> dict[str, str]:
    return {"field": error.field, "reason": error.reason, "problem": str(error)}


async def _refuse(_: Request, error: Exception) -> Response:
    """The answer to an error of ours: what the caller did wrong, or when to come again."""
    if isinstance(error, BadInput):
        return _refusal(_STATUS.get(error.reason, 422), _problem(error))
    if isinstance(error, Overloaded):
        return _refusal(429, {"field": "", "reason": "overloaded", "problem": str(error)})
    if isinstance(error, Unavailable):
        return _refusal(503, {"field": "", "reason": "unavailable", "problem": str(error)})
    raise error


async def _refuse_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal = _refusal(error.status_code, {"field": "", "reason": "no_such_route", "problem": str(error.detail)})
    refusal.headers.update(error.headers or {})
    return refusal


async def _refuse_parameters(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _refusal(
        422,
        *(
            {
                "field": str(one["loc"][-1]),
                "reason": "wrong_type",
                "problem": f"{one['msg']}, came {one.get('input')!s:.80}",
            }
            for one in error.errors()
        ),
    )


async def _hung_up(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it


def _refusal(status: int, *problems: dict[str, str]) -> Response:
    _REFUSED.labels(str(status), problems[0]["reason"]).inc()
    headers = {"retry-after": RETRY_AFTER_S} if status in (429, 503) else {}
    if status in _HANG_UP:
        headers["connection"] = "close"
    return _json_answer(status, {"detail": problems}, headers)


# --- the OpenAPI document --------------------------------------------------------------------------------------------

_BODIES = (EventIn, ItemIn, ItemOfBatch, ItemPatch)


def _answers(models: dict[int, Any], *refusals: int) -> Answers:
    """The answers of a route; any may be shed (429) or find the log away (503)."""
    always = {429: "Too much is in flight: come again after Retry-After.", 503: "The log is away: come again."}
    return {
        **{status: {"model": Problems} for status in refusals},
        **{status: {"model": Problems, "description": words} for status, words in always.items()},
        **{status: {"model": model} for status, model in models.items()},
    }


def _ref(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _one_or_many(model: type[BaseModel], most: int) -> dict[str, Any]:
    many = {"type": "array", "items": _ref(model), "minItems": 1, "maxItems": most}
    return _body({"anyOf": [_ref(model), many]})


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _describe_bodies(app: FastAPI) -> None:
    """Put the bodies' schemas into the document: FastAPI knows only those that it would itself validate."""
    modes = [(model, "validation") for model in _BODIES]
    _, found = models_json_schema(modes, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    app.openapi()["components"]["schemas"] |= found["$defs"]
