"""Routes that refuse query parameters they do not have: one that is misspelt would be ignored in silence."""

from urllib.parse import parse_qsl

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from nearline.query_names import help_for


class StrictRoute(APIRoute):
    """A route whose unknown query parameters are errors; one with a model of parameters leaves them to the model."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; ``RequestValidationError`` names unknown parameters and those there are."""
        if scope["query_string"] and scope["method"] in (self.methods or ()):
            self._refuse_unknown(scope["query_string"])
        await super().handle(scope, receive, send)

    def _refuse_unknown(self, raw: bytes) -> None:
        declared = self.dependant.query_params
        if any(isinstance(kind := one.field_info.annotation, type) and issubclass(kind, BaseModel) for one in declared):
            return
        extra = self.openapi_extra or {}  # has those that a route reads by itself
        names = [one.alias for one in declared]
        names += [one["name"] for one in extra.get("parameters", ()) if one["in"] == "query"]
        unknown = [pair for pair in parse_qsl(raw.decode("latin-1"), keep_blank_values=True) if pair[0] not in names]
        if unknown:
            raise RequestValidationError([_error(name, value, names) for name, value in unknown[:10]])


def _error(name: str, value: str, names: list[str]) -> dict[str, object]:
    return {
        "type": "extra_forbidden",
        "loc": ("query", name[:80]),
        "msg": f"unknown parameter {name!r:.80}; {help_for(name, names)}",
        "input": value,
        "ctx": {"names": names},
    }
