"""``nearline dlq``: show refused records with their reasons, and send them again."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.table import Table

from nearline.adapters.kafka.admin import Topics
from nearline.adapters.kafka.producer import Producer
from nearline.adapters.kafka.table_reader import TableReader
from nearline.cli.console import console
from nearline.dead_letters import DeadLetter, decode_dead_letter
from nearline.errors import BadInput
from nearline.log import Appended
from nearline.settings import Settings, load_settings
from nearline.topics import CLICKS_DLQ, ITEMS_DLQ, USER_SEQUENCES_DLQ

QUEUES = (CLICKS_DLQ, ITEMS_DLQ, USER_SEQUENCES_DLQ)

app = typer.Typer(no_args_is_help=True, help="Dead letters: refused input, with its bytes and the reason.")
Queue = Annotated[str, typer.Option("--queue", help=f"One of {', '.join(QUEUES)}; all if not given.")]


@app.command("list")
def list_letters(queue: Queue = "") -> None:
    """Count the dead letters of each queue by reason."""
    table = Table("queue", "reason", "letters", "last")
    found = asyncio.run(_read(load_settings(), _chosen(queue)))
    counts = Counter((name, letter.reason) for name, _, letter in found)
    last = {(name, letter.reason): (offset, letter) for name, offset, letter in found}
    for (name, reason), count in sorted(counts.items()):
        offset, letter = last[name, reason]
        table.add_row(name, reason, f"{count:,}", f"{offset}: {letter.detail[:80]}")
    console.print(table if counts else "no dead letters")


@app.command()
def show(queue: str, offset: int) -> None:
    """Show one dead letter: its origin, the reason, and its content."""
    letter = _one(queue, offset)
    console.print(f"{letter.topic}[{letter.partition}]@{letter.offset}, appended at {letter.append_ms} ms")
    console.print(f"{letter.reason}: {letter.detail}")
    console.print(f"key:   {letter.key!r}")
    console.print(f"value: {letter.value!r}")


@app.command()
def replay(queue: str, offset: int) -> None:
    """Append a dead letter's bytes to its topic again, under its key, once the cause of the refusal is fixed."""
    letter = _one(queue, offset)
    if letter.key is None:
        raise BadInput("no_key", "the record had no key and cannot be sent again as it is; send a new one with a key")
    key = letter.key

    async def send() -> list[Appended]:
        async with Producer(load_settings().brokers) as producer:
            return await producer.send_all(letter.topic, [(key, letter.value)])

    console.print(f"sent again to {letter.topic} at offset {asyncio.run(send())[0].offset}")


def _one(queue: str, offset: int) -> DeadLetter:
    for _, at, letter in asyncio.run(_read(load_settings(), _chosen(queue))):
        if at == offset:
            return letter
    raise BadInput("not_found", f"{queue} has no dead letter at offset {offset}; see `nearline dlq list`")


def _chosen(queue: str) -> tuple[str, ...]:
    if queue and queue not in QUEUES:
        raise BadInput("unknown_queue", f"queue must be one of {', '.join(QUEUES)}, came {queue!r}")
    return (queue,) if queue else QUEUES


async def _read(settings: Settings, queues: tuple[str, ...]) -> list[tuple[str, int, DeadLetter]]:
    Topics(settings.brokers).close()  # fails at once if the broker is down
    return [row for queue in queues for row in [*(await _read_queue(settings, queue))]]


async def _read_queue(settings: Settings, queue: str) -> Iterator[tuple[str, int, DeadLetter]]:
    rows = []
    async with TableReader(settings.brokers, queue) as reader:
        while not reader.caught_up:
            rows += [(queue, r.offset, decode_dead_letter(r.value)) for r in await reader.poll() if r.value]
    return iter(rows)
