"""``POST /rules/try``: users' answers now, and with rules that are not stored."""

from typing import Annotated, Any

import orjson
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from nearline.errors import BadInput
from nearline.rule_files import rules_in
from services.retrieval.merchandising.active_rules import RuleResolver
from services.retrieval.models import RecommendedItem, Refused
from services.retrieval.parameters import Id
from services.retrieval.recommender import Recommender
from services.retrieval.request import DEFAULT_K, RecommendRequest
from services.retrieval.routes.refusals import refused

PATH = "/rules/try"
MAX_USERS = 100
MAX_K = 100
MAX_ENTRIES = 1_000
_FIELDS = frozenset({"title", "category", "score", "source"})
_REQUEST = "try"  # the same for both answers, so that exploration draws the same
_RULE: JsonDict = {"rule_id": "spring", "action": "boost", "factor": 1.5, "filter": 'category = "tableware"'}

ALLOWED = {
    "entries": f"1-{MAX_ENTRIES:,} rules and scenarios (docs/rules.md)",
    "users": f"1-{MAX_USERS} ids of users",
    "k": f"an integer 1-{MAX_K}, {DEFAULT_K} by default",
    "scenario": "the name of a scenario",
}


class TryBody(BaseModel):
    """The rules to try, and the users whose answers to compare."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"entries": [_RULE], "users": ["17850"]}})

    entries: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_ENTRIES)]
    users: Annotated[list[Id], Field(min_length=1, max_length=MAX_USERS)]
    k: Annotated[int, Field(ge=1, le=MAX_K)] = DEFAULT_K
    scenario: Id | None = None


class TriedUser(BaseModel):
    """One user's answers without and with the rules."""

    user_id: str
    before: list[RecommendedItem]
    after: list[RecommendedItem]


class Tried(BaseModel):
    """What the rules would change; nothing is stored, and no exposure is recorded."""

    users: list[TriedUser]


def add(app: FastAPI, recommender: Recommender, rules: RuleResolver) -> None:
    """Add the route to *app*."""

    @app.post(PATH, summary="Try rules without storing them", responses={422: {"model": Refused}})
    async def try_rules(body: TryBody) -> Tried:
        """Each user's answer now, and with *entries* added. Nothing is stored."""
        try:
            entries = rules_in(body.entries, where="entries")
        except BadInput as error:
            raise refused(error, "entries") from None
        after = recommender.trying(rules.of(rules.table.with_also(entries)))
        before = recommender.trying(rules)
        known = body.scenario is None or body.scenario in rules.table
        now = RecommendRequest(
            k=body.k, fields=_FIELDS, scenario=body.scenario if known else None, given=frozenset({"k"})
        )
        then = RecommendRequest(k=body.k, fields=_FIELDS, scenario=body.scenario, given=frozenset({"k"}))
        found = []
        for user_id in body.users:
            was, is_then = await _items(before, user_id, now), await _items(after, user_id, then)
            found.append(TriedUser(user_id=user_id, before=was, after=is_then))
        return Tried(users=found)


async def _items(recommender: Recommender, user_id: str, request: RecommendRequest) -> list[RecommendedItem]:
    answer = orjson.loads(await recommender.answer(user_id, request, _REQUEST))
    return [RecommendedItem(**item) for item in answer["items"]]
