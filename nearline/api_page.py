"""``/docs``: an API's OpenAPI document as one plain page, without scripts and with nothing from another host."""

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from typing import Any

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "h2{margin-top:2.5rem;border-top:1px solid #888;padding-top:1rem}code,pre{font-family:ui-monospace,monospace}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.2rem .6rem .2rem 0}"
)
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": _POLICY}
_REFERENCE = "#/components/schemas/"


def html_of(document: Mapping[str, Any]) -> str:
    """The page: each route with its scope, parameters, body and answers, then each schema."""
    about = document["info"]
    routes = [
        _route(method, path, said) for path, methods in document["paths"].items() for method, said in methods.items()
    ]
    schemas = [_schema(name, schema) for name, schema in document.get("components", {}).get("schemas", {}).items()]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(about["title"])}</title>'
        f"<style>{_STYLE}</style><h1>{escape(about['title'])}</h1><p>{escape(about.get('description', ''))} "
        '<a href="openapi.json">The same as an OpenAPI document.</a></p>'
        f"{''.join(routes)}<h2>Schemas</h2>{''.join(schemas)}</html>"
    )


def _route(method: str, path: str, said: Mapping[str, Any]) -> str:
    scope = f"<p>Scope: <code>{escape(said['x-scope'])}</code></p>" if "x-scope" in said else ""
    parameters = [
        (f"{each['name']} ({each['in']})", _type(each.get("schema", {})), each.get("description", ""))
        for each in said.get("parameters", ())
    ]
    bodies = [
        ("body", _type(content.get("schema", {})), kind)
        for kind, content in said.get("requestBody", {}).get("content", {}).items()
    ]
    answers = [
        (status, ", ".join(_type(one.get("schema", {})) for one in answer.get("content", {}).values()),
         answer.get("description", ""))
        for status, answer in said.get("responses", {}).items()
    ]  # fmt: skip
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2><p><strong>{escape(said.get('summary', ''))}.</strong> "
        f"{escape(said.get('description', ''))}</p>{scope}{_table([*parameters, *bodies])}{_table(answers)}"
    )


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    fields = [
        (field, _type(about), about.get("description", "")) for field, about in schema.get("properties", {}).items()
    ]
    return f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{escape(schema.get("description", ""))}</p>{_table(fields)}'


def _type(schema: Mapping[str, Any]) -> str:
    """The schema's type in words."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(_REFERENCE)
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return " or ".join(map(_type, choices))
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    kind = str(schema.get("type", "any"))
    return f"list of {_type(schema.get('items', {}))}" if kind == "array" else kind


def _table(rows: list[tuple[str, str, str]]) -> str:
    if not rows:
        return ""
    cells = ("".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
