"""Reads rules from a TOML or JSON file with one rule, one scenario, or lists of both.

Such a file may give a time window as ``from`` and ``until``, each a date and time with a time zone, and may leave out
the version.
"""

import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from nearline.errors import BadInput, Misconfigured
from nearline.rules import Rule, Scenario, rule_of, scenario_of

_TIMES = {"from": "from_ms", "until": "until_ms"}
_LISTS = {"rules", "scenarios"}


def read_rules(path: Path) -> list[Rule | Scenario]:
    """The rules in the file at *path*; ``BadInput`` names the rule and the field, ``Misconfigured`` without a file."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"cannot read {path}: {error.strerror}") from None
    return rules_in(_parsed(raw, path), where=str(path))


def rules_in(body: object, *, where: str) -> list[Rule | Scenario]:
    """The rules and scenarios in *body* (plain data); ``BadInput`` if there are none, or an id comes twice."""
    found: dict[str, Rule | Scenario] = {}
    for place, kind, each in _each(body, where):
        try:
            read = _read(kind, each)
        except BadInput as error:
            raise BadInput(error.reason, f"{place}: {error}") from None
        key = f"rule {read.rule_id!r}" if isinstance(read, Rule) else f"scenario {read.name!r}"
        if key in found:
            raise BadInput("twice", f"{place}: {key} is in the file already")
        found[key] = read
    if not found:
        raise BadInput("empty", f"{where} has no rules or scenarios; expected [[rules]] or [[scenarios]]")
    return list(found.values())


def _parsed(raw: bytes, path: Path) -> object:
    try:
        if path.suffix == ".toml":
            return tomllib.loads(raw.decode())
        return orjson.loads(raw)
    except (tomllib.TOMLDecodeError, orjson.JSONDecodeError, UnicodeDecodeError) as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON (a file of TOML is named .toml)"
        raise BadInput("not_parsed", f"{path} is not {kind}: {error}") from None


def _each(body: object, where: str) -> Iterator[tuple[str, str, object]]:
    """Yield every rule and scenario: its place in words, which of the two it is (if known), and its body."""
    if isinstance(body, list):
        yield from ((f"{where}, number {at}", "", each) for at, each in enumerate(body, start=1))
    elif isinstance(body, dict) and body.keys() <= _LISTS:
        for name, listed in body.items():
            if not isinstance(listed, list):
                raise BadInput("wrong_type", f"{where}: {name} must be a list, came {listed!r:.80}")
            yield from ((f"{where}, number {at} of {name}", name, each) for at, each in enumerate(listed, start=1))
    else:
        yield where, "", body


def _read(kind: str, each: object) -> Rule | Scenario:
    if not isinstance(each, dict):
        raise BadInput("not_an_object", f"expected a rule or a scenario, came {each!r:.80}")
    body = {name: value for name, value in each.items() if name != "v"}
    if kind == "scenarios" or (not kind and "scenario" in body and body.keys().isdisjoint(("rule_id", "action"))):
        return scenario_of(body)
    return rule_of(_timed(body))


def _timed(body: Mapping[str, Any]) -> dict[str, Any]:
    """The rule with its time window in milliseconds."""
    timed = {name: value for name, value in body.items() if name not in _TIMES}
    for name, in_ms in _TIMES.items():
        if name in body and in_ms in body:
            raise BadInput("twice", f"give {name!r} or {in_ms!r}, not both")
        if name in body:
            timed[in_ms] = _moment(name, body[name])
    return timed


def _moment(name: str, value: object) -> int:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        moment = None
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise BadInput(
            "no_time",
            f"{name} must be a date and time with a time zone, such as 2026-11-27T00:00:00Z, came {value!s:.40}",
        )
    return int(moment.astimezone(UTC).timestamp() * 1000)
