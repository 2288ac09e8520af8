"""Runs the system's programs under supervisord: its configuration, start, queries and end.

There is one supervisord per data folder, reached by a unix socket only. It starts nothing by itself: `local.system`
decides the order. Its programs always end with it (`setpriv --pdeathsig`, and as a last resort the mark).
"""

import hashlib
import http.client
import os
import re
import shlex
import subprocess
import tempfile
import xmlrpc.client
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from supervisor.xmlrpc import SupervisorTransport

from local.layout import ROOT, environment_python
from local.processes import end_all, mark, processes_of, wait_until
from nearline.errors import Unavailable

GROUP = "nearline"
# Linux allows 107 bytes for the path of a unix socket.
_SOCKET_PATH_MAX = 100
_STOP_DEADLINE_S = 20.0
_COMPLAINT = re.compile(r"error|exception|fail|refuse|misconfigured", re.IGNORECASE)
_INHERITED_TRAPS = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "JAVA_HOME", "JVM_ARGS", "FLINK_ENV_JAVA_OPTS")
# What a shell has for other programs. Settings are no exception: those that are meant for us come as *environment*.
_FOR_OTHERS = re.compile(r"^NEARLINE_|SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|API_?KEY", re.IGNORECASE)
UMASK = 0o077  # what the system writes is its owner's


@dataclass(frozen=True)
class Program:
    """One program under supervisord, by its command."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    nice: int = 0  # lower priority when the cores are busy
    withheld: tuple[str, ...] = ()  # variables of the system that it does not get


class Supervisor:
    """The supervisord of the system in folder *data*, running or not."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.run = data / "run"
        self.logs = data / "logs"
        self.config = self.run / "supervisord.conf"
        self.pid_file = self.run / "supervisord.pid"
        self.events = self.logs / "supervisord-events.log"
        self.socket = _socket_path(self.run)
        self._process: subprocess.Popen[bytes] | None = None

    def log_of(self, program: str) -> Path:
        """The file of the program's output."""
        return self.logs / f"{program}.log"

    def is_running(self) -> bool:
        """Whether supervisord answers."""
        try:
            with self._calls() as calls:
                return cast(Mapping[str, str], calls.supervisor.getState())["statename"] == "RUNNING"
        except Unavailable:
            return False

    def start(self, programs: Sequence[Program], environment: Mapping[str, str], *, end_with_us: bool) -> None:
        """Start supervisord without its programs; with *end_with_us* it ends with this process."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self.run.mkdir(parents=True, exist_ok=True)
        self.config.write_text(configuration(self, programs))
        self.socket.unlink(missing_ok=True)
        for log in self.logs.glob("*.log"):
            log.replace(log.with_suffix(".previous"))
        command = [str(environment_python("services")), "-m", "supervisor.supervisord", "-c", str(self.config)]
        if end_with_us:
            command = ["setpriv", "--pdeathsig", "TERM", *command]
        self.log_of("supervisord").touch(0o600)
        with self.log_of("supervisord").open("ab") as output:
            process = self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**surroundings(os.environ), **environment, **mark(self.data)},
                umask=UMASK,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches only us, and we stop the rest in order
            )
        if not wait_until(lambda: self.is_running() or process.poll() is not None, 15.0) or process.poll() is not None:
            raise Unavailable(f"supervisord did not start; the end of its log:\n{self.tail('supervisord')}")

    def start_program(self, name: str) -> None:
        """Start a program unless it is running."""
        if self.state_of(name) in ("STOPPED", "EXITED", "FATAL"):
            with self._calls() as calls:
                calls.supervisor.startProcess(f"{GROUP}:{name}", False)

    def state_of(self, name: str) -> str:
        """The program's state in supervisord: STARTING, RUNNING, BACKOFF, FATAL, EXITED, STOPPED."""
        return str(self._info(name)["statename"])

    def pid_of(self, name: str) -> int:
        """The program's process id, or 0 without a process."""
        return int(self._info(name)["pid"])

    def ends_of(self, name: str) -> list[int]:
        """The program's exit statuses since supervisord's start, in order, without signals."""
        # supervisord itself does not keep the status of a program that ended within a second.
        with suppress(OSError):
            found = re.findall(rf"exited: {re.escape(name)} \(exit status (\d+);", self.events.read_text())
            return [int(status) for status in found]
        return []

    def _info(self, name: str) -> Mapping[str, str | int]:
        with self._calls() as calls:
            return cast(Mapping[str, str | int], calls.supervisor.getProcessInfo(f"{GROUP}:{name}"))

    def tail(self, program: str) -> str:
        """The end of a program's log for messages, preceded by the last earlier warnings and errors."""
        with suppress(OSError), self.log_of(program).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 65_536))
            return last_words(log.read().decode(errors="replace").splitlines())
        return "    (no output)"

    def stop(self) -> list[int]:
        """Stop supervisord and every process of the system; return those that had to be killed.

        Also ends processes left by an interrupted run, so it can be called at any time.
        """
        forced: list[int] = []
        if self.is_running():
            with suppress(Unavailable), self._calls() as calls:
                calls.supervisor.shutdown()
            # supervisord ends after its programs, and then removes its pid file.
            wait_until(lambda: not self.pid_file.exists() or not processes_of(self.data), _STOP_DEADLINE_S)
        if processes_of(self.data):
            forced = end_all(self.data, deadline_s=3.0)
        if self._process is not None:
            self._process.wait()
        self.socket.unlink(missing_ok=True)
        return forced

    @contextmanager
    def _calls(self) -> Iterator[xmlrpc.client.ServerProxy]:
        """supervisord's interface; ``Unavailable`` if it does not answer, or ends meanwhile."""
        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        try:
            with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as calls:
                yield calls
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as problem:
            raise Unavailable(f"supervisord of {self.data} does not answer: {problem!r}") from problem


def surroundings(environ: Mapping[str, str]) -> dict[str, str]:
    """What the system's processes inherit of our own variables: none that misleads them, and no secret."""
    return {
        name: value for name, value in environ.items() if name not in _INHERITED_TRAPS and not _FOR_OTHERS.search(name)
    }


def last_words(lines: Sequence[str], *, end: int = 12, complaints: int = 5) -> str:
    """The last *end* lines, preceded by the last warnings and errors; each indented and cut to a screen's width."""
    earlier = [line for line in lines[:-end] if _COMPLAINT.search(line)]
    return "\n".join(f"    {line[:200]}" for line in (*earlier[-complaints:], *lines[-end:]))


def configuration(supervisor: Supervisor, programs: Sequence[Program]) -> str:
    """supervisord's configuration file: one group, so that all programs stop together; nothing starts by itself."""
    sections = [
        _section("unix_http_server", file=supervisor.socket, chmod="0700"),
        _section(
            "supervisord",
            nodaemon="true",
            pidfile=supervisor.pid_file,
            logfile=supervisor.events,
            logfile_maxbytes="5MB",
            logfile_backups=1,
            silent="true",
        ),
        _section("rpcinterface:supervisor", **{"supervisor.rpcinterface_factory": _RPC}),
        _section("supervisorctl", serverurl=f"unix://{supervisor.socket}"),
        _section(f"group:{GROUP}", programs=",".join(program.name for program in programs)),
        *(_program(supervisor, program) for program in programs),
    ]
    return "\n".join(sections)


_RPC = "supervisor.rpcinterface:make_main_rpcinterface"


def _program(supervisor: Supervisor, program: Program) -> str:
    # setpriv: if supervisord itself is killed, its programs get a signal to end.
    unset = [word for name in program.withheld for word in ("-u", name)]
    before = ("env", *unset, "nice", "-n", str(program.nice), "setpriv", "--pdeathsig", "TERM")
    command = shlex.join((*before, *program.command))
    extra = ",".join(f'{name}="{value}"' for name, value in program.environment.items())
    return _section(
        f"program:{program.name}",
        command=command.replace("%", "%%"),
        directory=str(ROOT).replace("%", "%%"),
        environment=extra.replace("%", "%%"),
        umask=f"{UMASK:03o}",
        autostart="false",
        autorestart="true",
        startsecs=1,
        startretries=10,
        stopasgroup="true",
        killasgroup="true",
        stopwaitsecs=8,
        redirect_stderr="true",
        stdout_logfile=str(supervisor.log_of(program.name)).replace("%", "%%"),
        stdout_logfile_maxbytes="10MB",
        stdout_logfile_backups=2,
    )


def _section(title: str, **settings: object) -> str:
    return f"[{title}]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())


def _socket_path(run: Path) -> Path:
    inside = run / "supervisor.sock"
    if len(os.fsencode(inside)) <= _SOCKET_PATH_MAX:
        return inside
    digest = hashlib.sha256(os.fsencode(run)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"nearline-{os.getuid()}-{digest}.sock"
