"""``nearline import``: send a folder of tables, or an export of Gorse, through the HTTP API."""

import asyncio
import json
import os
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, cast

import httpx
import orjson
import typer

from nearline import gorse
from nearline.adapters.gorse_dump import read_dump
from nearline.cli.console import bar, console, progress, say
from nearline.cli.exporting import said
from nearline.cli.folders import FolderReport, UploadPart, parts_of
from nearline.errors import BadInput, Misconfigured, NearlineError, Unavailable
from nearline.key_file import own_key
from nearline.settings import load_settings
from nearline_client import AsyncClient, NotLetIn, Profile, Refused, Retries
from nearline_client import NearlineError as ClientError
from nearline_client.calls import batches

_UNDER_WAY = 4  # concurrent requests: ingest appends waiting bodies to the log together
_PATIENT = Retries(attempts=10, total_s=120)
_SHOWN = 5
_BAD_LINE = " bad line"

app = typer.Typer(no_args_is_help=True, help="Import events, items and users; importing twice changes nothing.")


class Unit(StrEnum):
    """The unit of numbers in a file's column ``time``."""

    S = "s"
    MS = "ms"
    US = "us"
    NS = "ns"


@dataclass
class ImportOutcome:
    """The result of an import: how many rows are in the log, and why others are not, with examples."""

    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many rows have a result."""
        return self.accepted + self.refused.total()

    def note(self, bodies: Sequence[gorse.Body], results: Sequence[Mapping[str, Any]]) -> None:
        """Count the *results* of *bodies*."""
        for body, result in zip(bodies, results, strict=True):
            if result["status"] == "accepted":
                self.accepted += 1
            else:
                self.refuse(body, result.get("field", ""), result.get("reason", ""), result.get("problem", ""))

    def refuse(self, body: Any, name: str, reason: str, problem: str) -> None:
        """Count a body that can never be accepted."""
        self.refused[f"refused: {name} {reason}".replace("  ", " ")] += 1
        if len(self.shown) < _SHOWN:
            self.shown.append(f"{problem} in {orjson.dumps(body, default=str).decode():.200}")


@app.command("folder")
@app.command("parquet", hidden=True)  # the old name, from when it read Parquet only
def from_folder(
    folder: Annotated[Path, typer.Argument(help="A folder with interactions, items or users as .parquet or .csv.")],
    dataset: Annotated[Path | None, typer.Option(help="A dataset.toml outside FOLDER.")] = None,
    time_unit: Annotated[Unit | None, typer.Option(help="Unit of numbers in the column time; default ms.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing: print each body as a JSON line, and the report on stderr.")
    ] = False,
) -> None:
    """Import FOLDER, as `nearline export` writes it or `make train DATA=` reads it: items first, then users, events.

    Its dataset.toml names files and columns that differ from ours. Rows that are lost or changed are counted with the
    first places, as training counts them; the API checks the others. If any is lost or refused, the exit status is 1.
    """
    reports: list[FolderReport] = []
    parts = parts_of(folder, dataset, time_unit, reports)
    for report in reports:
        for line in report.lines():
            say(line, on_stderr=dry_run)
    lost = any(report.lost for report in reports)
    if dry_run:
        for sent in bodies_as_lines(parts):
            say(sent)
        raise typer.Exit(lost)
    _finish(asyncio.run(_bring_in(parts)), lost=lost)


@app.command("gorse")
def from_gorse(
    source: Annotated[
        str, typer.Argument(help="http://… of Gorse's master, a file of its /api/dump, or a folder of its JSON lines.")
    ],
    type: Annotated[
        list[str] | None,
        typer.Option(help="Map a feedback type to one of ours: watch=view, or rating>=4=like. Repeatable."),
    ] = None,
    title: Annotated[
        str, typer.Option(help="The label with an item's title; default: title, name, or the comment.")
    ] = "",
    key_file: Annotated[
        Path | None,
        typer.Option(help="A file with Gorse's admin_api_key, if the source is an address; default: GORSE_API_KEY."),
    ] = None,
) -> None:
    """Import users, items and feedback of Gorse; whatever is left out or changed is counted with its reason.

    A folder holds users.jsonl, items.jsonl and feedback.jsonl, as GET /api/bulk/… returns them.
    """
    # Not an argument: those are in the shell's history and in the list of processes.
    key = _key_in(key_file) if key_file is not None else os.environ.get("GORSE_API_KEY", "")
    conversion = gorse.Conversion(gorse.type_rules(type or []), title)
    with tempfile.TemporaryDirectory(prefix="nearline-gorse-") as folder:
        path = _fetched(source, key, Path(folder)) if source.startswith(("http://", "https://")) else Path(source)
        read: Counter[str] = Counter()
        bodies = _converted(_records(path), conversion, read)
        outcomes = asyncio.run(_bring_in_mixed(bodies))
    console.print("read: " + said({f"{what} of Gorse": count for what, count in read.items()}))
    for what, count in sorted(conversion.counted.items(), key=lambda each: -each[1]):
        console.print(f"{count:>9,} {what}")
    _finish(outcomes)


def _key_in(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"cannot read a key in {file}: {error!r:.100}") from None


# --- Gorse's export --------------------------------------------------------------------------------------------------


def _fetched(address: str, key: str, folder: Path) -> Path:
    """Download the dump of the Gorse at *address* into *folder*, so that it need not wait for our log."""
    file = folder / "gorse.dump"
    try:
        with (
            file.open("wb") as opened,
            httpx.stream(
                "GET", address.rstrip("/") + "/api/dump", headers={"X-Api-Key": key} if key else {}, timeout=60
            ) as response,
        ):
            if response.status_code != 200:
                hint = "; give its admin_api_key (--key-file, GORSE_API_KEY)" if response.status_code == 401 else ""
                raise Unavailable(f"Gorse at {address} answered {response.status_code} to /api/dump{hint}")
            for piece in response.iter_bytes():
                opened.write(piece)
    except httpx.HTTPError as error:
        raise Unavailable(f"Gorse at {address}: {error!r:.120}") from None
    return file


def _records(path: Path) -> Iterator[tuple[str, gorse.Body]]:
    """Yield the kind and fields of each of Gorse's records in *path*, a dump or a folder of JSON lines."""
    if path.is_dir():
        names = [name for name in ("users", "items", "feedback") if (path / f"{name}.jsonl").is_file()]
        if not names:
            raise Misconfigured(f"nothing of Gorse in {path}: expected users.jsonl, items.jsonl or feedback.jsonl")
        for name in names:
            yield from ((name, body) for body in _lines(path / f"{name}.jsonl"))
    elif path.is_file():
        with path.open("rb") as opened:
            yield from read_dump(opened)
    else:
        raise Misconfigured(f"nothing at {path}: expected a dump of Gorse, a folder of its JSON lines, or its address")


def _lines(file: Path) -> Iterator[gorse.Body]:
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            if line.strip():
                try:
                    yield dict(orjson.loads(line))
                except (orjson.JSONDecodeError, TypeError, ValueError) as error:
                    problem = f"{file}:{number} is not a JSON object: {error}"
                    if number == 1:  # then it is no file of Gorse at all
                        raise BadInput("bad_line", problem) from None
                    yield {_BAD_LINE: problem}


def _converted(
    records: Iterable[tuple[str, gorse.Body]], conversion: gorse.Conversion, read: Counter[str]
) -> Iterator[tuple[str, Any]]:
    """Yield where each record goes (users, items, events) and its body; *read* counts the records."""
    for kind, record in records:
        if _BAD_LINE in record:
            read["lines left out"] += 1
            say(record[_BAD_LINE], on_stderr=True)
            continue
        read[kind] += 1
        try:
            if kind == "items":
                yield "items", conversion.item(record)
            elif kind == "users":
                user = conversion.user(record)
                yield from [] if user is None else [("users", user)]
            else:
                event = conversion.event(record)
                yield from [] if event is None else [("events", event)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput("bad_record", f"{kind} of Gorse, {orjson.dumps(record)[:200]!r}: {error!r}") from None


# --- through the API -------------------------------------------------------------------------------------------------


async def _bring_in(parts: Sequence[tuple[str, Iterable[Any], int]]) -> dict[str, ImportOutcome]:
    """Send *parts* (what, bodies, how many) one after the other; return the outcome of each."""
    outcomes = {}
    async with _client() as client:
        with progress() as bars:
            for what, bodies, total in parts:
                outcomes[what] = await deliver(client, what, bodies, bar(bars, f"importing {what}", total))
    return outcomes


async def _bring_in_mixed(bodies: Iterable[tuple[str, Any]]) -> dict[str, ImportOutcome]:
    """Send *bodies*, each with its kind, in runs of one kind; return the outcome of each kind."""
    outcomes: dict[str, ImportOutcome] = {}
    async with _client() as client:
        with progress() as bars:
            shows = {what: bar(bars, f"importing {what}") for what in ("users", "items", "events")}
            for what, run in _runs(bodies):
                outcomes[what] = await deliver(client, what, run, shows[what], outcomes.get(what))
    return outcomes


def _runs(bodies: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Iterator[Any]]]:
    for what, run in groupby(bodies, key=itemgetter(0)):
        yield what, map(itemgetter(1), run)


async def deliver(
    client: AsyncClient,
    what: str,
    bodies: Iterable[Any],
    show: Callable[[int], object] = lambda count: None,
    outcome: ImportOutcome | None = None,
) -> ImportOutcome:
    """Send *bodies* (of events, items or users) with *client*, a few requests at a time, and count the results.

    The order in which they arrive does not matter, since each has its time or id.
    """
    outcome = ImportOutcome() if outcome is None else outcome
    room = asyncio.Semaphore(_UNDER_WAY)
    sends: Mapping[str, Callable[[AsyncClient, Any, ImportOutcome], Awaitable[None]]] = {
        "events": _send_events,
        "items": _send_items,
        "users": _send_users,
    }

    async def send(batch: list[Any]) -> None:
        try:
            await sends[what](client, batch, outcome)
            show(outcome.count)
        finally:
            room.release()

    try:
        async with asyncio.TaskGroup() as tasks:
            for batch in batches(bodies):
                await room.acquire()
                tasks.create_task(send(batch))
    except* ClientError as group:
        raise _ours(group.exceptions[0], outcome.accepted) from None
    return outcome


async def _send_events(client: AsyncClient, batch: list[Any], outcome: ImportOutcome) -> None:
    outcome.note(batch, (await client.send_events(batch))["results"])


async def _send_items(client: AsyncClient, batch: list[Any], outcome: ImportOutcome) -> None:
    outcome.note(batch, (await client.put_items(batch))["results"])


async def _send_users(client: AsyncClient, batch: list[Any], outcome: ImportOutcome) -> None:
    for user_id, profile in batch:
        try:
            await client.put_user(user_id, cast("Profile", profile))
        except NotLetIn:
            raise
        except Refused as refused:
            outcome.refuse({"user_id": user_id, **profile}, refused.field, refused.reason, str(refused))
        else:
            outcome.accepted += 1


def _client() -> AsyncClient:
    settings = load_settings()
    return AsyncClient(key=own_key(settings), retrieval=settings.retrieval, ingest=settings.ingest, retries=_PATIENT)


def _ours(error: BaseException, accepted: int = 0) -> NearlineError:
    """The client's error as one of ours, to be printed as one line on stderr."""
    if isinstance(error, NotLetIn):
        return Misconfigured(f"{error}; `nearline keys ensure` makes a key, NEARLINE_KEY names another")
    return Unavailable(f"{error}; {accepted:,} rows are in the log: run the import again, they do not change")


def bodies_as_lines(parts: Iterable[UploadPart]) -> Iterator[str]:
    """What an import sends, a JSON object a line in ASCII: where it goes (items, users or events), and the body."""
    for what, bodies, _ in parts:
        for body in bodies:
            sent = {"user_id": body[0], **body[1]} if what == "users" else body
            yield json.dumps(orjson.loads(orjson.dumps({"to": what, "body": sent})))  # orjson prints no ASCII alone


def _finish(outcomes: Mapping[str, ImportOutcome], *, lost: bool = False) -> None:
    """Print the outcomes; exit with status 1 if anything was refused, or *lost* before it could be sent."""
    for what, outcome in outcomes.items():
        console.print(f"{what}: " + said({"in the log": outcome.accepted, **outcome.refused}))
        for example in outcome.shown:
            console.print(f"  {example}")
    if lost or any(outcome.refused for outcome in outcomes.values()):
        raise typer.Exit(1)
