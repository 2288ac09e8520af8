"""``nearline rules``: a shop's merchandising rules. ``put``, ``list`` and ``delete`` use the log directly."""

import asyncio
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.table import Table

from nearline.adapters.kafka.admin import log_extent
from nearline.adapters.kafka.producer import Producer
from nearline.adapters.kafka.table_reader import TableReader
from nearline.cli.answers import ask
from nearline.cli.console import console
from nearline.errors import BadInput
from nearline.log import Record
from nearline.rule_files import read_rules
from nearline.rules import (
    SCENARIO_PREFIX,
    Rule,
    Scenario,
    decode,
    encode_rule,
    encode_scenario,
    rule_key,
    scenario_key,
)
from nearline.settings import Settings, load_settings
from nearline.topics import RULES, USER_SEQUENCES

_PATIENCE_S = 30.0
_SAMPLED_FROM = 200  # newest records of each partition

app = typer.Typer(no_args_is_help=True, help="Pin, boost, bury and block items, within time windows and in scenarios.")
File = Annotated[Path, typer.Argument(help="TOML or JSON with one or several rules and scenarios (docs/rules.md).")]


@app.command()
def put(file: File) -> None:
    """Activate every rule and scenario of FILE, replacing those with the same ids; all of them or none."""
    entries = read_rules(file)
    asyncio.run(_write(load_settings(), [_message(entry) for entry in entries]))
    for entry in entries:
        console.print(f"put {_named(entry)}")


@app.command("list")
def list_rules(json: Annotated[bool, typer.Option(help="Print the records, one per line.")] = False) -> None:
    """Show every rule and scenario."""
    entries = asyncio.run(_read(load_settings()))
    if json:
        for _, value in map(_message, entries):
            console.out((value or b"").decode(), highlight=False)
        return
    rules = [entry for entry in entries if isinstance(entry, Rule)]
    scenarios = [entry for entry in entries if isinstance(entry, Scenario)]
    console.print(_rules_table(rules, _now_ms()) if rules else "no rules; `nearline rules put` adds some")
    if scenarios:
        console.print(_scenarios_table(scenarios))


@app.command()
def delete(rule_id: Annotated[str, typer.Argument(help="A rule's id, or scenario:<name>.")]) -> None:
    """Delete a rule or a scenario."""
    settings = load_settings()
    known = {_message(entry)[0].decode() for entry in asyncio.run(_read(settings))}
    if rule_id not in known:
        raise BadInput("not_found", f"there is no {rule_id!r:.80}; `nearline rules list` shows all")
    asyncio.run(_write(settings, [(rule_id.encode(), None)]))
    console.print(f"deleted {rule_id}")


@app.command("try")
def try_rules(
    file: File,
    users: Annotated[int, typer.Option(min=1, max=100, help="How many users to sample from the log.")] = 5,
    user: Annotated[list[str] | None, typer.Option(help="This user instead; repeatable.")] = None,
    k: Annotated[int, typer.Option(min=1, max=100)] = 10,
    scenario: Annotated[str | None, typer.Option(help="Request answers of this scenario.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the sample.")] = 0,
) -> None:
    """Show answers without and with the rules of FILE, without activating them."""
    settings = load_settings()
    entries = read_rules(file)
    asked = user or asyncio.run(_sampled(settings, users, seed))
    if not asked:
        raise BadInput("no_users", "the log has no user yet; name some with --user")
    body = {"entries": [orjson.loads(_message(entry)[1] or b"") for entry in entries], "users": asked, "k": k}
    body |= {"scenario": scenario} if scenario else {}
    for tried in ask(settings, "POST", "/rules/try", json=body, timeout_s=_PATIENCE_S)["users"]:
        console.print(comparison(tried["user_id"], tried["before"], tried["after"]))
        console.print(summary(tried["before"], tried["after"]))


def comparison(user_id: str, before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> Table:
    """Both answers side by side; a moved or new item shows its old place and the rules that changed it."""
    stood = {item["item_id"]: at for at, item in enumerate(before, start=1)}
    table = Table("", "before", "after", "was", "rules", title=f"user {user_id}")
    for at in range(max(len(before), len(after))):
        now = after[at] if at < len(after) else None
        was = "" if now is None else _was(stood.get(now["item_id"]), at + 1)
        table.add_row(
            str(at + 1),
            _shown(before[at]) if at < len(before) else "",
            _shown(now) if now is not None else "",
            was,
            ", ".join(now.get("rules") or ()) if now is not None else "",
        )
    return table


def summary(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> str:
    """One line: the changes between two answers."""
    old, new = [item["item_id"] for item in before], [item["item_id"] for item in after]
    came, left = [item for item in new if item not in old], [item for item in old if item not in new]
    if old == new:
        return "nothing changes"
    parts = [f"{len(came)} came"] * bool(came) + [f"{', '.join(left)} left"] * bool(left)
    return "; ".join(parts) or "only the order changes"


def _shown(item: dict[str, Any]) -> str:
    return f"{item['item_id']} {item.get('title') or ''}"[:44]


def _was(before: int | None, now: int) -> str:
    if before is None:
        return "new"
    return "" if before == now else str(before)


async def _sampled(settings: Settings, count: int, seed: int) -> list[str]:
    """Users whose sequences are among the log's newest, drawn at random."""
    extent = (await log_extent(settings.brokers, [USER_SEQUENCES])).topics[USER_SEQUENCES]
    since = {part: max(extent.first.get(part, 0), end - _SAMPLED_FROM) for part, end in extent.end.items()}
    records = await _records(TableReader(settings.brokers, USER_SEQUENCES, start_at=since))
    erased = {record.id for record in records if not record.value or b'"erased":true' in record.value}
    found = sorted({record.id for record in records} - erased)
    return random.Random(seed).sample(found, min(count, len(found)))


async def _read(settings: Settings) -> list[Rule | Scenario]:
    """Every rule and scenario in the log, by key; invalid records are reported and left out."""
    values: dict[str, bytes | None] = {}
    for record in await _records(TableReader(settings.brokers, RULES)):
        values[record.id] = record.value
    found = []
    for key, value in sorted(values.items()):
        try:
            if value is not None:
                found.append(decode(key, value))
        except BadInput as error:
            console.print(f"left out: {key!r:.80}: {error}")
    return found


async def _records(table: TableReader) -> list[Record]:
    """Everything in the topic as of the call."""
    records: list[Record] = []
    async with table as reader:
        while not reader.caught_up:
            records += await reader.poll()
    return records


async def _write(settings: Settings, messages: Sequence[tuple[bytes, bytes | None]]) -> None:
    async with Producer(settings.brokers) as producer:
        await producer.send_all(RULES, messages)


def _message(entry: Rule | Scenario) -> tuple[bytes, bytes | None]:
    if isinstance(entry, Rule):
        return rule_key(entry.rule_id), encode_rule(entry)
    return scenario_key(entry.name), encode_scenario(entry)


def _named(entry: Rule | Scenario) -> str:
    return f"rule {entry.rule_id}" if isinstance(entry, Rule) else f"{SCENARIO_PREFIX}{entry.name}"


def _rules_table(rules: Sequence[Rule], now_ms: int) -> Table:
    table = Table("rule", "does", "to", "from", "until", "in", "holds")
    for rule in rules:
        about = rule.filter.expression if rule.filter is not None else ", ".join(rule.items)
        table.add_row(
            rule.rule_id,
            _deed(rule),
            about[:60],
            _moment(rule.from_ms),
            _moment(rule.until_ms),
            rule.scenario or "all answers",
            "now" if rule.holds_at(now_ms) else "not now",
        )
    return table


def _deed(rule: Rule) -> str:
    if rule.position is not None:
        return f"{rule.action} at {rule.position}"
    return str(rule.action) if rule.factor is None else f"{rule.action} by {rule.factor:g}"


def _scenarios_table(scenarios: Sequence[Scenario]) -> Table:
    table = Table("scenario", "parameters", "rules beside its own")
    for scenario in scenarios:
        said = ", ".join(f"{name} = {value}" for name, value in scenario.parameters.items())
        table.add_row(scenario.name, said, ", ".join(scenario.rules))
    return table


def _moment(ms: int | None) -> str:
    return "" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
