"""The small programs of the containers: health checks, a process id of one's own, and the start of Kafka."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import lmdb
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from deploy.kafka.start import is_formatted, java_command, settings_of
from deploy.services.healthy import problem_of
from local.broker_ready import is_ready
from local.layout import ROOT
from nearline.adapters.lmdb import LmdbStore
from nearline.space import Space
from tests.support.served import served

OWN_PID = [sys.executable, "-IS", str(ROOT / "deploy/services/own_pid.py")]
STATUSES = {"/readyz": 200, "/away": 503}


@pytest.mark.parametrize(("path", "found"), [("/readyz", None), ("/away", "503"), ("/none", "404")])
def test_a_part_is_healthy_when_it_answers_200(path: str, found: str | None) -> None:
    """Any other status is a problem, and the engine shows it with what the part says about it."""
    routes = [
        Route(at, lambda request: PlainTextResponse("the log is away", STATUSES[request.url.path])) for at in STATUSES
    ]
    with served(Starlette(routes=routes)) as url:
        problem = problem_of(url + path)
    assert problem is None if found is None else found in str(problem)
    assert "the log is away" in str(problem) or path != "/away"


def test_what_closes_without_an_answer_is_not_healthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closing = threading.Thread(target=lambda: server.accept()[0].close())
        closing.start()
        problem = problem_of(f"http://127.0.0.1:{server.getsockname()[1]}/readyz")
        closing.join()
    assert problem is not None


def test_health_checks_load_none_of_the_libraries_that_make_them_dear() -> None:
    """Every container runs its check for ever: sockets only, started without what is installed."""
    for words in (
        ["-IS", "deploy/services/healthy.py", "http://127.0.0.1:9/"],
        ["-S", "-m", "local.broker_ready", "127.0.0.1", "9"],
    ):
        script = [sys.executable, "-X", "importtime", *words]
        done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
        loaded = {
            line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")
        }
        assert done.returncode == 1
        assert loaded & {"urllib.request", "http.client", "email", "ssl", "site", "argparse", "subprocess"} == set()


def test_a_broker_that_does_not_answer_is_not_ready() -> None:
    assert not is_ready(9, 0.1)


def with_own_pid(least: int, *command: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OWN_PID": str(least), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*OWN_PID, *command], env=environment, stdout=subprocess.PIPE, text=True)


def test_the_program_has_at_least_the_process_id_that_was_asked_for() -> None:
    """Ids of this machine are larger already, so the first one is taken; ends and output are the program's own."""
    with with_own_pid(1, sys.executable, "-c", "import os; print(os.getpid()); raise SystemExit(7)") as started:
        said, _ = started.communicate(timeout=30)
    assert int(said) > started.pid
    assert started.returncode == 7


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may count process ids from 1")
def test_a_container_counts_up_to_the_process_id() -> None:
    """In a namespace of its own, as in a container, where ids begin at 1."""
    inside = ["unshare", "--pid", "--fork", *OWN_PID, sys.executable, "-c", "import os; print(os.getpid())"]
    done = subprocess.run(inside, env={**os.environ, "OWN_PID": "200"}, capture_output=True, text=True, check=True)
    assert 200 <= int(done.stdout) < 400


def test_a_stop_reaches_the_program() -> None:
    """The program ends in its own time, and its end is reported as a shell reports it."""
    wait = "import signal; signal.signal(signal.SIGTERM, lambda *_: exit(5)); print('up', flush=True); signal.pause()"
    with with_own_pid(1, sys.executable, "-c", wait) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "up\n"
        started.send_signal(signal.SIGTERM)
        assert started.wait(30) == 5


def test_a_killed_program_ends_its_container() -> None:
    with with_own_pid(1, sys.executable, "-c", "import os; os.kill(os.getpid(), 9)") as started:
        assert started.wait(30) == 128 + signal.SIGKILL


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may count process ids from 1")
@pytest.mark.anyio
async def test_containers_with_process_ids_of_their_own_read_one_store(tmp_path: Path) -> None:
    """Both begin at 1; without ids of their own the second is refused (the reason for deploy/services/own_pid.py)."""
    writer = LmdbStore(tmp_path, Space(1, 64), ttl_ms=1_000, writer=True)
    await writer.open()
    await writer.close()
    read = (
        "import lmdb, sys; env = lmdb.open(sys.argv[1], readonly=True); env.begin().abort(); print('read', flush=True);"
        "sys.stdin.read()"
    )
    own = [[], ["env", "OWN_PID=200", *OWN_PID], ["env", "OWN_PID=400", *OWN_PID]]
    said = []
    readers = []
    for words in (own[0], own[1], own[2], own[0]):
        command = ["unshare", "--pid", "--fork", *words, sys.executable, "-c", read, str(tmp_path)]
        reader = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        readers.append(reader)
        assert reader.stdout is not None
        said.append(reader.stdout.readline())
    errors = [reader.communicate(timeout=30)[1] for reader in readers]
    assert said == ["read\n", "read\n", "read\n", ""]
    assert lmdb.LockError.__name__ in errors[-1]


def test_the_brokers_settings_are_its_containers_variables() -> None:
    """As in Apache's image; the JVM's options are not settings."""
    given = {
        "KAFKA_LOG_DIRS": "/d",
        "KAFKA_NODE_ID": "1",
        "KAFKA_OPTS": "-x",
        "KAFKA_HEAP_OPTS": "-Xmx64m",
        "CLUSTER_ID": "c",
    }
    assert settings_of(given) == {"log.dirs": "/d", "node.id": "1"}


def test_the_agent_is_not_in_the_command_that_formats() -> None:
    """Two JVMs with it would ask for one port."""
    words = java_command(
        {"JAVA_HOME": "/j", "KAFKA_OPTS": "-javaagent:a", "KAFKA_HEAP_OPTS": "-Xms1m -Xmx2m"}, Path("l")
    )
    assert words[:3] == ["/j/bin/java", "-Xms1m", "-Xmx2m"]
    assert "-javaagent:a" not in words


def test_a_log_folder_is_formatted_once(tmp_path: Path) -> None:
    assert not is_formatted(tmp_path)
    (tmp_path / "meta.properties").touch()
    assert is_formatted(tmp_path)
