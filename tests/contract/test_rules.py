"""Rules and exposures through a real broker: rules put by the command line apply, exposures of answers arrive."""

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from nearline.adapters.kafka.admin import Topics
from nearline.adapters.kafka.producer import Producer
from nearline.adapters.kafka.table_reader import TableReader, newest_of
from nearline.cli.app import app
from nearline.exposures import Exposure, decode_exposures
from nearline.followers import Follower
from nearline.process import until
from nearline.space import Space
from nearline.topics import EXPOSURES, RULES, all_topics
from services.retrieval.exposure_log import ExposureLog, PendingExposure
from services.retrieval.items.interface import Candidates
from services.retrieval.merchandising.rule_table import RuleTable
from services.retrieval.result import Group, Source
from tests.support.provenances import provenance

DEADLINE_S = 30.0
NOW_MS = 1_732_100_000_000
FILE = """
[[rules]]
rule_id = "no-wine"
action = "block"
filter = 'category = "wine"'

[[rules]]
rule_id = "gifts"
action = "pin"
position = 2
items = ["g1", "g2"]
scenario = "home"

[[scenarios]]
scenario = "home"
parameters = { k = 12 }
"""


@pytest.fixture
def system(broker: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A broker with every topic, for the command line to find."""
    for name in [name for name in os.environ if name.startswith("NEARLINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NEARLINE_KAFKA", broker)
    monkeypatch.setenv("NEARLINE_DATA", str(tmp_path))
    topics = Topics(broker)
    topics.ensure(all_topics(Space(1, 64)))
    topics.close()
    return broker


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_rules_are_put_listed_followed_and_deleted(system: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(FILE)

    async def follow() -> None:
        book = RuleTable()
        follower = Follower(RULES, lambda: TableReader(system, RULES), book.apply)
        running = asyncio.create_task(follower.run())
        try:
            await asyncio.wait_for(until(lambda: follower.caught_up), DEADLINE_S)
            output = await asyncio.to_thread(run, "rules", "put", str(file))
            assert output.splitlines() == ["put rule no-wine", "put rule gifts", "put scenario:home"]
            await asyncio.wait_for(until(lambda: "home" in book), DEADLINE_S)
            standing = book.rule_set("home", NOW_MS)
            assert [rule.rule_id for rule in (*standing.blocks, *standing.pins)] == ["no-wine", "gifts"]
            assert standing.scenario is not None
            assert standing.scenario.parameters == {"k": 12}
            listed = await asyncio.to_thread(run, "rules", "list")
            assert all(word in listed for word in ("no-wine", "gifts", "pin at 2", "home", "k = 12"))
            await asyncio.to_thread(run, "rules", "delete", "no-wine")
            await asyncio.to_thread(run, "rules", "delete", "scenario:home")
            await asyncio.wait_for(until(lambda: "home" not in book), DEADLINE_S)
            assert book.rule_set(None, NOW_MS).is_empty
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(follow())
    assert '"rule_id":"gifts"' in run("rules", "list", "--json")
    run("rules", "delete", "gifts")
    assert "no rules" in run("rules", "list")


def test_exposures_of_answers_get_into_the_log(system: str) -> None:
    async def show() -> list[tuple[str, str]]:
        async with Producer(system) as producer, TableReader(system, EXPOSURES) as reader:
            exposures = ExposureLog(1.0, producer.send_all)
            items = Candidates(["a", "b"], [b"", b""], np.array([0.5, 0.25], np.float32))
            for nth in range(120):
                exposures.note(
                    PendingExposure(
                        provenance(f"in-the-log-{nth}", f"u-{nth % 7}", Space(1, 64)),
                        NOW_MS,
                        [Group(Source.PERSONAL, items)],
                    )
                )
            await exposures.drain(DEADLINE_S)
            found: list[Exposure] = []
            async with asyncio.timeout(DEADLINE_S):
                while len(found) < 120:
                    ours = [record for record in await reader.poll() if b'"in-the-log-' in (record.value or b"")]
                    found += [exposure for record in ours for exposure in decode_exposures(record.value)]
            assert all((e.items, e.scores) == (["a", "b"], [0.5, 0.25]) for e in found)
            return [(exposure.request_id, exposure.user_id) for exposure in found]

    found = asyncio.run(show())
    assert sorted(found) == sorted((f"in-the-log-{nth}", f"u-{nth % 7}") for nth in range(120))
    report = run("report", "--days", "100000")
    assert "answers and" in report  # of whatever tests used this broker before
    assert "0 events name an answer" in report


def test_the_newest_record_of_a_key_is_found_in_its_partition(system: str) -> None:
    async def look() -> list[bytes | None]:
        async with Producer(system) as producer:
            keys = [f"k-{nth}".encode() for nth in range(50)]
            await producer.send_all("user-sequences", [(key, b"old") for key in keys])
            await producer.send_all("user-sequences", [(key, key + b"!") for key in keys])
        found = [await newest_of(system, "user-sequences", key) for key in (b"k-3", b"k-17", b"k-49", b"nobody")]
        return [None if record is None else record.value for record in found]

    assert asyncio.run(look()) == [b"k-3!", b"k-17!", b"k-49!", None]
