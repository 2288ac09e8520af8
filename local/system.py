"""Runs the whole system on this machine: the programs of the compose file as processes under supervisord.

    .venv/services/bin/python -m local.system up | stop | status | reset [--yes]

`up` starts what is not running and returns when every part is ready; a second call only prints the addresses. `stop`
leaves no process behind, `reset` also deletes the data folder. All three clean up after an interrupted run.
`embedded_system` does the same for tests and benchmarks, on free ports and in its own data folder.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.triton.serve import is_served
from local.addresses import Ports, data_folder, variable_of
from local.broker_ready import is_ready
from local.layout import BUILD, ROOT, environment_python, java
from local.ports import HOST, holder, is_free
from local.processes import describe, mark, processes_of, wait_until
from local.supervision import UMASK, Program, Supervisor, surroundings
from nearline.errors import Misconfigured, NearlineError, Unavailable
from nearline.features import ITEM_TOWER, USER_TOWER
from nearline.key_file import own_key
from nearline.settings import PREFIX, load_settings

Say = Callable[[str], None]
# A part that failed so often while starting will not come up; one that exits as misconfigured is not retried.
_DEATHS_ALLOWED = 3
_BEHIND_ANSWERS = 5
_MISCONFIGURED = 2
_OURS = frozenset({"item_tower", "user_tower", "retrieval", "ingest", "last_n", "web", "canary"})
# Which parts get a setting that is a secret, or may hold one; the servers of others (Kafka, Triton) get none.
SECRETS: Mapping[str, frozenset[str]] = {
    "NEARLINE_KEY": frozenset({"web", "canary", "key"}),
    "NEARLINE_PAGE_SECRET": frozenset({"retrieval"}),
    "NEARLINE_STORE": frozenset({"retrieval", "user_tower"}),
    "NEARLINE_KAFKA_PASSWORD": _OURS | {"topics", "key"},
    "NEARLINE_LOG_KEY": _OURS,
}
# One thread per library and few allocator arenas: on two cores more only costs memory and latency.
_LIMITS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Part:
    """A program with its readiness check and how long that may take."""

    program: Program
    is_ready: Callable[[], bool]
    deadline_s: float

    @property
    def name(self) -> str:
        return self.program.name


@dataclass(frozen=True)
class OneTimeTask:
    """A task that runs once between two groups of parts."""

    name: str
    command: tuple[str, ...]


# The order of the start: groups of parts that start together, and tasks in between.
Plan = Sequence[Sequence[Part] | OneTimeTask]


class System:
    """One system in one data folder: its ports, its settings, its supervisor, and the plan of its start."""

    def __init__(
        self,
        data: Path,
        ports: Ports,
        settings: Mapping[str, str] | None = None,
        plan: "Callable[[System], Plan] | None" = None,
    ) -> None:
        self.data = data.absolute()
        self.ports = ports
        self.supervisor = Supervisor(self.data)
        self.settings = {**(settings or {}), **ports.environment(), "NEARLINE_DATA": str(self.data)}
        load_settings(self.settings)
        self.plan = (plan or nearline_plan)(self)

    @property
    def bootstrap(self) -> str:
        """The address of Kafka."""
        return f"{HOST}:{self.ports.kafka}"

    @property
    def retrieval(self) -> str:
        """The base URL of the recommendations."""
        return f"http://{HOST}:{self.ports.retrieval}"

    @property
    def ingest(self) -> str:
        """The base URL of ingest."""
        return f"http://{HOST}:{self.ports.ingest}"

    @property
    def page(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self.ports.web}/"

    @property
    def key(self) -> str:
        """The key with all scopes of this machine's own programs."""
        return own_key(load_settings(self.settings))

    def environment(self) -> dict[str, str]:
        """The variables of every program of this system, which `bin/nearline` needs too."""
        return {**self.settings, **_LIMITS, "JAVA_HOME": str(java().parent.parent), **mark(self.data)}

    def parts(self) -> list[Part]:
        """All parts, in the order of their start."""
        return [part for wave in self.plan if not isinstance(wave, OneTimeTask) for part in wave]

    def is_up(self) -> bool:
        """Whether the supervisor of this system runs (its parts may still be starting)."""
        return self.supervisor.is_running()


def nearline_plan(system: System) -> Plan:
    """The plan: first the servers, then the topics, then the parts that need both."""
    services, flink = str(environment_python("services")), str(environment_python("flink"))
    ports, space = system.ports, load_settings(system.settings).space
    broker = ["-m", "local.broker", "--data", str(system.data / "kafka"), "--port", str(ports.kafka)]
    broker += ["--controller-port", str(ports.kafka_controller), "--metrics-port", str(ports.kafka_metrics)]
    triton = ["-m", "local.triton", "--grpc-port", str(ports.triton), "--metrics-port", str(ports.triton_metrics)]
    triton += ["--secret-file", str(system.data / "run" / "triton-secret")]

    def part(name: str, python: str, words: Sequence[str], ready: Callable[[], bool], deadline_s: float) -> Part:
        # A request waits for its answer, a click does not: on few cores retrieval has priority. So has the canary,
        # which uses little time: its own wait for a core would look like the system's delay.
        nice = 0 if name in ("retrieval", "canary") else _BEHIND_ANSWERS
        return Part(Program(name, (python, *words), {}, nice, withheld_from(name)), ready, deadline_s)

    first = [
        part("broker", services, broker, lambda: is_ready(ports.kafka), 90.0),
        part("triton", services, triton, lambda: serves_space(ports.triton, space), 90.0),
    ]
    rest = [
        part("item_tower", services, ["-m", "services.item_tower"], http_ok(ports.item_tower, "/readyz"), 180.0),
        part("user_tower", services, ["-m", "services.user_tower"], http_ok(ports.user_tower, "/readyz"), 180.0),
        part("retrieval", services, ["-m", "services.retrieval"], http_ok(ports.retrieval, "/readyz"), 180.0),
        part("ingest", services, ["-m", "services.ingest"], http_ok(ports.ingest, "/readyz"), 180.0),
        part("last_n", flink, ["-m", "flink_jobs.last_n.job"], http_ok(ports.job, "/readyz"), 180.0),
        part("web", services, ["-m", "services.web"], http_ok(ports.web, "/readyz"), 180.0),
    ]
    if load_settings(system.settings).canary_every_s:
        rest.append(part("canary", services, ["-m", "services.canary"], http_ok(ports.canary, "/readyz"), 60.0))
    topics = OneTimeTask("topics", (services, "-m", "nearline.cli", "init"))
    return [first, topics, OneTimeTask("key", (services, "-m", "nearline.cli", "keys", "ensure")), rest]


def withheld_from(name: str) -> tuple[str, ...]:
    """The secrets that the part or task *name* does not get."""
    return tuple(variable for variable, parts in SECRETS.items() if name not in parts)


def serves_space(port: int, space: int) -> bool:
    """Whether Triton on *port* serves both towers of *space*; what else it serves or refuses does not matter."""
    return all(is_served(f"{HOST}:{port}", tower, str(space)) for tower in (USER_TOWER, ITEM_TOWER))


def http_ok(port: int, path: str) -> Callable[[], bool]:
    """A check whether *path* answers 200."""

    def probe() -> bool:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=2.0) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.HTTPError):
            return False

    return probe


def up(system: System, say: Say, *, end_with_us: bool = False, held_back: Collection[str] = ()) -> None:
    """Start every part and return when all are ready; if one fails, stop all that were started.

    The parts *held_back*, by name, wait for ``start``; running ones stay.
    """
    with _alone(system.data):
        running = system.is_up()
        if running:
            _refuse_other_settings(system)
        else:
            _heal(system, say)
            _refuse_taken_ports(system.ports)
        try:
            if not running:
                _start_supervisor(system, end_with_us=end_with_us)
            _start_parts(system, say, held_back)
        except BaseException:
            if not running:
                say("  stopping what was started")
                system.supervisor.stop()
            raise


def start(system: System, names: Collection[str], say: Say) -> None:
    """Start the parts that ``up`` held back, and return when they are ready; unknown names are ignored."""
    with _alone(system.data):
        _start_wave(system, [part for part in system.parts() if part.name in names], say)


def stop(system: System, say: Say) -> None:
    """Stop every process of the system; can be called at any time."""
    with _alone(system.data), uninterrupted():
        before = len(processes_of(system.data))
        forced = system.supervisor.stop()
        left = processes_of(system.data)
    if left:
        raise Unavailable(f"could not end {', '.join(map(describe, left))}")
    say(f"  stopped, {before} processes ended" if before else "  nothing was running")
    if forced:
        say(f"  {len(forced)} of them had to be killed")


def reset(system: System, say: Say) -> None:
    """Stop the system and delete all its data: topics, vectors, checkpoints, logs."""
    if system.data.exists() and not _settings_file(system.data).exists():
        raise Misconfigured(f"{system.data} holds no system of ours (no {_settings_file(system.data)}): not deleted")
    stop(system, say)
    if system.data.exists():
        shutil.rmtree(system.data)
        say(f"  deleted {system.data}")


@contextmanager
def embedded_system(
    data: Path, ports: Ports | None = None, *, settings: Mapping[str, str] | None = None, say: Say = lambda line: None
) -> Iterator[System]:
    """The whole system, ready, on free ports unless *ports* are given; at exit its processes end and the data stays.

    *settings* are further NEARLINE_* variables. There is no canary unless they enable it: tests and benchmarks count
    only their own clicks. The system ends with this process, in whatever way this process ends.
    """
    system = System(data, ports or Ports.free(), {"NEARLINE_CANARY_EVERY_S": "0", **(settings or {})})
    up(system, say, end_with_us=True)
    try:
        yield system
    finally:
        stop(system, say)


def _start_supervisor(system: System, *, end_with_us: bool) -> None:
    system.data.mkdir(parents=True, exist_ok=True)
    system.data.chmod(0o700)  # also one that an earlier release made
    # Before the start: a command that finds the system running needs its settings too.
    _settings_file(system.data).parent.mkdir(parents=True, exist_ok=True)
    _settings_file(system.data).touch()
    _settings_file(system.data).chmod(0o600)  # it may hold passwords
    _settings_file(system.data).write_text(json.dumps(system.settings, indent=2, sort_keys=True) + "\n")
    programs = [part.program for part in system.parts()]
    system.supervisor.start(programs, system.environment(), end_with_us=end_with_us)


def _start_parts(system: System, say: Say, held_back: Collection[str]) -> None:
    for wave in system.plan:
        if isinstance(wave, OneTimeTask):
            _do(system, wave, say)
        else:
            _start_wave(system, [part for part in wave if part.name not in held_back], say)


def _start_wave(system: System, parts: Sequence[Part], say: Say) -> None:
    for part in parts:
        system.supervisor.start_program(part.name)
    _await(system, parts, say)


def _do(system: System, task: OneTimeTask, say: Say) -> None:
    started = time.monotonic()
    environment = {**surroundings(os.environ), **system.environment()}
    for name in withheld_from(task.name):
        environment.pop(name, None)
    done = subprocess.run(
        task.command, cwd=ROOT, env=environment, umask=UMASK, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Unavailable(f"{task.name} failed ({done.returncode}):\n{(done.stdout + done.stderr).strip()[-2000:]}")
    say(f"  {task.name:<11} done   {time.monotonic() - started:5.1f} s")


def _await(system: System, parts: Sequence[Part], say: Say) -> None:
    """Report when each part becomes ready; raise an error with the log's end for the first that fails."""
    started = time.monotonic()
    waiting = list(parts)
    before = {part.name: len(system.supervisor.ends_of(part.name)) for part in parts}
    while waiting:
        for part in list(waiting):
            waited_s = time.monotonic() - started
            if part.is_ready():
                waiting.remove(part)
                say(f"  {part.name:<11} ready  {waited_s:5.1f} s")
            else:
                _refuse_failed(system, part, system.supervisor.ends_of(part.name)[before[part.name] :], waited_s)
        time.sleep(0.1)


def _refuse_failed(system: System, part: Part, ends: Sequence[int], waited_s: float) -> None:
    if _MISCONFIGURED in ends:
        why = "refuses to start"
    elif len(ends) >= _DEATHS_ALLOWED or system.supervisor.state_of(part.name) == "FATAL":
        why = "keeps dying"
    elif waited_s > part.deadline_s:
        why = f"was not ready within {part.deadline_s:.0f} s"
    else:
        return
    log = system.supervisor.log_of(part.name)
    raise Unavailable(f"{part.name} {why}; the end of {log}:\n{system.supervisor.tail(part.name)}")


def _heal(system: System, say: Say) -> None:
    left = processes_of(system.data)
    if left:
        say(f"  ending {len(left)} processes left by an interrupted run")
    system.supervisor.stop()


def _refuse_taken_ports(ports: Ports) -> None:
    def taken_now() -> list[tuple[str, int]]:
        return [(name, port) for name, port in ports.by_name().items() if not is_free(port)]

    # A killed process may hold its ports a moment longer.
    wait_until(lambda: not taken_now(), 2.0)
    taken = taken_now()
    if taken:
        lines = [
            f"port {port} ({name}) is held by {holder(port)}: end it or set {variable_of(name)}" for name, port in taken
        ]
        raise Misconfigured("\n  ".join(lines))


def _refuse_other_settings(system: System) -> None:
    running = json.loads(_settings_file(system.data).read_text())
    if running != system.settings:
        differing = sorted(name for name, _ in running.items() ^ system.settings.items())
        raise Misconfigured(f"it is running with other settings ({', '.join(set(differing))}): `make stop` first")


def _settings_file(data: Path) -> Path:
    return data / "run" / "settings.json"


@contextmanager
def _alone(data: Path) -> Iterator[None]:
    """Prevent two commands from starting or stopping the same system at the same time."""
    # Not in the data folder, which `reset` deletes.
    lock = BUILD / "locks" / hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misconfigured(f"another command is starting or stopping the system in {data}: wait for it") from None
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore a second Ctrl-C while stopping."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def addresses(system: System) -> str:
    """The addresses of all parts, for people."""
    ports = system.ports
    untold = {"NEARLINE_DATA", "NEARLINE_KAFKA_PASSWORD"}
    moved = {name: value for name, value in system.settings.items() if ports != Ports() and name not in untold}
    lines = [
        f"the page         {system.page} (the shop), {system.page}operator",
        f"recommendations  {system.retrieval}/recommend/<user_id>",
        f"events, items    {system.ingest}/events, /items/<item_id>, /users/<user_id>",
        f"Kafka            {system.bootstrap}",
        f"Triton           {HOST}:{ports.triton} (gRPC), metrics http://{HOST}:{ports.triton_metrics}/metrics",
        f"Flink            http://{HOST}:{ports.flink_rest}",
        f"logs             {system.supervisor.logs}",
        f'key              {system.data / "key"} (curl -H "Authorization: Bearer $(cat {system.data / "key"})")',
        "stop             make stop (keeps the data), make reset (deletes it)",
        *(f"export {name}={value}" for name, value in sorted(moved.items())),
    ]
    return "\n".join(f"  {line}" for line in lines)


def status(system: System, say: Say) -> None:
    """Print one line per part: supervisord's state, the process and whether it is ready."""
    if not system.is_up():
        say("  not running")
        return
    for part in system.parts():
        state, pid = system.supervisor.state_of(part.name), system.supervisor.pid_of(part.name)
        say(f"  {part.name:<11} {state:<9} {'ready' if part.is_ready() else 'not ready':<10} pid {pid or '-'}")


def system_of_this_machine() -> System:
    """The system configured by NEARLINE_* variables and their defaults."""
    # Its programs use the key in its own data folder, whatever key is exported for another system.
    given = {name: value for name, value in os.environ.items() if name.upper().startswith(PREFIX)}
    given.pop("NEARLINE_KEY", None)
    return System(data_folder(), Ports.from_environment(), given)


def _confirmed(data: Path) -> bool:
    return input(f"delete {data} with all topics, vectors and checkpoints? [y/N] ").strip().lower() in ("y", "yes")


def interrupt_on_sigterm() -> None:
    """Make SIGTERM unwind this process as Ctrl-C does, so that everything opened is closed."""
    # A shell that starts us in the background makes us ignore SIGINT; one that is sent explicitly should work.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def main() -> None:
    """Start, stop, show or reset the system of this machine."""
    parser = argparse.ArgumentParser(prog="python -m local.system", description=main.__doc__)
    parser.add_argument("command", choices=("up", "stop", "status", "reset"))
    parser.add_argument("--yes", action="store_true", help="reset without asking")
    given = parser.parse_args()
    interrupt_on_sigterm()
    try:
        system = system_of_this_machine()
        if given.command == "up":
            up(system, print)
            print(addresses(system))
        elif given.command == "reset" and (given.yes or not system.data.exists() or _confirmed(system.data)):
            reset(system, print)
        elif given.command == "stop":
            stop(system, print)
        elif given.command == "status":
            status(system, print)
    except NearlineError as problem:
        sys.exit(f"{given.command}: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
