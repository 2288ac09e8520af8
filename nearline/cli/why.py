"""``nearline why``: how much each of a user's events moved an item, or what keeps it out of the answer."""

import asyncio
from typing import Annotated, Any

import orjson
import typer
from rich.table import Table

from nearline.adapters.kafka.table_reader import newest_of
from nearline.cli.answers import ask
from nearline.cli.console import console
from nearline.settings import load_settings
from nearline.topics import USER_SEQUENCES

_PATIENCE_S = 30.0
_CAUSES = {
    "unknown_item": "retrieval has no such item; `nearline item put` adds one",
    "not_on_show": "the item is unavailable, deleted or without a vector yet",
    "blocked": "blocked by {rules}",
    "seen": "the user has seen it",
    "filtered": "it does not pass the filter",
}


def why(
    user_id: str,
    item_id: str,
    k: Annotated[int, typer.Option(min=1, max=500, help="The answer's size.")] = 20,
    wanted: Annotated[str | None, typer.Option("--filter", help="The answer's filter.")] = None,
    scenario: Annotated[str | None, typer.Option(help="The answer's scenario.")] = None,
    most: Annotated[int, typer.Option(min=1, help="How many events to show.")] = 10,
    json: Annotated[bool, typer.Option(help="Print the answer as JSON.")] = False,
) -> None:
    """Show why ITEM is or is not in the answer for USER, and which events moved it."""
    settings = load_settings()
    body: dict[str, Any] = {"user_id": user_id, "item_id": item_id, "k": k}
    body |= {name: value for name, value in (("filter", wanted), ("scenario", scenario)) if value is not None}
    sequence = asyncio.run(newest_of(settings.brokers, USER_SEQUENCES, user_id.encode()))
    if sequence is not None and sequence.value:
        body["sequence"] = orjson.loads(sequence.value)
    found = ask(settings, "POST", "/why", json=body, timeout_s=_PATIENCE_S)
    if json:
        console.say_json(found)
        return
    console.print(standing_of(found, k))
    if found["events"]:
        console.print(events_table(found["events"], most))
    elif found["untold"]:
        console.print(f"the events' effect is unknown: {found['untold']}")
    if found["is_current"] is False:
        console.print("the stored vector does not use the newest events yet; their effect is shown as if it did")


def standing_of(found: dict[str, Any], k: int) -> str:
    """The item's place and score, in a sentence."""
    score = "" if found["score"] is None else f", score {found['score']:.4f}"
    if found["place"] is not None:
        rules = f", moved by {', '.join(found['rules'])}" if found["rules"] else ""
        return f"{found['item_id']} is at place {found['place']} of {k}, from {found['source']}{score}{rules}"
    return f"{found['item_id']} is not among the {k}{score}: {cause_of(found['absent'])}"


def cause_of(absent: dict[str, Any]) -> str:
    """What keeps an item out, in words."""
    if absent["cause"] != "below":
        return _CAUSES[absent["cause"]].format(rules=", ".join(absent["rules"]))
    if absent["by"] is None:
        return "others are more popular or newer; there is no user vector to score by"
    if absent["by"] <= 0:
        return f"its score is {-absent['by']:.4f} above the last one's: diversity, a cap or a rule replaced it"
    return f"{absent['by']:.4f} below the last one's score, {absent['last_score']:.4f}"


def events_table(events: list[dict[str, Any]], most: int) -> Table:
    """Each event's effect on the score, largest first."""
    table = Table("moved it by", "event", "item", "type")
    for event in events[:most]:
        moved = "?" if event["moved"] is None else f"{event['moved']:+.4f}"
        table.add_row(moved, event["event_id"], event["item_id"], event["type"])
    return table
