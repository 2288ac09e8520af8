"""The towers behind the real Triton server, and the fake that stands for them in unit tests.

The server is the one of `local.triton` with the committed towers; what it answers is compared with onnxruntime run by
itself on the same files.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from operator import methodcaller
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from tritonclient import grpc as grpc_client
from tritonclient.utils import InferenceServerException

from deploy.triton.serve import is_served, load, secret_header
from local.layout import environment_python
from local.ports import HOST
from local.processes import wait_until
from local.triton import REPOSITORY, RunningTriton, is_ready, running_triton
from nearline.adapters.triton import TritonTowers
from nearline.errors import Misconfigured, SpaceMismatch, Unavailable
from nearline.features import (
    AGES,
    CANDIDATE,
    CONTEXT,
    DIMENSION,
    HISTORY,
    ITEM_TOWER,
    TYPES,
    USER,
    USER_TOWER,
    VECTORS,
    Features,
    features_of,
)
from nearline.items import Item
from nearline.space import Space
from tests.support.fakes import ScriptedTowers
from tests.support.sockets import listeners

FEATURES = features_of(json.loads((REPOSITORY / USER_TOWER / "1" / "config.json").read_text())["features"])
T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]
SPACE = Space(1, DIMENSION)
OTHER_USER_TOWER = Path(__file__).parents[1] / "golden" / "user_tower_other.onnx"  # same shapes, random weights
WORDS = ["lamp", "T-LIGHT holder", "🕯️", "שלום", "mug with a very long name " * 9]


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    """A server with the committed towers as version 1 and, as version 2, another user tower.

    Version 3 does not say what it reads, and the towers of version 4 were trained with other features each.
    """
    repository = tmp_path_factory.mktemp("models") / "repository"
    shutil.copytree(REPOSITORY, repository)
    for tower in (ITEM_TOWER, USER_TOWER):
        for version in "234":
            shutil.copytree(repository / tower / "1", repository / tower / version, dirs_exist_ok=True)
        say(repository, tower, "2", FEATURES)
    shutil.copyfile(OTHER_USER_TOWER, repository / USER_TOWER / "2" / "model.onnx")
    say(repository, ITEM_TOWER, "4", FEATURES)
    say(repository, USER_TOWER, "4", replace(FEATURES, types=5))
    try:
        with running_triton(repository) as server:
            yield server
    except Misconfigured as problem:
        pytest.fail(f"no Triton for the tests: {problem}", pytrace=False)


def say(repository: Path, tower: str, version: str, features: Features) -> None:
    """Declare in the server's configuration what a version of a tower was trained with, as the exporter does."""
    declared = json.dumps(json.dumps(features.declaration(), separators=(",", ":")))
    with (repository / tower / "config.pbtxt").open("a") as file:
        file.write(f'parameters {{ key: "features.{version}" value {{ string_value: {declared} }} }}\n')


@pytest.fixture(params=["real", "fake"])
def url(request: pytest.FixtureRequest) -> str:
    """Where the towers of the shared contract are: the real server's address, or none for the fake."""
    return str(request.getfixturevalue("triton").url) if request.param == "real" else ""


def ask(url: str, question: Callable[[Any], Awaitable[T]], space: Space = SPACE, *, timeout_ms: int = 5000) -> T:
    """The answer of the towers at *url* to *question*; the connection is opened and closed around it."""

    async def asked() -> T:
        if not url:
            return await question(ScriptedTowers(space.dimension))
        towers = TritonTowers(url, space, kept=FEATURES.history_length, timeout_ms=timeout_ms)
        try:
            await towers.open()
            return await question(towers)
        finally:
            await towers.close()

    return asyncio.run(asked())


def users(count: int, seed: int = 0) -> Arrays:
    """Histories of 1, 2, 3, … events of items drawn at random."""
    random = np.random.default_rng(seed)
    items = random.normal(size=(500, DIMENSION))
    matrix = (items / np.linalg.norm(items, axis=1, keepdims=True)).astype(np.float16)
    length = FEATURES.history_length
    rows = random.integers(0, 500, (count, length)).astype(np.int32)
    rows[np.arange(length)[None, :] > np.arange(count)[:, None] % length] = -1
    ages = np.sort(random.random((count, length), dtype=np.float32), axis=1)
    context = FEATURES.user_context([{"device": "phone"} if n % 2 else {} for n in range(count)])
    return FEATURES.user_batch(matrix, rows, ages, random.integers(1, 5, rows.shape).astype(np.int32), context)


def items(count: int) -> Arrays:
    return FEATURES.item_inputs([(f"item-{n}", Item(WORDS[n % len(WORDS)], price=float(n))) for n in range(count)])


def onnxruntime_answers(model: Path, inputs: Arrays, folder: Path) -> Arrays:
    """What onnxruntime alone, in the server's environment, makes of *inputs*."""
    np.savez(folder / "in.npz", **inputs)  # type: ignore[arg-type]
    code = (
        "import sys, numpy, onnxruntime as ort\n"
        "session = ort.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "names = [output.name for output in session.get_outputs()]\n"
        "inputs = dict(numpy.load(sys.argv[2] + '/in.npz'))\n"
        "numpy.savez(sys.argv[2] + '/out.npz', **dict(zip(names, session.run(names, inputs))))\n"
    )
    subprocess.run([str(environment_python("triton")), "-c", code, str(model), str(folder)], check=True)
    with np.load(folder / "out.npz") as answers:
        return dict(answers)


# --- what the real towers and the fake have in common


@pytest.mark.parametrize("count", [1, 5, 64])
def test_users_come_back_in_order_with_unit_norm(url: str, count: int) -> None:
    batch = users(count)
    together = ask(url, lambda towers: towers.encode_users(batch))
    assert together.shape == (count, DIMENSION)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-3)
    last = {name: array[-1:] for name, array in batch.items()}
    np.testing.assert_allclose(ask(url, lambda towers: towers.encode_users(last))[0], together[-1], atol=1e-5)


@pytest.mark.parametrize("count", [1, 5, 64])
def test_items_come_back_in_order_with_unit_norm(url: str, count: int) -> None:
    inputs = items(count)
    candidate, history = ask(url, lambda towers: towers.encode_items(inputs))
    for vectors in (candidate, history):
        assert vectors.shape == (count, DIMENSION)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    end = {name: array[-1:] for name, array in inputs.items()}
    last = ask(url, lambda towers: towers.encode_items(end))[0]
    np.testing.assert_allclose(last[0], candidate[-1], atol=1e-5)


def test_towers_that_are_down_are_unavailable(triton: RunningTriton) -> None:
    fake = ScriptedTowers()
    fake.down = True
    with pytest.raises(Unavailable):
        asyncio.run(fake.encode_users(users(1)))
    with pytest.raises(Unavailable, match="is the server up"):
        ask("127.0.0.1:1", lambda towers: towers.encode_users(users(1)))


# --- the real server alone


def test_the_server_answers_what_onnxruntime_answers(triton: RunningTriton, tmp_path: Path) -> None:
    batch, inputs = users(64), items(20)
    expected = onnxruntime_answers(REPOSITORY / USER_TOWER / "1" / "model.onnx", batch, tmp_path)
    np.testing.assert_allclose(ask(triton.url, lambda t: t.encode_users(batch)), expected[USER], atol=1e-5)
    expected = onnxruntime_answers(REPOSITORY / ITEM_TOWER / "1" / "model.onnx", inputs, tmp_path)
    candidate, history = ask(triton.url, lambda t: t.encode_items(inputs))
    np.testing.assert_allclose(candidate, expected[CANDIDATE], atol=1e-5)
    np.testing.assert_allclose(history, expected[HISTORY], atol=1e-5)


def test_requests_in_flight_together_are_not_mixed_up(triton: RunningTriton) -> None:
    batches = [users(count, seed) for seed, count in enumerate([1, 64, 3, 17, 64, 2, 33, 1])]

    async def all_at_once(towers: Any) -> list[Any]:
        return list(await asyncio.gather(*map(towers.encode_users, batches)))

    for batch, answer in zip(batches, ask(triton.url, all_at_once), strict=True):
        alone = ask(triton.url, methodcaller("encode_users", batch))
        np.testing.assert_allclose(answer, alone, atol=1e-5)


def test_each_space_gets_the_answers_of_its_own_version(triton: RunningTriton, tmp_path: Path) -> None:
    batch = users(8)
    first = ask(triton.url, lambda towers: towers.encode_users(batch), Space(1, DIMENSION))
    second = ask(triton.url, lambda towers: towers.encode_users(batch), Space(2, DIMENSION))
    assert np.abs(first - second).max() > 0.1
    expected = onnxruntime_answers(OTHER_USER_TOWER, batch, tmp_path)[USER]
    np.testing.assert_allclose(second, expected, atol=1e-5)


def test_a_version_that_is_not_loaded_is_named(triton: RunningTriton) -> None:
    with pytest.raises(Unavailable, match="no version 9 of user_tower"):
        ask(triton.url, lambda towers: towers.ready(), Space(9, DIMENSION))


def test_open_towers_say_what_they_read(url: str) -> None:
    async def features(towers: Any) -> Features:
        return towers.features  # type: ignore[no-any-return]

    found = ask(url, features)
    assert found.dimension == DIMENSION
    assert found.item_inputs([("i", Item("lamp"))]).keys() == items(1).keys()
    if url:
        assert found == FEATURES


def test_a_tower_that_does_not_say_what_it_reads_is_to_be_exported_again(triton: RunningTriton) -> None:
    with pytest.raises(Misconfigured, match=r"user_tower version 3 does not say .*features\.3.*make train"):
        ask(triton.url, lambda towers: towers.ready(), Space(3, DIMENSION))


def test_towers_that_were_not_trained_together_are_refused_with_both_digests(triton: RunningTriton) -> None:
    digests = rf"{replace(FEATURES, types=5).digest}.*{FEATURES.digest}"
    with pytest.raises(Misconfigured, match=rf"different features: .*{digests}"):
        ask(triton.url, lambda towers: towers.ready(), Space(4, DIMENSION))


def test_another_dimension_is_refused_with_both_numbers(triton: RunningTriton) -> None:
    with pytest.raises(SpaceMismatch, match="have 64 dimensions, space 1 has 32"):
        ask(triton.url, lambda towers: towers.ready(), Space(1, 32))


def test_towers_that_read_more_events_than_the_job_keeps_are_refused(triton: RunningTriton) -> None:
    async def asked() -> None:
        towers = TritonTowers(triton.url, SPACE, kept=20)
        try:
            await towers.open()
        finally:
            await towers.close()

    with pytest.raises(Misconfigured, match=rf"last {FEATURES.history_length} events, but the job keeps 20: set"):
        asyncio.run(asked())


def test_inputs_of_another_shape_are_the_callers_fault(triton: RunningTriton) -> None:
    batch = users(2)
    batch[VECTORS] = batch[VECTORS][:, :10]
    with pytest.raises(Misconfigured, match=r"features\.py disagree"):
        ask(triton.url, lambda towers: towers.encode_users(batch))


def test_a_history_without_a_known_item_still_gets_a_unit_vector(triton: RunningTriton) -> None:
    batch = {name: np.zeros_like(array) for name, array in users(1).items()}
    assert batch.keys() == {VECTORS, AGES, TYPES, CONTEXT}
    assert np.linalg.norm(ask(triton.url, lambda towers: towers.encode_users(batch))) == pytest.approx(1, abs=1e-3)


def test_a_server_that_hangs_is_unavailable_within_the_timeout(triton: RunningTriton) -> None:
    async def paused(towers: TritonTowers) -> None:
        os.kill(triton.process.pid, signal.SIGSTOP)
        status = Path(f"/proc/{triton.process.pid}/status")
        try:
            assert wait_until(lambda: "State:\tT" in status.read_text(), 5)
            await towers.encode_users(users(1))
        finally:
            os.kill(triton.process.pid, signal.SIGCONT)

    with pytest.raises(Unavailable, match="Deadline"):
        ask(triton.url, paused, timeout_ms=300)


def test_requests_whose_clients_gave_up_are_not_computed(triton: RunningTriton) -> None:
    """Retries of a slow server would otherwise be work on top of work that is of no use."""
    stub, batch, number = stub_of(triton, USER_TOWER, "1"), users(256), 24

    async def many(towers: TritonTowers) -> list[Any]:
        return await asyncio.gather(*[towers.encode_users(batch) for _ in range(number)], return_exceptions=True)

    async def in_vain(towers: TritonTowers) -> list[Any]:
        os.kill(stub.pid, signal.SIGSTOP)
        try:
            return await many(towers)
        finally:
            os.kill(stub.pid, signal.SIGCONT)

    before = busy_s(stub)
    assert all(len(answer) == 256 for answer in ask(triton.url, many, timeout_ms=30_000))
    computing, before = busy_s(stub) - before, busy_s(stub)
    passed = ask(triton.url, in_vain, timeout_ms=700)
    assert all(isinstance(each, Unavailable) and "Deadline" in str(each) for each in passed)
    ask(triton.url, lambda towers: towers.encode_users(users(1)), timeout_ms=30_000)  # after them in the queue
    assert busy_s(stub) - before < computing / 3


def stub_of(server: RunningTriton, model: str, version: str) -> psutil.Process:
    """The process that computes a *version* of *model*."""
    processes = psutil.Process(server.process.pid).children(recursive=True)
    return next(each for each in processes if f"/{model}/{version}/" in " ".join(each.cmdline()))


def busy_s(process: psutil.Process) -> float:
    """The processor time that *process* has used."""
    used = process.cpu_times()
    return used.user + used.system


def test_a_killed_server_is_unavailable_and_one_that_came_back_answers_on_the_same_connection(
    triton: RunningTriton,
) -> None:
    batch = users(4)

    async def story(towers: TritonTowers) -> tuple[Any, Any]:
        before = await towers.encode_users(batch)
        assert await towers.ready()
        triton.kill()
        with pytest.raises(Unavailable, match=triton.url):
            await towers.encode_users(batch)
        assert not await towers.ready()
        triton.start()  # not in a thread: the server ends with the thread that started it
        async with asyncio.timeout(10):
            while not await towers.ready():
                await asyncio.sleep(0.05)
        return before, await towers.encode_users(batch)

    before, after = ask(triton.url, story)
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_a_version_that_is_refused_keeps_no_other_from_being_served(tmp_path: Path) -> None:
    """Neither at the start, nor on request while the server runs; the next start is as the first."""
    repository = tmp_path / "repository"
    shutil.copytree(REPOSITORY, repository)
    damage(repository / USER_TOWER / "2")
    with running_triton(repository) as server:
        assert not is_served(server.url, USER_TOWER, "2")
        damage(repository / ITEM_TOWER / "2")
        assert not load(server.url, ITEM_TOWER, secret=secret_of(server))
        assert ask(server.url, lambda towers: towers.ready())
        assert len(ask(server.url, lambda towers: towers.encode_users(users(2)))) == 2
        refused = "user_tower: refused versions ['2'] (why is above), served ['1']"
        assert wait_until(lambda: refused in server.output.read_text(), 10)


def test_a_good_version_is_loaded_beside_the_served_one_on_request(triton: RunningTriton) -> None:
    shutil.copytree(triton.repository / USER_TOWER / "1", triton.repository / USER_TOWER / "12")
    assert load(triton.url, USER_TOWER, secret=secret_of(triton))
    assert all(is_served(triton.url, USER_TOWER, version) for version in ("1", "12"))


def test_a_model_is_loaded_for_holders_of_the_secret_only(triton: RunningTriton) -> None:
    shutil.copytree(triton.repository / USER_TOWER / "1", triton.repository / USER_TOWER / "13")
    for wrong in ("", "0" * 64):
        assert not load(triton.url, USER_TOWER, secret=wrong)
    assert not is_served(triton.url, USER_TOWER, "13")
    assert is_served(triton.url, USER_TOWER, "1")
    assert oct(triton.secret_file.stat().st_mode & 0o777) == "0o600"


CHANGING: dict[str, Callable[[Any, dict[str, str]], object]] = {
    "the models": lambda client, headers: client.get_model_repository_index(headers=headers),
    "shared memory": lambda client, headers: client.get_system_shared_memory_status(headers=headers),
    "traces": lambda client, headers: client.get_trace_settings(headers=headers),
    "logs": lambda client, headers: client.get_log_settings(headers=headers),
}


@pytest.mark.parametrize("asked", CHANGING.values(), ids=CHANGING)
def test_what_changes_the_server_wants_the_secret(
    triton: RunningTriton, asked: Callable[[Any, dict[str, str]], object]
) -> None:
    client = grpc_client.InferenceServerClient(triton.url)
    try:
        with pytest.raises(InferenceServerException, match="restricted"):
            asked(client, {})
        asked(client, secret_header(secret_of(triton)))
    finally:
        client.close()


def secret_of(server: RunningTriton) -> str:
    return server.secret_file.read_text().strip()


def damage(version: Path) -> None:
    """Make *version* a folder whose model the server refuses."""
    version.mkdir()
    (version / "model.onnx").write_bytes(b"half a file")


def test_the_server_listens_on_this_machine_only(triton: RunningTriton) -> None:
    """By gRPC and for its metrics, and nowhere else."""
    assert is_ready(triton.ports.grpc, triton.repository)
    everything = [triton.process.pid, *(child.pid for child in psutil.Process(triton.process.pid).children(True))]
    assert listeners(everything) == {(HOST, triton.ports.grpc), (HOST, triton.ports.metrics)}
