"""Starting and stopping a system of processes, with small servers in the place of the real parts."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("supervisor")

from pydantic import SecretStr

from local.addresses import Ports
from local.ports import HOST, is_free
from local.processes import end_all, processes_of, wait_until
from local.supervision import Program
from local.system import SECRETS, OneTimeTask, Part, Plan, System, http_ok, reset, start, stop, up, withheld_from
from nearline.errors import Misconfigured, Unavailable
from nearline.settings import PREFIX, Settings

SERVER = (sys.executable, "-m", "http.server", "--bind", HOST)
# A part with a child of its own that does not listen to SIGTERM, as Triton's and Flink's launchers may have.
STUBBORN = """
import http.server, signal, subprocess, sys, time
if sys.argv[1] == "child":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True: time.sleep(60)
subprocess.Popen([sys.executable, __file__, "child"], start_new_session=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def nothing(line: str) -> None:
    """Say nothing."""


def two_servers(system: System) -> Plan:
    """A first server, a task that needs it, and a second server."""

    def server(name: str, port: int) -> Part:
        return Part(Program(name, (*SERVER, str(port)), {}), http_ok(port, "/"), deadline_s=20.0)

    check = f"import urllib.request; urllib.request.urlopen('http://{HOST}:{system.ports.kafka}/')"
    first, second = server("first", system.ports.kafka), server("second", system.ports.retrieval)
    return [[first], OneTimeTask("topics", (sys.executable, "-c", check)), [second]]


def with_part(name: str, command: tuple[str, ...]) -> Callable[[System], Plan]:
    """The two servers, and one part more in the last wave."""

    def plan(system: System) -> Plan:
        late = Part(Program(name, command, {}), http_ok(system.ports.user_tower, "/"), deadline_s=30.0)
        return [*two_servers(system), [late]]

    return plan


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path / "data", Ports.free(), plan=two_servers)


def test_up_waits_until_all_is_ready_and_stop_leaves_no_process(system: System) -> None:
    said: list[str] = []
    up(system, said.append, end_with_us=True)
    assert [line.split()[:2] for line in said] == [["first", "ready"], ["topics", "done"], ["second", "ready"]]
    stop(system, nothing)
    assert processes_of(system.data) == []
    assert is_free(system.ports.kafka)


def test_up_while_up_starts_nothing_new(system: System) -> None:
    up(system, nothing, end_with_us=True)
    before = sorted(processes_of(system.data))
    up(system, nothing)
    after = sorted(processes_of(system.data))
    stop(system, nothing)
    assert after == before


def test_a_part_that_is_held_back_waits_until_it_is_started(system: System) -> None:
    up(system, nothing, end_with_us=True, held_back=("second", "no part"))
    before = system.supervisor.state_of("second")
    start(system, ("second", "no part"), nothing)
    ready = http_ok(system.ports.retrieval, "/")()
    stop(system, nothing)
    assert (before, ready) == ("STOPPED", True)


def test_a_part_that_is_killed_comes_back(system: System) -> None:
    up(system, nothing, end_with_us=True)
    pid = system.supervisor.pid_of("second")
    os.kill(pid, signal.SIGKILL)
    back = wait_until(
        lambda: system.supervisor.pid_of("second") not in (0, pid) and http_ok(system.ports.retrieval, "/")(), 20
    )
    stop(system, nothing)
    assert back


def test_a_port_in_use_is_named_with_its_holder_and_nothing_is_started(system: System) -> None:
    with socket.socket() as other:
        other.bind((HOST, system.ports.retrieval))
        other.listen()
        with pytest.raises(Misconfigured) as refused:
            up(system, nothing, end_with_us=True)
    assert f"port {system.ports.retrieval} (retrieval) is held by pid {os.getpid()}" in str(refused.value)
    assert "NEARLINE_RETRIEVAL_PORT" in str(refused.value)
    assert processes_of(system.data) == []


def test_a_part_that_keeps_dying_ends_the_start_with_its_last_words(tmp_path: Path) -> None:
    dying = (sys.executable, "-c", "import time; print('no space 7 here'); time.sleep(.1); raise SystemExit(3)")
    system = System(tmp_path / "data", Ports.free(), plan=with_part("dying", dying))
    with pytest.raises(Unavailable, match=r"dying keeps dying; the end of .*(\n.*)*no space 7 here"):
        up(system, nothing, end_with_us=True)
    assert processes_of(system.data) == []


def test_a_part_that_refuses_its_settings_is_not_tried_again(tmp_path: Path) -> None:
    refusing = (sys.executable, "-c", "print('two parts disagree'); raise SystemExit(2)")
    system = System(tmp_path / "data", Ports.free(), plan=with_part("refusing", refusing))
    with pytest.raises(Unavailable, match=r"refusing refuses to start; the end of .*\n *two parts disagree$"):
        up(system, nothing, end_with_us=True)
    assert processes_of(system.data) == []


def test_a_grandchild_that_ignores_sigterm_is_ended_too(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    ports = Ports.free()
    command = (sys.executable, str(tmp_path / "stubborn.py"), str(ports.user_tower))
    system = System(tmp_path / "data", ports, plan=with_part("stubborn", command))
    up(system, nothing, end_with_us=True)
    stop(system, nothing)
    assert processes_of(system.data) == []


def test_a_killed_supervisor_takes_its_programs_along_and_the_next_up_heals(system: System) -> None:
    up(system, nothing, end_with_us=True)
    supervisord = int((system.supervisor.run / "supervisord.pid").read_text())
    os.kill(supervisord, signal.SIGKILL)
    assert wait_until(lambda: not set(processes_of(system.data)) - {supervisord}, 10)
    up(system, nothing, end_with_us=True)
    ready = http_ok(system.ports.retrieval, "/")()
    stop(system, nothing)
    assert ready


def test_other_settings_than_the_running_ones_are_refused(system: System) -> None:
    up(system, nothing, end_with_us=True)
    other = System(system.data, system.ports, {"NEARLINE_SPACE": "2"}, plan=two_servers)
    with pytest.raises(Misconfigured, match="NEARLINE_SPACE"):
        up(other, nothing)
    stop(system, nothing)


def test_reset_deletes_our_data_folder_and_refuses_any_other(system: System, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="holds no system of ours"):
        reset(System(tmp_path, system.ports, plan=two_servers), nothing)
    up(system, nothing, end_with_us=True)
    reset(system, nothing)
    assert not system.data.exists()
    assert processes_of(system.data) == []


def test_processes_of_another_folder_are_never_touched(system: System, tmp_path: Path) -> None:
    up(system, nothing, end_with_us=True)
    before = processes_of(system.data)
    assert end_all(tmp_path / "dat", deadline_s=0.1) == []
    after = processes_of(system.data)
    stop(system, nothing)
    assert after == before


def test_ctrl_c_while_starting_leaves_no_process(tmp_path: Path) -> None:
    # As in a terminal: a run in the background inherits that SIGINT is ignored.
    script = f"""
        import signal
        from pathlib import Path
        from local.system import System, up
        from local.addresses import Ports
        from tests.e2e.test_local_system import with_part
        signal.signal(signal.SIGINT, signal.default_int_handler)
        system = System(Path({str(tmp_path / "data")!r}), Ports.free(), plan=with_part("never", ("sleep", "1000")))
        up(system, lambda line: print(line, flush=True), end_with_us=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as said:
        assert any("second" in line for line in iter(said.readline, ""))
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert processes_of(tmp_path / "data") == []


def environment_of(system: System, name: str) -> dict[str, str]:
    """The variables of the running part *name*."""
    words = Path(f"/proc/{system.supervisor.pid_of(name)}/environ").read_bytes().decode().split("\0")
    return dict(word.split("=", 1) for word in words if "=" in word)


def test_what_the_system_writes_is_its_owners(tmp_path: Path) -> None:
    """Also in a data folder that an earlier release made for every user of the machine."""
    new = tmp_path / "data" / "new"
    new.parent.mkdir(mode=0o755)
    writing = (sys.executable, "-c", "import pathlib, sys, time; pathlib.Path(sys.argv[1]).mkdir(); time.sleep(1000)")
    system = System(
        new.parent, Ports.free(), plan=lambda _: [[Part(Program("writing", (*writing, str(new)), {}), new.exists, 20)]]
    )
    up(system, nothing, end_with_us=True)
    modes = {path: path.stat().st_mode & 0o777 for path in (system.data, new, *system.supervisor.logs.iterdir())}
    stop(system, nothing)
    assert modes.pop(system.data) == modes.pop(new) == 0o700
    assert set(modes.values()) == {0o600}


def test_a_part_gets_the_secrets_that_it_needs_and_none_of_the_shells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("SOME_API_TOKEN", "DATABASE_PASSWORD", "AWS_SECRET_ACCESS_KEY", "NEARLINE_KEY"):
        monkeypatch.setenv(other, "another program's")
    settings = {"NEARLINE_PAGE_SECRET": "p" * 16, "NEARLINE_KAFKA_PASSWORD": "k", "NEARLINE_SPACE": "1"}

    def plan(system: System) -> Plan:
        def part(name: str, port: int) -> Part:
            program = Program(name, (*SERVER, str(port)), {}, withheld=withheld_from(name))
            return Part(program, http_ok(port, "/"), 20)

        missing = "import os, sys; sys.exit('NEARLINE_PAGE_SECRET' in os.environ or 'NEARLINE_KEY' in os.environ)"
        parts = [part("retrieval", system.ports.retrieval), part("triton", system.ports.triton)]
        return [parts, OneTimeTask("topics", (sys.executable, "-c", missing))]

    system = System(tmp_path / "data", Ports.free(), settings, plan=plan)
    up(system, nothing, end_with_us=True)
    found = {name: environment_of(system, name) for name in ("retrieval", "triton")}
    stop(system, nothing)
    assert {name for name, value in found["retrieval"].items() if value in settings.values()} >= settings.keys()
    assert settings.keys() & found["triton"].keys() == {"NEARLINE_SPACE"}
    assert "another program's" not in {*found["retrieval"].values(), *found["triton"].values()}


def test_every_setting_that_is_a_secret_is_given_to_named_parts_only() -> None:
    secret = {
        f"{PREFIX}{name.upper()}" for name, field in Settings.model_fields.items() if field.annotation is SecretStr
    }
    assert secret <= SECRETS.keys()
