"""One compose project in an engine: it is started, watched, killed in part, and taken down with its volumes."""

import json
import os
import resource
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from local.layout import ROOT
from local.ports import free_ports
from tools.containers.commands import Failed, run, wait_for
from tools.containers.engine import Engine

NAME = "nearline-trial-run"
_DOORS = ("RETRIEVAL", "INGEST", "WEB", "PROXY", "KAFKA", "FLINK", "COUCHBASE", "PROMETHEUS", "GRAFANA")
_PORTS = tuple(f"{door}_PORT" for door in _DOORS)
# What images are made of, and what containers mount; the rest of the checkout is not needed.
_BUILT_FROM = ("nearline", "nearline_client", "services", "flink_jobs", "local", "requirements", "deploy")
_READ = ("grafana", "milvus", "prometheus", "proxy", "triton")
MOUNTED = ("model_repository", "data", *(f"deploy/{name}" for name in _READ))


def staged(folder: Path) -> Path:
    """A copy of the checkout as one under umask 077 has it, but for what containers mount: that others must read."""
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    for name in (*_BUILT_FROM, "model_repository", "data"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("docker-compose.yml", "docker-compose.light.yml", ".dockerignore"):
        shutil.copy2(ROOT / file, tree)
    for path in (tree, *tree.rglob("*")):
        path.chmod(0o700 if path.is_dir() or os.access(path, os.X_OK) else 0o600)
    for path in [
        tree,
        tree / "deploy",
        *(each for name in MOUNTED for each in (tree / name, *(tree / name).rglob("*"))),
    ]:
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    return tree


@dataclass(frozen=True)
class Container:
    """One container as compose lists it."""

    name: str
    service: str
    state: str
    health: str
    exit_code: int

    @property
    def problem(self) -> str | None:
        """Why it is not as it should be: running and healthy, or ended well."""
        if self.state == "exited" and self.exit_code == 0:
            return None
        if self.state == "running" and self.health in ("", "healthy"):
            return None
        return f"{self.service} is {self.state} {self.health}".strip()


class Project:
    """The compose files *files* in *tree*, with *changes* of their services, under ports that are free here."""

    def __init__(
        self, engine: Engine, tree: Path, folder: Path, files: Sequence[str], changes: Mapping[str, object]
    ) -> None:
        self._engine = engine
        (folder / "changes.json").write_text(json.dumps({"services": changes}))
        paths = [*(str(tree / file) for file in files), str(folder / "changes.json")]
        self._file = folder / "compose.json"
        self._file.write_text(json.dumps({"name": NAME, "include": [{"path": paths, "project_directory": str(tree)}]}))
        self.ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self._variables = {**engine.variables, **{name: str(port) for name, port in self.ports.items()}}
        self._variables["COMPOSE_PROGRESS"] = "plain"
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if most != resource.RLIM_INFINITY:
            self._variables["COUCHBASE_OPEN_FILES"] = str(min(200_000, most))

    def compose(self, *words: str, deadline_s: float = 120.0, given: Path | None = None) -> str:
        """The output of a compose command."""
        command = ["docker", "compose", "-f", str(self._file), *words]
        return run(command, deadline_s, env=self._variables)

    def containers(self) -> list[Container]:
        """All containers of the project, also those that ended."""
        lines = self.compose("ps", "--all", "--format", "json").splitlines()
        told = [json.loads(line) for line in lines if line.strip()]
        return [Container(c["Name"], c["Service"], c["State"], c["Health"], c["ExitCode"]) for c in told]

    def wait_until_well(self, deadline_s: float, services: Sequence[str] = ()) -> None:
        """Wait until every container (or those of *services*) is healthy, or has ended well."""

        def problem() -> str | None:
            found = [each for each in self.containers() if not services or each.service in services]
            return "; ".join(filter(None, (each.problem for each in found))) or (None if found else "no container")

        try:
            wait_for("the containers", problem, deadline_s, pause_s=1.0)
        except Failed as late:
            raise Failed(f"{late}\n{self.logs_of_the_unwell()}") from None

    def logs_of_the_unwell(self) -> str:
        """The end of the log of each container that is not as it should be."""
        unwell = [each.service for each in self.containers() if each.problem]
        return "\n".join(self.compose("logs", "--no-color", "--tail", "25", service) for service in unwell)

    def inside(self, service: str, *command: str, deadline_s: float = 60.0) -> str:
        """The output of *command* in the running container of *service*."""
        return self.compose("exec", "-T", service, *command, deadline_s=deadline_s)

    def once(self, service: str, *command: str, deadline_s: float = 90.0) -> str:
        """The output of *command* in a container of its own, as *service* describes it."""
        return self.compose("run", "--rm", "--no-deps", "-T", service, *command, deadline_s=deadline_s)

    def kill(self, service: str) -> None:
        """Kill every process of the service's container without warning, and wait until the engine started it again."""
        (container,) = [each.name for each in self.containers() if each.service == service]
        before = self._restarts(container)
        with suppress(Failed):  # the command itself is killed as well
            self.inside(service, "bash", "-c", "kill -9 -1")
        wait_for(
            f"the restart of {service}", lambda: None if self._restarts(container) > before else "not restarted", 60.0
        )

    def _restarts(self, container: str) -> int:
        return int(self._engine.docker("inspect", "--format", "{{.RestartCount}}", container))

    def volumes(self) -> list[str]:
        """The names of all volumes of the engine."""
        return self._engine.docker("volume", "ls", "--format", "{{.Name}}").split()

    def down(self, *, with_data: bool) -> None:
        """Take the project down."""
        words = ["down", "--timeout", "20", *(["--volumes", "--remove-orphans"] if with_data else [])]
        self.compose("--profile", "*", *words, deadline_s=180.0)
