"""An engine for containers: the machine's own, or one that is started here for as long as it is needed.

A Debian 12 machine without an engine gets Docker 26 with Compose and Buildx from Debian 13's archive, unpacked into a
folder and not installed (of Debian 12's own packages iptables, runc and debootstrap are installed): they run on its
libraries, and Debian 12's own Docker knows no ``start_interval``. The packages, and the images that were built, stay in
that folder. When the program ends, however it ends, the engine ends too, and its changes of the network are undone.
Every wait has a deadline; a machine that cannot run an engine is ``Skipped``.
"""

import ctypes
import fcntl
import os
import platform
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from local.system import uninterrupted
from tools.containers.commands import Failed, Skipped, run, wait_for

INSTALLED = {"iptables": "iptables", "runc": "runc", "debootstrap": "debootstrap"}  # program -> package
_UNPACKED = ("docker.io", "docker-cli", "containerd", "docker-compose", "docker-buildx", "tini")
_PROGRAMS = {
    "containerd": "usr/bin/containerd",
    "containerd-shim-runc-v2": "usr/bin/containerd-shim-runc-v2",
    "docker": "usr/bin/docker",
    "dockerd": "usr/sbin/dockerd",
    "docker-proxy": "usr/sbin/docker-proxy",
    "docker-init": "usr/bin/tini-static",
}
_TABLES = ("filter", "nat", "mangle", "raw")
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_NEEDED_GIB = 12
_START_S = 60.0
_STOP_S = 60.0
_OLDEST_COMPOSE = (2, 24)


@dataclass(frozen=True)
class Engine:
    """A running engine: the variables by which ``docker`` finds it, and whether it is the machine's own."""

    variables: Mapping[str, str]
    is_ours: bool

    def docker(self, *words: str, deadline_s: float = 60.0) -> str:
        """The output of a docker command."""
        return run(["docker", *words], deadline_s, env=self.variables)


@contextmanager
def running_engine(folder: Path) -> Iterator[Engine]:
    """An engine: the machine's own if it has a usable one, else one with all its files in *folder*, stopped at exit."""
    if has_own_engine():
        yield Engine({}, is_ours=False)
        return
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    refuse_unsuitable(folder, release, is_root=os.geteuid() == 0)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        server = Server(folder)
        server.clean_up()
        server.prepare()
        try:
            server.start()
            yield Engine(server.variables, is_ours=True)
        finally:
            with uninterrupted():
                server.stop()


def has_own_engine() -> bool:
    """Whether ``docker`` of this machine reaches an engine and has a Compose that knows our files."""
    try:
        run(["docker", "version", "--format", "{{.Server.Version}}"], 20.0)
        found = run(["docker", "compose", "version", "--short"], 20.0)
    except Failed:
        return False
    return tuple(map(int, re.findall(r"\d+", found)[:2])) >= _OLDEST_COMPOSE


def refuse_unsuitable(
    folder: Path, release: Mapping[str, str], *, is_root: bool, needed_gib: int = _NEEDED_GIB
) -> None:
    """``Skipped`` with the reason if no engine can be started in *folder* of a machine with that /etc/os-release."""
    if (release.get("ID"), release.get("VERSION_ID")) != ("debian", "12"):
        raise Skipped("there is no engine here, and one can be started on Debian 12 only")
    if not is_root:
        raise Skipped("there is no engine here, and only root can start one")
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free_gib = shutil.disk_usage(existing).free >> 30
    if free_gib < needed_gib:
        raise Skipped(f"an engine needs {needed_gib} GiB free in {existing}, there are {free_gib}")


class Server:
    """dockerd with all its files in *folder*; ``start`` may follow ``stop``, and ``stop`` is safe at any time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._before = folder / "network.before"
        self.variables = {
            "DOCKER_HOST": f"unix://{folder}/d.sock",
            "DOCKER_CONFIG": str(folder / "config"),
            "PATH": f"{folder / 'bin'}:{os.environ.get('PATH', os.defpath)}",
        }

    def prepare(self) -> None:
        """Fetch what is missing; ``Skipped`` if this machine's package archive does not give it."""
        try:
            self._install()
            if not (self._folder / "bin" / "dockerd").exists():
                self._unpack()
        except Failed as problem:
            raise Skipped(f"the engine's packages could not be fetched: {problem}") from None

    def start(self) -> None:
        """Start dockerd; ``Skipped`` with the end of its log if it is not ready in time."""
        self._note_network()
        words = ["dockerd", "--data-root", self._folder / "lib", "--exec-root", self._folder / "run"]
        words += ["--pidfile", self._folder / "dockerd.pid", "-H", self.variables["DOCKER_HOST"]]
        log = self._folder / "dockerd.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                list(map(str, words)),
                env={**os.environ, **self.variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for us: the containers are taken down first
                preexec_fn=_end_with_parent,
            )
        try:
            wait_for("the engine", self._problem, _START_S)
        except Failed as problem:
            raise Skipped(f"{problem}; the end of {log}:\n{log.read_text(errors='replace')[-2000:]}") from None

    def stop(self) -> None:
        """End dockerd, by force if it does not end in time, and undo its changes of the network."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        _end_programs_of(self._folder)
        self._undo_network()
        _unmount_below(self._folder)

    def clean_up(self) -> None:
        """End what an interrupted run left."""
        with suppress(OSError, ValueError):
            pid = int((self._folder / "dockerd.pid").read_text())
            if b"dockerd" in _command_line(pid):
                os.kill(pid, signal.SIGTERM)
                wait_for("the end of an earlier engine", lambda: _running(pid), _STOP_S)
        (self._folder / "dockerd.pid").unlink(missing_ok=True)
        self._undo_network()

    def _problem(self) -> str | None:
        assert self._process is not None
        if (status := self._process.poll()) is not None:
            raise Failed(f"dockerd ended with {status}")
        try:
            run(["docker", "version"], 10.0, env=self.variables)
        except Failed as problem:
            return str(problem)
        return None

    def _install(self) -> None:
        missing = [package for program, package in INSTALLED.items() if shutil.which(program) is None]
        if missing:
            quiet = {"DEBIAN_FRONTEND": "noninteractive"}
            run(["apt-get", "update"], 180.0)
            run(["apt-get", "install", "-y", "--no-install-recommends", *missing], 180.0, env=quiet)

    def _unpack(self) -> None:
        """Debian 13's packages, by this machine's own configuration of apt and with Debian's own keys."""
        apt, files = self._folder / "apt", self._folder / "packages"
        for each in (apt / "lists" / "partial", apt / "cache" / "archives" / "partial", apt / "debs", files):
            each.mkdir(parents=True, exist_ok=True)
        keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
        (apt / "sources.list").write_text(f"deb [signed-by={keys}] {debian_mirror()} trixie main\n")
        options = [f"Dir::Etc::sourcelist={apt}/sources.list", "Dir::Etc::sourceparts=/dev/null"]
        options += [f"Dir::State::lists={apt}/lists", f"Dir::Cache={apt}/cache", "APT::Sandbox::User=root"]
        get = ["apt-get", *(word for option in options for word in ("-o", option))]
        run([*get, "update"], 180.0)
        run([*get, "download", *_UNPACKED], 300.0, cwd=apt / "debs")
        for deb in (apt / "debs").glob("*.deb"):
            run(["dpkg", "-x", str(deb), str(files)], 120.0)
        self._link(files)

    def _link(self, files: Path) -> None:
        plugins = self._folder / "config" / "cli-plugins"
        programs = self._folder / "bin"
        for each in (plugins, programs):
            shutil.rmtree(each, ignore_errors=True)
            each.mkdir(parents=True)
        for name in ("docker-compose", "docker-buildx"):
            (plugins / name).symlink_to(files / "usr/libexec/docker/cli-plugins" / name)
        # Debian 13's runc needs a newer libc: Debian 12's is installed. dockerd is linked last: it marks the end.
        for name, path in sorted(_PROGRAMS.items(), key=lambda pair: pair[0] == "dockerd"):
            (programs / name).symlink_to(files / path)

    def _note_network(self) -> None:
        tables = "".join(run(["iptables-save", "-t", table], 20.0) for table in _TABLES)
        links = " ".join(sorted(path.name for path in Path("/sys/class/net").iterdir()))
        self._before.write_text(f"{_FORWARDING.read_text().strip()}\n{links}\n{tables}")

    def _undo_network(self) -> None:
        if not self._before.exists():
            return
        forwarding, links, tables = self._before.read_text().split("\n", 2)
        (self._folder / "iptables").write_text(tables)
        with (self._folder / "iptables").open("rb") as saved:
            run(["iptables-restore"], 20.0, given=saved)
        for path in Path("/sys/class/net").iterdir():
            if path.name not in links.split() and path.name.startswith(("docker0", "br-", "veth")):
                with suppress(Failed):
                    run(["ip", "link", "del", path.name], 20.0)
        _FORWARDING.write_text(forwarding)
        self._before.unlink()


def debian_mirror(configuration: Path = Path("/etc/apt")) -> str:
    """Where this machine takes Debian's packages from, by its own list of sources."""
    files = [configuration / "sources.list.d" / "debian.sources", configuration / "sources.list"]
    for line in "\n".join(file.read_text() for file in files if file.exists()).splitlines():
        found = re.match(r"(?:URIs:|deb (?:\[[^]]*\] )?) *(\S+)", line)
        if found and "security" not in found[1]:
            return found[1]
    raise Failed(f"{configuration} names no source of Debian's packages")


def _running(pid: int) -> str | None:
    return f"process {pid} is running" if Path(f"/proc/{pid}").exists() else None


def _end_programs_of(folder: Path) -> None:
    """Wait a moment for what dockerd started (a shim for each container) to end by itself, then kill the rest."""

    def running() -> list[int]:
        return [pid for pid in _pids() if _is_program_of(folder, _command_line(pid))]

    with suppress(Failed):
        wait_for("the end of dockerd's programs", lambda: f"{running()} run" if running() else None, 10.0)
    for pid in running():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _is_program_of(folder: Path, command_line: bytes) -> bool:
    program = command_line.partition(b"\0")[0].decode(errors="replace").rpartition("/")[2]
    return program in _PROGRAMS and program != "docker" and f"{folder}/".encode() in command_line


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _unmount_below(folder: Path) -> None:
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for path in sorted((path for path in mounted if path.startswith(f"{folder}/")), reverse=True):
        with suppress(Failed):
            run(["umount", path], 20.0)


def _end_with_parent() -> None:
    """Have Linux end this process when its parent dies for any reason."""
    parent_death_signal = 1
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGTERM)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """``Skipped`` if another program of this machine has the engine of *folder*."""
    with (folder / "lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Skipped(f"another run has the engine in {folder}") from None
        yield
