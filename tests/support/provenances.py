"""Provenances of answers, for tests of what is made from them."""

from nearline.space import Space
from services.retrieval.provenance import Provenance, used_clicks
from services.retrieval.result import Seen


def provenance(request_id: str, user_id: str | None, space: Space) -> Provenance:
    """What a personal answer that lacks nothing says of itself."""
    return Provenance(
        user_id=user_id,
        space=space.number,
        **used_clicks(None, 0),
        index_generation=0,
        seen=Seen.KNOWN,
        degraded=False,
        reason=None,
        degradations=[],
        steps=[],
        rules=[],
        request_id=request_id,
    )
