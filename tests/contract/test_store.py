"""Every store keeps the promises of ``nearline/store.py``: memory, LMDB, and the Couchbase SDK with a mock server.

CouchbaseMock knows data and expiry; a real Couchbase Server (durability, wrong passwords, several nodes) was not run.
"""

import asyncio
import gc
import json
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from local.downloads import COUCHBASE_MOCK_FILE
from local.layout import ROOT, java
from local.ports import free_ports
from local.processes import wait_until
from nearline.adapters.couchbase import CouchbaseStore
from nearline.adapters.lmdb import LmdbStore
from nearline.adapters.memory import MemoryStore
from nearline.adapters.stores import store_for
from nearline.errors import Misconfigured, Unavailable
from nearline.seen import FOREVER_S, SeenSnapshot, encode_seen, no_seen
from nearline.space import Space
from nearline.store import UserStore
from nearline.user_documents import UserDocument, decode_user_document, document_order, encode_user_document

SPACE = Space(1, 8)
DAY_MS = 24 * 3600 * 1000

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that the tests move; the mock server's is moved with it."""

    def __init__(self) -> None:
        self.ahead_ms = 0
        self.on_move: Callable[[int], object] = lambda seconds: None

    def __call__(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms

    def move(self, seconds: int) -> None:
        self.ahead_ms += seconds * 1000
        self.on_move(seconds)


class CouchbaseMock:
    """The mock server, its REST port and the port that the SDK wants."""

    def __init__(self, folder: Path) -> None:
        self.rest = free_ports(1)[0]
        classpath = COUCHBASE_MOCK_FILE.read_text().strip()
        self._output = (folder / "couchbase-mock.log").open("wb")
        self.process = subprocess.Popen(
            [
                *(str(java()), "-Xmx128m", "-cp", classpath, "com.couchbase.mock.CouchbaseMock"),
                *("--host", "127.0.0.1", "--port", str(self.rest), "--nodes", "1", "--replicas", "0"),
                *("--vbuckets", "64", "--buckets", "default:", "--cccp"),
            ],
            stdout=self._output,
            stderr=self._output,
        )
        self.kv = 0
        assert wait_until(self._ready, 30), "the mock Couchbase server did not start"

    def _ready(self) -> bool:
        try:
            self.kv = int(self.control("get_mcports?bucket=default")["payload"][0])
        except (OSError, ValueError):
            return False
        return True

    def control(self, path: str) -> dict:  # type: ignore[type-arg]
        with urllib.request.urlopen(f"http://127.0.0.1:{self.rest}/mock/{path}", timeout=5) as answer:
            return dict(json.loads(answer.read()))

    @property
    def url(self) -> str:
        return f"couchbase://Administrator:password@127.0.0.1:{self.kv}/default"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._output.close()


@pytest.fixture(scope="module")
def couchbase_mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CouchbaseMock]:
    mock = CouchbaseMock(tmp_path_factory.mktemp("couchbase"))
    yield mock
    mock.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "lmdb", "couchbase"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[UserStore]:
    made: UserStore
    if request.param == "memory":
        made = MemoryStore(ttl_ms=DAY_MS, now_ms=clock)
    elif request.param == "lmdb":
        made = LmdbStore(tmp_path / "store", SPACE, ttl_ms=DAY_MS, writer=True, now_ms=clock)
    else:
        mock = request.getfixturevalue("couchbase_mock")
        clock.on_move = lambda seconds: mock.control(f"time_travel?Offset={seconds}")
        made = CouchbaseStore(mock.url, SPACE, ttl_ms=DAY_MS, read_ms=1_000)
    await made.open()
    yield made
    await made.close()


def user() -> str:
    return f"u-{uuid.uuid4().hex[:8]}"


NONE = np.zeros(0, np.uint64)


def document(history: int, vector: int | None = None, seen: int = 0, erased: int = 0) -> bytes:
    vector = history if vector is None else vector
    values = np.full(8, history, np.float32)
    made = UserDocument(values, vector, history, f"e{history}", 1, 2, NONE, NONE, NONE, seen_version=seen)
    return encode_user_document(replace(made, erased_version=erased), SPACE)


def snapshot(version: int) -> bytes:
    hashes = np.array([1, version + 1], np.uint64)
    return encode_seen(SeenSnapshot(version, hashes, np.full(2, FOREVER_S, np.uint32), np.zeros(2, np.bool_)))


def marker(version: int) -> bytes:
    """What is stored of a user who was erased at *version*."""
    return encode_user_document(
        UserDocument(None, version, version, "", 0, 2, NONE, NONE, NONE, seen_version=version, erased=True), SPACE
    )


async def test_a_written_document_is_read_back(store: UserStore) -> None:
    name = user()
    assert await store.put_many_if_newer({name: document(3)}) == 1
    assert await store.get(name) == document(3)


async def test_an_unknown_user_is_none_and_not_an_error(store: UserStore) -> None:
    assert await store.get(user()) is None


async def test_many_are_read_in_order_with_none_for_the_missing(store: UserStore) -> None:
    names = [user() for _ in range(70)]
    await store.put_many_if_newer({name: document(i + 1) for i, name in enumerate(names) if i % 3})
    expected = [document(i + 1) if i % 3 else None for i in range(70)]
    assert await store.get_many(names) == expected


async def test_an_older_document_never_overwrites_a_newer_one(store: UserStore) -> None:
    name = user()
    await store.put_many_if_newer({name: document(9)})
    assert await store.put_many_if_newer({name: document(8)}) == 0
    assert await store.get(name) == document(9)


async def test_an_equal_version_is_written_again_and_a_lesser_vector_is_not(store: UserStore) -> None:
    name = user()
    await store.put_many_if_newer({name: document(9, vector=8)})
    assert await store.put_many_if_newer({name: document(9)}) == 1
    assert await store.put_many_if_newer({name: document(9, vector=8)}) == 0
    assert await store.get(name) == document(9)


async def test_a_write_that_is_newer_in_one_thing_and_older_in_another_is_refused(store: UserStore) -> None:
    """It was made from a document that is not stored any more: whoever made it has to read again."""
    name = user()
    await store.put_many_if_newer({name: document(9, vector=8, seen=6)})
    for stale in (document(10, vector=10, seen=5), document(10, vector=7, seen=6), document(8, vector=8, seen=7)):
        assert await store.put_many_if_newer({name: stale}) == 0
    assert await store.get(name) == document(9, vector=8, seen=6)
    assert await store.put_many_if_newer({name: document(9, vector=8, seen=7)}) == 1


async def test_a_marker_of_an_erasure_outlives_every_write_that_was_made_without_it(store: UserStore) -> None:
    name = user()
    await store.put_many_if_newer({name: document(4, seen=3)})
    assert await store.put_many_if_newer({name: marker(5)}) == 1
    for late in (document(4, seen=3), document(4, seen=4), document(6, seen=3), document(6, seen=4)):
        assert await store.put_many_if_newer({name: late}) == 0
    assert await store.put_many_if_newer({name: document(6, seen=5)}) == 0, "it does not know the erasure"
    assert await store.get(name) == marker(5)
    assert await store.put_many_if_newer({name: document(6, seen=5, erased=5)}) == 1
    assert await store.put_many_if_newer({name: marker(5)}) == 0


async def test_a_marker_of_an_unknown_user_is_written_and_written_again(store: UserStore) -> None:
    name = user()
    assert await store.put_many_if_newer({name: marker(5)}) == 1
    assert await store.put_many_if_newer({name: marker(5)}) == 1
    assert decode_user_document(await store.get(name) or b"", SPACE).erased


async def test_a_document_of_the_first_version_is_read_and_replaced(store: UserStore) -> None:
    name = user()
    first = (Path(__file__).parent.parent / "golden" / "user_document.v1.bin").read_bytes()
    history, vector, _ = document_order(first)
    await store.put_many_if_newer({name: first})
    assert await store.put_many_if_newer({name: document(history, vector=vector - 1)}) == 0
    assert await store.put_many_if_newer({name: document(history, vector=vector)}) == 1


async def test_a_deleted_user_is_forgotten(store: UserStore) -> None:
    name = user()
    await store.put_many_if_newer({name: document(9)})
    await store.delete(name)
    await store.delete(name)
    assert await store.get(name) is None
    assert await store.put_many_if_newer({name: document(1)}) == 1


async def test_a_user_expires_after_the_time_to_live_and_a_write_prolongs_it(store: UserStore, clock: Clock) -> None:
    idle, active = user(), user()
    await store.put_many_if_newer({idle: document(1), active: document(1)})
    clock.move(DAY_MS // 1000 - 3600)
    await store.put_many_if_newer({active: document(2)})
    clock.move(2 * 3600)
    await store.keep_house()
    assert await store.get(idle) is None
    assert await store.get(active) == document(2)
    assert await store.put_many_if_newer({idle: document(1)}) == 1


async def test_the_time_to_live_counts_from_when_the_user_last_changed(store: UserStore, clock: Clock) -> None:
    """Else a store that is filled again would keep idle users as long as active ones."""
    idle, active, ahead = user(), user(), user()
    since_ms = {idle: clock() - DAY_MS + 3_600_000, ahead: clock() + DAY_MS}
    await store.put_many_if_newer({idle: document(1), active: document(1), ahead: document(1)}, since_ms)
    await store.put_seen_if_newer(
        {idle: snapshot(1), active: snapshot(1)}, {idle: clock() - DAY_MS * 5 // 4 + 3_600_000}
    )
    clock.move(2 * 3600)
    assert await store.get_with_seen(idle) == (None, None)
    assert await store.get_with_seen(active) == (document(1), snapshot(1))
    clock.move(DAY_MS // 1000)
    assert await store.get(ahead) is None, "a time in the future is now"


async def test_seen_items_lie_beside_the_document(store: UserStore) -> None:
    name = user()
    assert await store.get_with_seen(name) == (None, None)
    await store.put_seen_if_newer({name: snapshot(3)})
    assert await store.get(name) is None
    await store.put_many_if_newer({name: document(4)})
    assert await store.get_with_seen(name) == (document(4), snapshot(3))
    assert await store.get_many([name]) == [document(4)]


async def test_older_seen_items_never_replace_newer_ones(store: UserStore) -> None:
    name, other = user(), user()
    await store.put_seen_if_newer({name: snapshot(9), other: snapshot(7)})
    await store.put_seen_if_newer({name: snapshot(8), other: snapshot(8)})
    assert (await store.get_with_seen(name)).seen == snapshot(9)
    assert (await store.get_with_seen(other)).seen == snapshot(8)
    await store.put_seen_if_newer({name: encode_seen(no_seen(9))})
    assert (await store.get_with_seen(name)).seen == encode_seen(no_seen(9)), "an equal version is written again"


async def test_a_user_is_deleted_with_the_seen_items_and_a_document_without(store: UserStore) -> None:
    name, damaged = user(), user()
    for each in (name, damaged):
        await store.put_seen_if_newer({each: snapshot(9)})
        await store.put_many_if_newer({each: document(9)})
    await store.delete(name)
    await store.delete_document(damaged)
    assert await store.get_with_seen(name) == (None, None)
    assert await store.get_with_seen(damaged) == (None, snapshot(9))
    await store.delete(user())


async def test_seen_items_which_are_written_rarely_outlive_the_document(store: UserStore, clock: Clock) -> None:
    name = user()
    await store.put_seen_if_newer({name: snapshot(1)})
    await store.put_many_if_newer({name: document(1)})
    clock.move(seconds=DAY_MS // 1000 + 3600)
    assert await store.get_with_seen(name) == (None, snapshot(1))
    clock.move(seconds=DAY_MS // 1000)
    assert await store.get_with_seen(name) == (None, None)


async def test_ids_of_any_language_and_the_longest_length_are_keys(store: UserStore) -> None:
    for name in ("用户-🙂", "x" * 128, "a b/c?d"):
        await store.put_many_if_newer({name: document(1)})
        assert await store.get(name) == document(1)


async def test_closing_twice_is_safe(store: UserStore) -> None:
    await store.close()
    await store.close()


async def test_a_closed_store_is_unavailable_and_can_be_opened_again(store: UserStore) -> None:
    if isinstance(store, MemoryStore):
        store.down = True
    else:
        await store.close()
    with pytest.raises(Unavailable):
        await store.get("u")
    with pytest.raises(Unavailable):
        await store.put_many_if_newer({"u": document(1)})
    if isinstance(store, MemoryStore):
        store.down = False
    await store.open()
    assert await store.get(user()) is None


async def test_two_spaces_do_not_see_each_other(tmp_path: Path) -> None:
    one = LmdbStore(tmp_path, SPACE, ttl_ms=DAY_MS, writer=True)
    await one.open()
    await one.put_many_if_newer({"u": document(1)})
    await one.close()
    two = LmdbStore(tmp_path, Space(2, 8), ttl_ms=DAY_MS, writer=True)
    await two.open()
    assert await two.get("u") is None
    await two.close()


async def test_lmdb_survives_its_process_and_a_reader_waits_for_its_writer(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    reader = LmdbStore(folder, SPACE, ttl_ms=DAY_MS, writer=False)
    with pytest.raises(Unavailable, match="is user_tower running"):
        await reader.open()
    writer = LmdbStore(folder, SPACE, ttl_ms=DAY_MS, writer=True)
    await writer.open()
    await writer.put_many_if_newer({"u": document(1)})
    await writer.close()
    await reader.open()
    assert decode_user_document(await reader.get("u") or b"", SPACE).history_version == 1
    await reader.close()


# --- LMDB and a system that goes down


def lmdb_store(folder: Path, *, start: str, writer: bool = True) -> LmdbStore:
    """A store as a process opens it in that *start* of the system."""
    return LmdbStore(folder, SPACE, ttl_ms=DAY_MS, writer=writer, system=lambda: start)


def write_and_die(folder: Path, *, start: str) -> None:
    """Write a document of the user ``u`` in a process that dies with the store open."""
    code = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from nearline.adapters.lmdb import LmdbStore\n"
        "from nearline.space import Space\n"
        "async def story():\n"
        "    store = LmdbStore(Path(sys.argv[1]), Space(1, 8), ttl_ms=10**9, writer=True, system=lambda: sys.argv[2])\n"
        "    await store.open()\n"
        "    await store.fill_again()\n"
        "    await store.put_many_if_newer({'u': bytes.fromhex(sys.argv[3])})\n"
        "    os._exit(0)\n"
        "asyncio.run(story())\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), start, document(1).hex()], check=True, cwd=ROOT)


async def opened_in(folder: Path, *, start: str) -> tuple[bytes | None, bool]:
    """What a writer that opens the store in that *start* has of the user ``u``, and whether it is filled."""
    store = lmdb_store(folder, start=start)
    await store.open()
    try:
        return await store.get("u"), store.is_filled
    finally:
        await store.close()


async def test_a_new_lmdb_store_is_to_be_filled_from_the_log_once(tmp_path: Path) -> None:
    assert await opened_in(tmp_path, start="monday") == (None, False)
    write_and_die(tmp_path, start="monday")
    assert await opened_in(tmp_path, start="monday") == (document(1), True)


async def test_an_lmdb_store_that_was_open_when_the_system_went_down_is_deleted_and_to_be_filled(
    tmp_path: Path,
) -> None:
    write_and_die(tmp_path, start="monday")
    reader = lmdb_store(tmp_path, start="tuesday", writer=False)
    with pytest.raises(Unavailable, match="was open when the system went down"):
        await reader.open()
    assert await opened_in(tmp_path, start="tuesday") == (None, False)
    await reader.open()
    await reader.close()


async def test_an_lmdb_store_that_was_closed_before_the_system_went_down_is_kept(tmp_path: Path) -> None:
    write_and_die(tmp_path, start="monday")
    assert await opened_in(tmp_path, start="monday") == (document(1), True)
    assert await opened_in(tmp_path, start="tuesday") == (document(1), True)


async def test_a_store_of_one_space_that_is_deleted_is_to_be_filled_for_every_space(tmp_path: Path) -> None:
    other = LmdbStore(tmp_path, Space(2, 8), ttl_ms=DAY_MS, writer=True, system=lambda: "monday")
    await other.open()
    await other.fill_again()
    await other.close()
    write_and_die(tmp_path, start="monday")
    await opened_in(tmp_path, start="tuesday")
    await other.open()
    assert not other.is_filled
    await other.close()


async def test_an_lmdb_store_of_a_version_that_noted_nothing_is_kept(tmp_path: Path) -> None:
    write_and_die(tmp_path, start="monday")
    for noted in ("opened", "filled.1"):
        (tmp_path / noted).unlink()
    assert await opened_in(tmp_path, start="monday") == (document(1), True)


@pytest.mark.parametrize("damage", [b"", b"no database" * 1000])
async def test_a_damaged_lmdb_file_is_deleted_and_to_be_filled(tmp_path: Path, damage: bytes) -> None:
    write_and_die(tmp_path, start="monday")
    (tmp_path / "data.mdb").write_bytes(damage)
    assert await opened_in(tmp_path, start="monday") == (None, False)


# --- Couchbase that does not answer


@pytest.fixture
async def slow_couchbase(couchbase_mock: CouchbaseMock) -> AsyncIterator[CouchbaseStore]:
    """A store whose answers come later than its deadline."""
    store = CouchbaseStore(couchbase_mock.url, SPACE, ttl_ms=DAY_MS, read_ms=20)
    await store.open()
    couchbase_mock.control("hiccup?msecs=300&offset=1")
    yield store
    couchbase_mock.control("hiccup?msecs=0&offset=0")
    await store.close()


@contextmanager
def complaints_of_the_loop() -> Iterator[list[str]]:
    """What the event loop reports of callbacks and tasks whose error nobody took: tracebacks in the log."""
    loop, said = asyncio.get_running_loop(), list[str]()
    loop.set_exception_handler(lambda _, context: said.append(f"{context['message']}: {context.get('exception')!r}"))
    try:
        yield said
    finally:
        loop.set_exception_handler(None)


async def test_a_reader_that_stops_waiting_for_couchbase_leaves_no_traceback(slow_couchbase: CouchbaseStore) -> None:
    """An answer's wait for an event ends in the middle of a read; what the SDK says later is for nobody."""
    with complaints_of_the_loop() as said:
        for _ in range(10):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.005):
                    await slow_couchbase.get("u")
        await slow_couchbase.close()  # returns once every call has ended
        gc.collect()
    assert said == []


async def test_passed_deadlines_of_couchbase_on_a_busy_machine_leave_no_traceback(
    slow_couchbase: CouchbaseStore,
) -> None:
    numbers = np.random.default_rng(1).random(100_000).tolist()

    async def busy() -> None:
        while True:
            sorted(numbers)  # no other thread runs meanwhile, so the SDK's callbacks come after our deadline
            await asyncio.sleep(0)

    with complaints_of_the_loop() as said:
        work = asyncio.create_task(busy())
        reads = [slow_couchbase.get("u") for _ in range(60)]
        passed = await asyncio.gather(*reads, return_exceptions=True)
        work.cancel()
        await slow_couchbase.close()
        gc.collect()
    assert {type(each) for each in passed} == {Unavailable}
    assert said == []


async def test_a_couchbase_that_hangs_is_unavailable_within_the_deadline(couchbase_mock: CouchbaseMock) -> None:
    store = CouchbaseStore(couchbase_mock.url, SPACE, ttl_ms=DAY_MS, read_ms=50)
    await store.open()
    couchbase_mock.control("hiccup?msecs=2000&offset=1")
    try:
        with pytest.raises(Unavailable, match="Couchbase at"):
            await store.get("u")
    finally:
        couchbase_mock.control("hiccup?msecs=0&offset=0")
        await store.close()


async def test_a_couchbase_that_is_not_there_is_unavailable() -> None:
    port = free_ports(1)[0]
    store = CouchbaseStore(f"couchbase://u:p@127.0.0.1:{port}/b", SPACE, ttl_ms=DAY_MS, read_ms=50)
    with pytest.raises(Unavailable, match="does not answer"):
        await store.open()


@pytest.mark.parametrize("url", ["redis://x", "couchbase://host/bucket", "couchbase://u:p@host", ""])
def test_a_store_url_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured, match="couchbase://"):
        store_for(url, SPACE, ttl_ms=1, read_ms=1, writer=True)
