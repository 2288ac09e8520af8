"""retrieval's OpenAPI document and the service agree: whatever is sent, no 5xx, and every answer is documented."""

import schemathesis
from hypothesis import HealthCheck, settings

from tests.read_world import World
from tests.unit.test_ingest_openapi import CHECKS

SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", World().app)


@SCHEMA.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_documented_and_none_is_a_failure_of_ours(case: schemathesis.Case) -> None:
    """Valid and broken requests alike, drawn from the document."""
    case.call_and_validate(checks=CHECKS)
