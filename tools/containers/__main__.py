"""Builds, starts, tries and takes down the containers: `make containers`.

    .venv/services/bin/python -m tools.containers [--full]

The trial's file (docker-compose.light.yml), in the engine of this machine or in one that is started for it: a click
changes an answer, `nearline status` finds every part, two replicas continue one another's lists, what is killed comes
back, and `down` and `up` keep the data. With ``--full`` every part is killed, the images are built from the
Dockerfiles alone, and the whole file is tried too, with stand-ins for the images that cannot be pulled; they are
named. On a machine that cannot run containers it says why, and the exit status is 0.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from local.system import interrupt_on_sigterm
from tools.containers.commands import Failed, Skipped
from tools.containers.engine import Engine, running_engine
from tools.containers.images import PULLED_BASE, can_copy_environments, overrides, python_base, remove_old
from tools.containers.project import Project, staged
from tools.containers.stand_ins import stand_ins
from tools.containers.story import (
    TrialShop,
    flink_refuses_other_sites,
    no_nameless_volumes,
    no_other_port_is_open,
    status_knows_every_part,
)

_WHOLE = "docker-compose.yml"
_LIGHT = (_WHOLE, "deploy/light.yml")
BUILT = ("kafka", "jobmanager", "triton", "ingest")  # one service for each image
KILLED = ("kafka", "jobmanager", "retrieval")
LASTING = (*KILLED, "taskmanager", "triton", "item_tower", "user_tower", "ingest", "web", "canary")
_REPLICAS = ("retrieval-1", "retrieval-2")
_UP_S = 300.0
StepResult = TypeVar("StepResult")


class Steps:
    """Runs steps one after the other, and prints the time of each."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, what: str, step: Callable[[], StepResult]) -> StepResult:
        started = time.monotonic()
        print(f"  {what:<58}", end=" ", flush=True)
        result = step()
        print(f"{time.monotonic() - started:6.1f} s", flush=True)
        return result

    def end(self) -> None:
        """Print the time since the first step."""
        print(f"  {'together':<58} {time.monotonic() - self._began:6.1f} s", flush=True)


@dataclass(frozen=True)
class ContainerTrial:
    """A project to try: the services to build and to kill, and whether its store keeps documents when it ends."""

    project: Project
    built: Sequence[str]
    killed: Sequence[str]
    keeps_documents: bool = True


def try_light(engine: Engine, folder: Path, steps: Steps, *, full: bool) -> None:
    """Everything that the trial's file promises."""
    changes = steps("images that the builds begin with", lambda: _changes(engine, folder, full=full))
    project = Project(engine, staged(folder), folder, _LIGHT, changes)
    _try(ContainerTrial(project, BUILT, LASTING if full else KILLED), steps)


def try_whole(engine: Engine, folder: Path, steps: Steps) -> None:
    """The same with the whole file; what stands in for images that cannot be pulled is printed."""
    base = python_base(engine, folder) if engine.is_ours else PULLED_BASE
    found = steps("stand-ins for what cannot be pulled", lambda: stand_ins(engine, base, folder))
    for said in found.said:
        print(f"    {said}", flush=True)
    changes = {**_bases(base, ("kafka", "jobmanager", "ingest")), **found.services}
    project = Project(engine, staged(folder), folder, (_WHOLE,), changes)
    built = [service for service in BUILT if service in changes]
    _try(ContainerTrial(project, built, LASTING, keeps_documents="couchbase" not in found.services), steps)


def _try(trial: ContainerTrial, steps: Steps) -> None:
    """Build, use, and take the project down; nothing of it and of its data is left."""
    project = trial.project
    project.down(with_data=True)  # what an interrupted run left
    before = project.volumes()
    steps("build", lambda: project.compose("build", "-q", *trial.built, deadline_s=1_200.0))
    try:
        _use(trial, steps)
        steps("down", lambda: project.down(with_data=False))
        no_nameless_volumes(project, before)
    finally:
        project.down(with_data=True)


def _changes(engine: Engine, folder: Path, *, full: bool) -> Mapping[str, object]:
    """What the builds get instead of images that would be pulled."""
    if not engine.is_ours:
        return {}
    if full or not can_copy_environments():
        return _bases(python_base(engine, folder), BUILT)
    changes, kept = overrides(engine, folder)
    remove_old(engine, kept)
    return changes


def _bases(base: str, services: Sequence[str]) -> dict[str, object]:
    return {service: {"build": {"args": {"BASE": base}}} for service in services}


def _use(trial: ContainerTrial, steps: Steps) -> None:
    """Start it, click, kill, take it down and up again, and look at everything in between."""
    project = trial.project
    start = ("up", "--detach", "--no-build", "--pull", "never", "--scale", "demo=0")
    steps("up", lambda: project.compose(*start, deadline_s=_UP_S))
    steps("every container healthy", lambda: project.wait_until_well(_UP_S))
    shop = TrialShop(project)
    steps("twenty items in an answer", shop.list_items)
    for number, item_id in enumerate(("mug-0", "lamp-1", "mug-2")):
        steps(f"click {number + 1} changes the answer", partial(shop.click_changes_answer, "ada", item_id))
    steps("nearline status finds every part from inside", lambda: status_knows_every_part(project))
    steps("no container listens on a port that is not meant", lambda: no_other_port_is_open(project))
    steps("Flink refuses what other sites' pages send", lambda: flink_refuses_other_sites(project))
    replicas = ("--profile", "replicas", *start[:5], "--no-deps", *_REPLICAS)
    steps("two replicas", lambda: project.compose(*replicas, deadline_s=_UP_S))
    steps("two replicas healthy", lambda: project.wait_until_well(120.0, _REPLICAS))
    steps("one continues the other's list", lambda: shop.pages_are_shared(*_REPLICAS))
    project.compose("--profile", "replicas", "rm", "--stop", "--force", *_REPLICAS)
    for number, service in enumerate(trial.killed):
        steps(f"kill -9 of {service}: healthy again", partial(_kill, project, service))
        steps("  a click changes the answer", partial(shop.click_changes_answer, f"bob-{number}", "bag-1"))
    steps("every container healthy again", lambda: project.wait_until_well(_UP_S))
    newest = shop.newest_of("ada")
    steps("down", lambda: project.down(with_data=False))
    steps("up", lambda: project.compose(*start, deadline_s=_UP_S))
    steps("every container healthy", lambda: project.wait_until_well(_UP_S))
    steps("the items are there", shop.wait_for_items)
    if trial.keeps_documents and (newest is None or shop.newest_of("ada") != newest):
        raise Failed(f"after down and up ada's newest event is {shop.newest_of('ada')!r}, before it was {newest!r}")
    steps("a click changes the answer", lambda: shop.click_changes_answer("ada", "lamp-3"))


def _kill(project: Project, service: str) -> None:
    project.kill(service)
    project.wait_until_well(_UP_S, (service,))


def folder_of_images() -> Path:
    """Where the engine, its images and its downloads stay between two runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nearline" / "containers"


def main() -> None:
    """Try the containers, or say why that cannot be done here."""
    parser = argparse.ArgumentParser(prog="python -m tools.containers", description=main.__doc__)
    parser.add_argument(
        "--full", action="store_true", help="kill every part, build from the Dockerfiles alone, try both files"
    )
    given = parser.parse_args()
    interrupt_on_sigterm()
    folder, steps = folder_of_images(), Steps()
    try:
        with running_engine(folder) as engine:
            print(f"  engine {engine.docker('version', '--format', '{{.Server.Version}}').strip()}", flush=True)
            folder.mkdir(parents=True, exist_ok=True)
            try_light(engine, folder, steps, full=given.full)
            if given.full:
                try_whole(engine, folder, steps)
        steps.end()
    except Skipped as reason:
        print(f"\n  containers: skipped, not tried: {reason}")
    except Failed as problem:
        sys.exit(f"\ncontainers: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
