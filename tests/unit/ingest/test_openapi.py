"""The OpenAPI document and the service agree: whatever is sent, no 5xx, and every answer is one that is documented."""

import asyncio
from typing import Any

import schemathesis
from hypothesis import HealthCheck
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.ingest_door import LAMP, Door
from tests.support.properties import examples

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
DOOR = Door()
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", DOOR.app)


@SCHEMA.parametrize()
@examples(30, suppress_health_check=list(HealthCheck))
def test_every_answer_is_documented_and_none_is_a_failure_of_ours(case: schemathesis.Case[Any]) -> None:
    """Valid and broken requests alike, drawn from the document."""
    case.call_and_validate(checks=CHECKS)


def test_the_document_names_every_route_and_body() -> None:
    document = DOOR.api.openapi()
    routes = {(path, method) for path, methods in document["paths"].items() for method in methods}
    one_item = {("/items/{item_id}", method) for method in ("get", "put", "patch", "delete")}
    one_user = {("/users/{user_id}", method) for method in ("get", "put", "delete")}
    one_user |= {("/users/{user_id}/merge", "post"), ("/users/{user_id}/events/{event_id}", "delete")}
    assert routes == {("/events", "post"), ("/items", "post")} | one_item | one_user
    bodies = {"EventIn", "EventOfMerge", "ItemIn", "ItemOfBatch", "ItemPatch", "MergeIn", "ProfileIn"}
    assert bodies <= document["components"]["schemas"].keys()
    for path, method in routes:
        assert ("requestBody" in document["paths"][path][method]) == (method not in ("get", "delete"))


def test_the_examples_of_the_document_are_accepted() -> None:
    schemas = DOOR.api.openapi()["components"]["schemas"]
    door = Door()

    async def statuses() -> list[int]:
        answers = [
            await door.send(schemas["EventIn"]["example"]),
            await door.item("PUT", "lamp-1", schemas["ItemIn"]["example"]),
            await door.ask("POST", "/items", [schemas["ItemOfBatch"]["example"]]),
            await door.item("PATCH", "lamp-1", schemas["ItemPatch"]["example"]),
            await door.user("PUT", "17850", schemas["ProfileIn"]["example"]),
            await door.user("POST", "17850", schemas["MergeIn"]["example"], more="/merge"),
        ]
        return [answer.status_code for answer in answers]

    assert asyncio.run(statuses()) == [200] * 6
    assert LAMP["title"] == schemas["ItemIn"]["example"]["title"]
