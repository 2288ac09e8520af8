"""An answer's provenance, declared once for its JSON, its OpenAPI model and its exposure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import Field

from nearline.user_documents import UserDocument
from services.retrieval.request import PageContext
from services.retrieval.result import Degradation, EventOutcome, Reason, Seen, UnusedParameter


class Absent(Enum):
    """The value of a field that the answer leaves out, unlike null."""

    ABSENT = "absent"


ABSENT = Absent.ABSENT
_Absent = Literal[Absent.ABSENT]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The fields of an answer beside its items, in the order of its JSON; a new field is one line here."""

    user_id: str | None
    space: Annotated[int, Field(description="the embedding space of every vector in this answer")]
    vector_version: Annotated[int | None, Field(description="version of the user's vector; null if there is none")]
    history_version: Annotated[int | None, Field(description="version of the history that the vector used")]
    newest_event_id: Annotated[str | None, Field(description="the newest click that the vector used")]
    as_of_ms: Annotated[int | None, Field(description="when that click happened, UTC ms")]
    age_ms: Annotated[int | None, Field(description="the age of that click when the answer was made")]
    index_generation: Annotated[
        int,
        Field(
            description="how many changes of items the answering process had applied; its answers with the same number "
            "were chosen from the same items"
        ),
    ]
    seen: Annotated[
        Seen,
        Field(
            description="whether the user's seen items are known: as stored now (known), as this process last read "
            "them (cached), or not at all (unknown)"
        ),
    ]
    degraded: Annotated[bool, Field(description="true if the answer has `degradations`")]
    reason: Annotated[Reason | None, Field(description="why not every item is personal; null when every one is")]
    degradations: Annotated[
        Sequence[Degradation],
        Field(description="what the answer lacks because a part was down or time was short"),
    ]
    steps: Annotated[
        Sequence[Degradation], Field(description="the same as `degradations`; removed in 1.0", deprecated=True)
    ]
    rules: Annotated[Sequence[str], Field(description="ids of the rules that touched the answer")]
    warnings: Annotated[
        Sequence[UnusedParameter],
        Field(description="parameters of the request that the answer did not use, and why"),
    ] = ()
    fresh: Annotated[
        bool | _Absent,
        Field(
            description="with `after`: whether the vector is as new as that event, which was used or is older than all "
            "events that still can be; else absent"
        ),
    ] = ABSENT
    after_event: Annotated[
        EventOutcome | _Absent,
        Field(
            description="with `after`: what became of that event. used: it is among the events that the answer used; "
            "passed: it is older than all of them, and they are as many as are kept, so it was used before or came too "
            "late (only its item still counts as seen); refused: it is from before its user's erasure or before 1980; "
            "unknown: it was not read yet, removed, refused for another reason or never sent. passed and refused need "
            "`after_ms`; else absent"
        ),
    ] = ABSENT
    next_page: Annotated[
        str | _Absent | None,
        Field(
            description="with `page`: the token of the next page, valid for 30 minutes; null at the end; else absent",
        ),
    ] = ABSENT
    took_ms: float = 0.0
    request_id: str = ""

    def as_dict(self) -> dict[str, object]:
        """The fields of the answer's JSON, without those that are absent."""
        values = {name: getattr(self, name) for name in _NAMES}
        for name in _OPTIONAL:
            if values[name] is ABSENT:
                del values[name]
        return values


_NAMES = tuple(each.name for each in fields(Provenance))
_OPTIONAL = tuple(each.name for each in fields(Provenance) if each.default is ABSENT)


def model_fields() -> dict[str, Any]:
    """The fields for ``pydantic.create_model``: those that may be absent are null by default, the others required."""
    hints = get_type_hints(Provenance, include_extras=True)
    return {name: _model_field(name, hints[name]) for name in _NAMES}


def _model_field(name: str, hint: Any) -> tuple[Any, Any]:
    if name not in _OPTIONAL:
        return hint, ...
    kind, info = get_args(hint)
    present = [each for each in get_args(kind) if each not in (_Absent, type(None))]
    return Annotated[present[0] | None, info], None


def used_clicks(document: UserDocument | None, now_ms: int) -> Mapping[str, Any]:
    """The fields about the clicks that an answer used; all null for a user whom the store does not know."""
    if document is None:
        return _NO_CLICKS
    has_vector = document.vector is not None
    return {
        "vector_version": document.vector_version if has_vector else None,
        "history_version": document.vector_version if has_vector else document.history_version,
        "newest_event_id": document.newest_event_id,
        "as_of_ms": document.as_of_ms,
        "age_ms": max(0, now_ms - document.as_of_ms),
    }


_NO_CLICKS: Mapping[str, Any] = dict.fromkeys(
    ("vector_version", "history_version", "newest_event_id", "as_of_ms", "age_ms")
)


_IN_EVENTS = (
    "no answer depends on it yet; in the context of an event or in the profile it counts for the answers that follow"
)
_ALL_PERSONAL = "every item is personal; the popular items of the category only fill places that are not"


def unused_parameters(context: PageContext, *, category_used: bool) -> Sequence[UnusedParameter]:
    """The parts of *context* that the answer did not use; *category_used*: it looked at the items of the category."""
    if not (context.device or context.country or context.category):
        return ()
    given = (
        ("context.device", context.device, _IN_EVENTS),
        ("context.country", context.country, _IN_EVENTS),
        ("context.category", "" if category_used else context.category, _ALL_PERSONAL),
    )
    return [UnusedParameter(name, why) for name, value, why in given if value]
