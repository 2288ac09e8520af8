"""``nearline user`` with a real broker and store: what it sends, what it finds, and how long data remains."""

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from nearline.adapters.kafka.admin import Topics
from nearline.adapters.kafka.producer import Producer
from nearline.adapters.kafka.table_reader import TableReader
from nearline.adapters.lmdb import LmdbStore
from nearline.cli.app import app
from nearline.erasure import retention_of
from nearline.events import Event, encode_event
from nearline.exposures import Exposure, encode_exposure
from nearline.profiles import Profile, encode_profile
from nearline.sequences import UserSequence, encode_sequence, erased_sequence
from nearline.settings import Settings, load_settings
from nearline.topics import CLICKS, EXPOSURES, PARTITIONS, USER_SEQUENCES, USERS, all_topics
from nearline.user_commands import Erase, Merge, decode_entry, encode_command
from nearline.user_documents import UserDocument, encode_user_document
from tests.support.other_producers import send_elsewhere

pytestmark = pytest.mark.anyio
DAY = 24 * 3600 * 1000
NOW_MS = 1_790_000_000_000  # before now: the log judges by its own clock
NONE = np.zeros(0, np.uint64)


@pytest.fixture
async def settings(broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The topics, and an empty store in a data folder of this test's own."""
    monkeypatch.setenv("NEARLINE_KAFKA", broker)
    monkeypatch.setenv("NEARLINE_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    settings = load_settings()
    topics = Topics(broker)
    topics.ensure(all_topics(settings.embedding_space))
    topics.close()
    await store(settings)
    return settings


async def typed(*words: str) -> Result:
    """What a command prints, and how it ends; its error is raised."""
    result = await asyncio.to_thread(CliRunner().invoke, app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


async def append(settings: Settings, topic: str, *messages: tuple[str, bytes | None]) -> None:
    async with Producer(settings.brokers) as producer:
        await producer.send_all(topic, [(key.encode(), value) for key, value in messages])


async def store(settings: Settings, **documents: UserDocument) -> None:
    """Write *documents* as user_tower does."""
    space = settings.embedding_space
    writer = LmdbStore(settings.data / "store", space, ttl_ms=settings.history_ttl_ms, writer=True)
    await writer.open()
    await writer.put_many_if_newer({user_id: encode_user_document(one, space) for user_id, one in documents.items()})
    await writer.close()


def document(version: int) -> UserDocument:
    vector, seen = np.full(64, 0.125, np.float32), np.array([3], np.uint64)
    return UserDocument(vector, version, version, "e-1", version, version, seen, NONE, NONE, version)


def marker(version: int) -> UserDocument:
    return UserDocument(None, version, version, "", 0, version, NONE, NONE, NONE, version, erased=True)


def click(user_id: str, event_id: str) -> tuple[str, bytes]:
    return user_id, encode_event(Event(event_id, user_id, "lamp", "click", NOW_MS))


def rows(output: str) -> dict[str, str]:
    """The lines of the printed tables by their first column."""
    cells = [re.split(r"\s*│\s*", line.strip("│ ")) for line in output.splitlines() if "│" in line]
    return {first: " | ".join(others) for first, *others in cells}


async def known(settings: Settings, user_id: str) -> None:
    """A user of whom every part knows something."""
    await append(settings, CLICKS, click(user_id, "e-0"), click(user_id, "e-1"))
    await append(settings, USERS, (user_id, encode_profile(Profile("GB", interests=("tea",)))))
    sequence = UserSequence(user_id, NOW_MS, ["lamp"], [NOW_MS], ["click"], [1.0], ["e-1"])
    await append(settings, USER_SEQUENCES, (user_id, encode_sequence(sequence)))
    shown = [
        Exposure(f"r-{who}", who, NOW_MS, 1, ["lamp"], ["personal"], [1.0]) for who in (user_id, "another", user_id)
    ]
    await append(settings, EXPOSURES, ("", b"\n".join(map(encode_exposure, shown))))
    await store(settings, **{user_id: document(NOW_MS)})


async def test_user_show_prints_profile_events_and_vector(settings: Settings) -> None:
    await known(settings, "ü/shown")
    shown = (await typed("user", "show", "ü/shown")).output
    for words in ("'country': 'GB'", "the last 1 events", "2 events", "a vector of version", "lamp", "e-1"):
        assert words in shown
    assert "profile: none" in (await typed("user", "show", "nobody")).output


async def test_to_forget_sends_the_command_and_takes_the_profile(settings: Settings) -> None:
    await known(settings, "u-sent")
    send_elsewhere(settings.kafka, USERS, [(b"u-sent", encode_profile(Profile("FR")))])  # by another partitioner
    assert (await typed("user", "forget", "u-sent")).exit_code == 0
    entries = [r for r in await everything(settings, CLICKS) if r.id == "u-sent"]
    last = decode_entry(entries[-1].value, append_ms=entries[-1].append_ms)
    assert isinstance(last, Erase)
    assert last.user_id == "u-sent"
    told = [r for r in await everything(settings, USERS) if r.id == "u-sent"]
    assert len({r.partition for r in told if r.value}) == 2
    assert {r.partition: r.value for r in told} == dict.fromkeys(range(PARTITIONS)), "it is deleted in every partition"


async def everything(settings: Settings, topic: str) -> list:  # type: ignore[type-arg]
    records = []
    async with TableReader(settings.brokers, topic) as reader:
        while not reader.caught_up:
            records += await reader.poll()
    return records


async def test_user_check_reports_data_in_use_until_the_erasure_arrives(settings: Settings) -> None:
    await known(settings, "u-checked")
    before = await typed("user", "forget", "u-checked", "--check")
    assert before.exit_code == 1
    assert "not erased" in before.output
    assert "a profile" in rows(before.output)["profile (users)"]
    ours = [record for record in await everything(settings, CLICKS) if record.id == "u-checked"]
    assert len(ours) == 2, "a check sends nothing"

    await typed("user", "forget", "u-checked")
    amid = await typed("user", "forget", "u-checked", "--check")
    assert amid.exit_code == 1
    assert "not erased yet" in rows(amid.output)["history (user-sequences)"]
    assert "not erased yet" in rows(amid.output)["document of space 1 (store)"]

    version = NOW_MS + 5
    erased = [r.append_ms for r in await everything(settings, CLICKS) if r.id == "u-checked"][-1]
    version = max(version, erased)
    await append(settings, USER_SEQUENCES, ("u-checked", encode_sequence(erased_sequence("u-checked", version))))
    await store(settings, **{"u-checked": marker(version)})
    after = await typed("user", "forget", "u-checked", "--check")
    found = rows(after.output)
    assert after.exit_code == 0, after.output
    for where in ("profile (users)", "history (user-sequences)", "document of space 1 (store)"):
        assert "only the mark" in found[where]
    assert "2 records" in found[CLICKS]
    assert "2 answers" in found[EXPOSURES]
    assert "1 older values" in found["users, before compaction"]
    for where in (CLICKS, EXPOSURES, "users, before compaction", "page tokens", "Flink's state"):
        assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d", found[where]), where
    assert {"trained models", "traces", "logs of the parts"} <= found.keys()


async def test_a_session_that_became_the_user_is_checked_too(settings: Settings) -> None:
    merge = Merge("c", "s-1", "u-merged", NOW_MS)
    await append(settings, CLICKS, click("s-1", "e-9"), ("s-1", encode_command(merge)))
    checked = (await typed("user", "forget", "u-merged", "--check")).output
    assert "session 's-1', now 'u-merged'" in checked
    assert "sessions: s-1" in (await typed("user", "show", "u-merged")).output


def test_every_topic_of_users_has_an_end(broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the settings that a broker was given and says it has: a month for events, two days for what was replaced."""
    monkeypatch.setenv("NEARLINE_KAFKA", broker)
    settings = load_settings()
    topics = Topics(broker)
    try:
        names = [topic.name for topic in all_topics(settings.embedding_space)]
        topics.ensure(all_topics(settings.embedding_space))
        limits = {name: retention_of(config) for name, config in topics.settings_of(names).items()}
    finally:
        topics.close()
    for name in (CLICKS, EXPOSURES, "clicks-dlq", "user-sequences-dlq"):
        assert (limits[name].deleted_ms or 2**62) < 31.1 * DAY, name
    for name in (USERS, USER_SEQUENCES, "user-seen"):
        assert (limits[name].superseded_ms or 2**62) < 2.1 * DAY, name
    assert (limits["user-updates.1"].deleted_ms or 2**62) < DAY
