"""Writes docs/api.md: the OpenAPI documents of both services as a page, with an example for every route.

    .venv/services/bin/python -m tools.api_docs          # writes docs/api.md (make docs)

The examples are in docs/api_examples.toml; tests run each of them, and compare the page with this tool's output.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "api.md"
EXAMPLES = ROOT / "docs" / "api_examples.toml"
Json = dict[str, Any]

# Statuses of every route, from the guard and the HTTP layer: described once, at the top.
_EVERYWHERE = ("200", "401", "403", "422", "429", "503")


@dataclass(frozen=True)
class Example:
    """Calls of a route from a shell and from Python."""

    route: str
    curl: str
    python: str


@dataclass(frozen=True)
class Route:
    """One operation of an OpenAPI document."""

    service: str
    method: str
    path: str
    about: Json

    @property
    def name(self) -> str:
        """The route's name in the examples."""
        return f"{self.method} {self.path}"


def routes(documents: Mapping[str, Json]) -> Iterator[Route]:
    """Every operation of *documents*, in order."""
    for service, document in documents.items():
        for path, methods in document["paths"].items():
            for method, about in methods.items():
                yield Route(service, method.upper(), path, about)


def examples(text: str) -> dict[tuple[str, str], Example]:
    """The examples in *text* (TOML) by service and route, in order."""
    found = {}
    for service, of_service in tomllib.loads(text).items():
        for route, one in of_service.items():
            found[service, route] = Example(route, one["curl"].strip(), one.get("python", "").strip())
    return found


def page(documents: Mapping[str, Json], shown: Mapping[tuple[str, str], Example], intro: str) -> str:
    """The page: *intro*, each service's routes in the order of their examples, then the types of bodies and answers."""
    parts = [intro.strip(), _contents(documents, shown)]
    by_name = {(route.service, route.name): route for route in routes(documents)}
    missing = [f"{service}: {name}" for service, name in by_name if (service, name) not in shown]
    if missing:
        raise ValueError(f"no example in {EXAMPLES.name} for {', '.join(missing)}")
    for service, document in documents.items():
        parts.append(f"## {_title(service, document)}\n\n{document['info']['description']}")
        parts += [_route(by_name[key], example) for key, example in shown.items() if key[0] == service]
    parts += [_shapes(service, document) for service, document in documents.items()]
    return "\n\n".join(parts) + "\n"


def _title(service: str, document: Json) -> str:
    return document["info"]["title"].removeprefix("Nearline ").capitalize() if document else service


def _contents(documents: Mapping[str, Json], shown: Mapping[tuple[str, str], Example]) -> str:
    lines = ["| route | of | for a key of | |", "|---|---|---|---|"]
    about = {(route.service, route.name): route.about for route in routes(documents)}
    for service, name in shown:
        said = about[service, name]
        lines.append(f"| [`{name}`](#{_anchor(service, name)}) | {service} | `{said['x-scope']}` | {said['summary']} |")
    return "\n".join(lines)


def _anchor(service: str, name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{service} {name}".lower()).strip("-")


def _route(route: Route, example: Example) -> str:
    about = route.about
    parts = [f'<a id="{_anchor(route.service, route.name)}"></a>\n### `{route.name}`', f"**{about['summary']}.**"]
    if about.get("description"):
        parts.append(_unwrapped(about["description"]))
    parts += _parameters(about, route.service)
    body = about.get("requestBody")
    if body is not None:
        parts.append(f"Body: {_kind(body['content']['application/json']['schema'], route.service)}")
    answer = about["responses"]["200"]["content"]["application/json"]["schema"]
    parts.append(f"Answer: {_kind(answer, route.service)}" + _others(about))
    parts.append(f"```sh\n{example.curl}\n```")
    if example.python:
        parts.append(f"```python\n{example.python}\n```")
    return "\n\n".join(parts)


def _parameters(about: Json, service: str) -> list[str]:
    if not about.get("parameters"):
        return []
    lines = ["| parameter | is | |", "|---|---|---|"]
    for parameter in about["parameters"]:
        schema = parameter["schema"]
        said = parameter.get("description") or schema.get("description") or ""
        place = {"path": " (in the path)", "header": " (a header)"}.get(parameter["in"], "")
        needed = ", required" if parameter["required"] and parameter["in"] == "query" else ""
        lines.append(
            f"| `{parameter['name']}`{place} | {_kind(schema, service)}{needed}{_default(schema)} | {_cell(said)} |"
        )
    return ["\n".join(lines)]


def _others(about: Json) -> str:
    """The route's own statuses."""
    own = {status: said for status, said in about["responses"].items() if status not in _EVERYWHERE}
    return "".join(f"; {status}: {_cell(said['description'])}" for status, said in sorted(own.items()))


def _shapes(service: str, document: Json) -> str:
    parts = [f"## Shapes of {service}"]
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts.append(f'<a id="{service}-{name.lower()}"></a>\n### {name}')
        if schema.get("description"):
            parts.append(_unwrapped(schema["description"]))
        parts.append(_fields(service, schema))
    return "\n\n".join(parts)


def _fields(service: str, schema: Json) -> str:
    if "enum" in schema:
        return "One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + "."
    lines = ["| field | is | |", "|---|---|---|"]
    needed = schema.get("required", [])
    for name, about in schema.get("properties", {}).items():
        kind = _kind(about, service) + (", required" if name in needed and "example" not in about else "")
        lines.append(f"| `{name}` | {kind}{_default(about)} | {_cell(about.get('description', ''))} |")
    return "\n".join(lines)


def _kind(schema: Json, service: str) -> str:
    """A schema's type in words; references point to *service*'s types."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{service}-{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_kind(one, service) for one in schema[several]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        most = f" of up to {schema['maxItems']:,}" if "maxItems" in schema else ""
        return f"list{most} ({_kind(schema.get('items', {}), service)})"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'], service)}"
    return _plain(schema)


def _plain(schema: Json) -> str:
    kind = {"null": "null", "boolean": "true or false", "number": "number", "integer": "integer", "string": "text"}
    said = kind.get(str(schema.get("type")), str(schema.get("type", "anything")))
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{said} {low:g}-{high:g}"
    return f"{said} from {low:g}" if low is not None else said


def _default(schema: Json) -> str:
    default = schema.get("default")
    return "" if default in (None, "", [], {}) else f"; `{str(default).lower() if default is False else default}`"


def _cell(text: str) -> str:
    """*text* for one cell of a table."""
    return _unwrapped(text).replace("|", "\\|")


def _unwrapped(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text.strip())


def intro_in(text: str) -> str:
    """The introduction of the page, which is the first comment in the examples' file."""
    lines = text.split("\n\n[", 1)[0].splitlines()
    return "\n".join(line[2:] for line in lines)


def written() -> str:
    """The content of the page."""
    from tests.support.shop import documents

    text = EXAMPLES.read_text()
    return page(documents(), examples(text), intro_in(text))


if __name__ == "__main__":
    PAGE.write_text(written())
    print(f"wrote {PAGE.relative_to(ROOT)}")
