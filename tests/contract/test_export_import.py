"""A log of a real broker goes into files and comes back through the real door as it was."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from local.broker import running_broker
from local.layout import ROOT
from local.ports import HOST, free_ports
from local.processes import wait_until
from local.system import http_ok
from nearline.adapters.kafka.producer import Producer
from nearline.cli import parquet
from nearline.cli.app import app
from nearline.cli.batch import known_users
from nearline.settings import load_settings
from nearline.topics import USER_SEQUENCES
from nearline_client import Client, Item, event

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A broker with every topic and a door before it, as the command line is told of them."""
    with running_broker(tmp_path_factory.mktemp("broker")) as broker:
        port = free_ports(1)[0]
        told = {
            "NEARLINE_KAFKA": broker.bootstrap,
            "NEARLINE_INGEST": f"http://{HOST}:{port}",
            "NEARLINE_INGEST_PORT": str(port),
            "NEARLINE_AUTH": "off",
            "NEARLINE_DATA": str(tmp_path_factory.mktemp("data")),
        }
        others = {name: value for name, value in os.environ.items() if not name.upper().startswith("NEARLINE_")}
        assert CliRunner().invoke(app, ["init"], env=told).exit_code == 0
        door = subprocess.Popen([sys.executable, "-m", "services.ingest"], cwd=ROOT, env={**others, **told})
        try:
            assert wait_until(http_ok(port, "/readyz"), DEADLINE_S)
            yield told
        finally:
            door.terminate()
            door.wait(20)


def run(environment: dict[str, str], *words: str) -> str:
    result = CliRunner().invoke(app, list(words), env=environment)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.output


def test_an_export_survives_import_and_a_second_export(environment: dict[str, str], tmp_path: Path) -> None:
    with Client(ingest=environment["NEARLINE_INGEST"]) as client:
        client.put_items({"item_id": f"i{n}", "title": f"Item {n}", "price": float(n)} for n in range(700))
        changed: Item = {"title": "Changed", "attributes": {"colour": "red"}}
        client.put_item("i1", changed)
        client.delete_item("i2")
        client.put_user("u1", {"country": "GB", "interests": ["tea"]})
        client.send_events(event(f"u{n % 50}", f"i{n}", "view", context={"device": "phone"}) for n in range(2_000))
        client.erase_user("u7")
    said = run(environment, "export", str(tmp_path / "first"))
    assert "1,960 events, 40 left out: to be forgotten, 1 commands obeyed" in said
    assert "699 items" in said
    items = pl.read_parquet(tmp_path / "first" / parquet.ITEMS)
    assert dict(items.filter(pl.col("item_id") == "i1").select("title", "colour").row(0, named=True)) == {
        "title": "Changed",
        "colour": "red",
    }

    said = run(environment, "import", "parquet", str(tmp_path / "first"))
    assert "items: 699 in the log" in said
    assert "users: 1 in the log" in said
    assert "events: 1,960 in the log" in said

    run(environment, "export", str(tmp_path / "second"), "--only", "events", "--only", "items")
    first, second = (pl.read_parquet(tmp_path / name / parquet.INTERACTIONS) for name in ("first", "second"))
    assert second.height == 2 * first.height, "the log has them twice, for the job to see that they are the same"
    assert second.unique("event_id").sort("event_id").equals(first.sort("event_id"))
    again = pl.read_parquet(tmp_path / "second" / parquet.ITEMS)
    assert again.sort("item_id").equals(items.sort("item_id"))
    assert not (tmp_path / "second" / parquet.USERS).exists()


def test_everybody_is_whoever_has_a_sequence_and_was_not_erased(environment: dict[str, str]) -> None:
    sequence = (ROOT / "tests" / "golden" / "sequence.v1.json").read_bytes()
    erased = (ROOT / "tests" / "golden" / "sequence_erased.v1.json").read_bytes()

    async def send() -> None:
        async with Producer(environment["NEARLINE_KAFKA"]) as producer:
            await producer.send_all(USER_SEQUENCES, [(b"u", sequence), (b"u", sequence), (b"gone", sequence)])
            await producer.send_all(USER_SEQUENCES, [(b"gone", erased)])

    asyncio.run(send())
    assert len(list(known_users(load_settings(environment)))) == 1
