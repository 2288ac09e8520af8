"""``nearline item``: change the catalogue."""

import asyncio
import sys
from typing import Annotated

import typer

from nearline.adapters.kafka.producer import Producer
from nearline.cli.console import console
from nearline.errors import BadInput
from nearline.ids import check_id
from nearline.items import PURGE, Item, decode_item, encode_item
from nearline.settings import load_settings
from nearline.topics import ITEMS, everywhere

app = typer.Typer(no_args_is_help=True, help="List, change and delete items.")


@app.command()
def put(
    item_id: str,
    title: Annotated[str, typer.Option(help="The item's title; required unless --json is given.")] = "",
    category: Annotated[str, typer.Option()] = "",
    description: Annotated[str, typer.Option()] = "",
    brand: Annotated[str, typer.Option()] = "",
    price: Annotated[float | None, typer.Option()] = None,
    available: Annotated[bool, typer.Option()] = True,
    json: Annotated[str, typer.Option(help="The whole item as JSON (version 1), or - to read it from stdin.")] = "",
) -> None:
    """Put ITEM_ID into the catalogue, or replace it as a whole."""
    check_id("item_id", item_id)
    if json:
        item = decode_item((sys.stdin.read() if json == "-" else json).encode())
    else:
        item = Item(title, description, category, "", price, brand, None, available)
    raw = encode_item(item)
    decode_item(raw)  # an invalid item is refused here, with item_tower's message
    version = _append(item_id, raw)
    console.print(f"listed {item_id} as version {version}")


@app.command()
def delete(
    item_id: str,
    purge: Annotated[bool, typer.Option(help="Also delete its vector, which histories may otherwise use.")] = False,
) -> None:
    """Remove ITEM_ID from all answers."""
    check_id("item_id", item_id)
    version = _append(item_id, None, purge=purge)
    console.print(f"deleted {item_id} as version {version}" + (" and purged it" if purge else ""))


def _append(item_id: str, value: bytes | None, *, purge: bool = False) -> int:
    async def send() -> int:
        settings = load_settings()
        async with Producer(settings.brokers) as producer:
            key = item_id.encode()
            messages = [(key, value)] if value is not None else everywhere(key, settings.partitions)
            places = await producer.send_all(ITEMS, messages, [PURGE] if purge else ())
            return max(place.version for place in places)

    try:
        return asyncio.run(send())
    except BadInput as error:
        raise BadInput(error.reason, f"item {item_id!r}: {error}") from None
