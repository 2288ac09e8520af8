"""retrieval's OpenAPI document and the service agree: whatever is sent, no 5xx, and every answer is documented."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck

from tests.support.properties import examples
from tests.support.read_world import World
from tests.unit.ingest.test_openapi import CHECKS

WORLD = World()
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", WORLD.app)


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    yield
    WORLD.close()


@SCHEMA.parametrize()
@examples(20, suppress_health_check=list(HealthCheck))
def test_every_answer_is_documented_and_none_is_a_failure_of_ours(case: schemathesis.Case[Any]) -> None:
    """Valid and broken requests alike, drawn from the document."""
    case.call_and_validate(checks=CHECKS)
