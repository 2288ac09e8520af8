"""The routes for operators: trying rules, and explaining an answer."""

from fastapi import FastAPI

from nearline.guard import RoutePermission
from nearline.keys import Permission
from services.retrieval.merchandising.active_rules import RuleResolver
from services.retrieval.recommender import Recommender
from services.retrieval.routes import try_rules, why
from services.retrieval.routes.reads import Reads

OPERATOR_RULES = (
    RoutePermission("POST", try_rules.PATH, Permission.ADMIN),
    RoutePermission("POST", why.PATH, Permission.ADMIN),
)
OPERATOR_ALLOWED = {try_rules.PATH: try_rules.ALLOWED, why.PATH: why.ALLOWED}


def add_operator_routes(app: FastAPI, recommender: Recommender, reads: Reads, rules: RuleResolver) -> None:
    """Add the routes to *app*."""
    try_rules.add(app, recommender, rules)
    vectors = None if reads.sessions is None else reads.sessions.vectors
    explainer = why.Explainer(
        reads.items, reads.store, reads.space, recommender, rules, vectors, reads.known, now_ms=reads.now_ms
    )
    why.add(app, explainer)
