"""``nearline keys``: the keys of the HTTP APIs. Uses the log directly, so no service has to be up."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from nearline.adapters.kafka.producer import Producer
from nearline.adapters.kafka.table_reader import TableReader
from nearline.adapters.tokens import public_key_in
from nearline.cli.console import console
from nearline.errors import BadInput, Misconfigured
from nearline.key_file import key_file, write_key
from nearline.key_ring import KeyRing
from nearline.keys import EVERYTHING, Key, Permission, encode_key, id_in, is_proven, make_key, revoked
from nearline.settings import Settings, load_settings
from nearline.topics import API_KEYS

app = typer.Typer(no_args_is_help=True, help="Create, list and revoke the keys of the HTTP APIs.")


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Who uses the key, for `nearline keys list`.")],
    scope: Annotated[list[str], typer.Option(help=f"{', '.join(Permission)}; repeatable.")],
    origin: Annotated[list[str] | None, typer.Option(help="A page that may use the key, https://shop.example.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=0, help="Requests and events per minute and address; 0: no limit. Default for events only: 600."
        ),
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="PEM file of the public key that verifies user tokens.")
    ] = None,
) -> None:
    """Make a key and print it; it is stored nowhere and cannot be shown again."""
    signer = public_key_in(_bytes_of(public_key)) if public_key else None
    secret, key = make_key(name, scope, now_ms=_now_ms(), origins=origin or (), per_minute=limit, token_key=signer)
    asyncio.run(_write(load_settings(), key))
    console.print(secret)


@app.command("list")
def list_keys() -> None:
    """Show every key, without its secret."""
    table = Table(Column("id", min_width=12), "name", "scopes", "created", Column("limits", overflow="fold"), "state")
    for key in asyncio.run(_ring(load_settings())).all():
        state = f"revoked {_day(key.revoked_ms)}" if key.revoked_ms is not None else "valid"
        table.add_row(key.id, key.name, ", ".join(sorted(key.scopes)), _day(key.created_ms), _limits(key), state)
    console.print(table if table.rows else "no keys; `nearline keys create` makes one")


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="As `nearline keys list` shows it.")]) -> None:
    """Revoke a key, and all tokens signed for it, for ever; it takes effect within a second."""
    settings = load_settings()
    key = asyncio.run(_ring(settings)).get(key_id)
    if key is None:
        shown = "a key instead of its id" if id_in(key_id) else repr(key_id[:40])
        raise BadInput("not_found", f"there is no key with that id, came {shown}; see `nearline keys list`")
    asyncio.run(_write(settings, revoked(key, now_ms=_now_ms())))
    console.print(f"revoked {key.id} ({key.name})")


@app.command()
def ensure() -> None:
    """Make sure that the data folder holds a valid key with all scopes for this machine's own programs."""
    settings = load_settings()
    file = key_file(settings)
    kept = _kept(file)
    known = asyncio.run(_ring(settings)).get(id_in(kept) or "")
    if known is not None and is_proven(known, kept) and known.revoked_ms is None:
        console.print(f"the key in {file} is valid")
        return
    secret, key = make_key("this machine's own", EVERYTHING, now_ms=_now_ms())
    asyncio.run(_write(settings, key))
    write_key(file, secret)
    console.print(f"wrote a new key of all scopes to {file}")


def _kept(file: Path) -> str:
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        return ""


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Misconfigured(f"cannot read {file}: {error.strerror}") from None


async def _ring(settings: Settings) -> KeyRing:
    """All keys in the log."""
    ring = KeyRing()
    async with TableReader(settings.brokers, API_KEYS) as reader:
        while not reader.caught_up:
            for record in await reader.poll():
                ring.apply(record)
    return ring


async def _write(settings: Settings, key: Key) -> None:
    async with Producer(settings.brokers) as producer:
        await producer.send_all(API_KEYS, [(key.id.encode(), encode_key(key))])


def _limits(key: Key) -> str:
    parts = [f"{key.per_minute}/min" if key.per_minute else "", *sorted(key.origins)]
    return " ".join([*filter(None, parts), *(["signs tokens"] if key.token_key else [])])


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
