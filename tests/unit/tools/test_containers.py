"""`make containers`, without an engine: what is skipped and why, deadlines, and what goes into the images."""

import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from local.layout import ROOT
from tools.containers.__main__ import BUILT, KILLED, LASTING
from tools.containers.commands import Failed, Skipped, run, wait_for
from tools.containers.engine import debian_mirror, refuse_unsuitable
from tools.containers.images import PULLED_BASE, names_in
from tools.containers.project import MOUNTED, Container, staged
from tools.containers.stand_ins import IMAGES_OF_OTHERS
from tools.containers.story import OPEN_PORTS, ports_for_others

DEBIAN = {"ID": "debian", "VERSION_ID": "12"}


@pytest.mark.parametrize(
    ("release", "is_root", "reason"),
    [
        ({"ID": "ubuntu", "VERSION_ID": "24.04"}, True, "Debian 12"),
        ({"ID": "debian", "VERSION_ID": "13"}, True, "Debian 12"),
        ({}, True, "Debian 12"),
        (DEBIAN, False, "root"),
    ],
    ids=["another system", "another Debian", "unknown", "not root"],
)
def test_a_machine_that_cannot_start_an_engine_is_skipped_with_the_reason(
    tmp_path: Path, release: dict[str, str], is_root: bool, reason: str
) -> None:
    with pytest.raises(Skipped, match=reason):
        refuse_unsuitable(tmp_path, release, is_root=is_root)


def test_a_folder_that_is_not_there_yet_is_looked_for_space_above(tmp_path: Path) -> None:
    refuse_unsuitable(tmp_path / "a" / "b", DEBIAN, is_root=True, needed_gib=0)
    with pytest.raises(Skipped, match=f"100000 GiB free in {tmp_path}"):
        refuse_unsuitable(tmp_path / "a" / "b", DEBIAN, is_root=True, needed_gib=100_000)


def test_skipped_is_said_and_is_no_failure(tmp_path: Path) -> None:
    """A continuous integration without an engine goes on."""
    for program in ("docker", "apt-get"):  # neither an engine nor a way to get one
        (tmp_path / program).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / program).chmod(0o755)
    environment = {**os.environ, "PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "tools.containers"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "containers: skipped" in done.stdout


def test_a_command_that_passes_its_deadline_is_ended_and_shown() -> None:
    with pytest.raises(Failed, match=r"did not end within 0 s:\nwaiting"):
        run([sys.executable, "-c", "import time; print('waiting', flush=True); time.sleep(60)"], 0.4)


def test_a_command_that_fails_is_shown_with_its_words() -> None:
    with pytest.raises(Failed, match=r"ended with 3:\nno such thing"):
        run(["sh", "-c", "echo no such thing >&2; exit 3"], 10.0)
    with pytest.raises(Failed, match="no-such-program"):
        run(["no-such-program"], 10.0)


def test_a_wait_ends_with_the_last_problem() -> None:
    with pytest.raises(Failed, match=r"the containers: not within 0 s: web is starting"):
        wait_for("the containers", lambda: "web is starting", 0.01, pause_s=0.001)


@pytest.mark.parametrize(
    ("state", "health", "exit_code", "problem"),
    [
        ("running", "healthy", 0, None),
        ("running", "", 0, None),
        ("running", "starting", 0, "web is running starting"),
        ("exited", "", 0, None),
        ("exited", "", 1, "web is exited"),
        ("restarting", "", 1, "web is restarting"),
    ],
)
def test_a_container_is_well_when_it_is_healthy_or_ended_well(
    state: str, health: str, exit_code: int, problem: str | None
) -> None:
    assert Container("x-web-1", "web", state, health, exit_code).problem == problem


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (
            "sources.list.d/debian.sources",
            "Types: deb\n# a comment\nURIs: http://one.example/debian\nSuites: bookworm\n",
        ),
        (
            "sources.list",
            "deb http://security.example/debian-security x main\ndeb [arch=amd64] http://one.example/debian x main\n",
        ),
    ],
)
def test_packages_come_from_where_this_machine_takes_its_own(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    assert debian_mirror(tmp_path) == "http://one.example/debian"


def test_a_machine_without_sources_cannot_make_a_base(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="names no source"):
        debian_mirror(tmp_path)


def test_what_is_not_in_the_list_is_not_in_the_image() -> None:
    """Names are compared as pip does; the packages of tests and linters stay out."""
    text = "PyJWT[crypto]==2.1 \\\n    --hash=sha256:0\n    # via x\nruamel.yaml==1 \\\nlz4==4.4.5 \\\n"
    assert names_in([text]) == {"pyjwt", "ruamel-yaml", "lz4"}


def test_the_copy_is_one_that_only_its_owner_reads_but_for_what_is_mounted(tmp_path: Path) -> None:
    """So that each run shows that images need no readable checkout."""
    tree = staged(tmp_path)
    assert (tree / "nearline/__init__.py").stat().st_mode & 0o777 == 0o600
    assert (tree / "deploy/prometheus/prometheus.yml").stat().st_mode & 0o777 == 0o644
    assert (tree / "model_repository").stat().st_mode & 0o777 == 0o755
    assert not (tree / "tests").exists()


def test_every_part_of_the_compose_file_is_tried_and_every_image_of_others_has_a_stand_in() -> None:
    """A new service is killed by ``FULL=1`` like the others, and its image is built or stood in for."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / "docker-compose.yml").read_text())
    services = yaml.safe_load(text)["services"]
    running = {name: s for name, s in services.items() if "profiles" not in s}
    lasting = {name for name, s in running.items() if s["restart"] == "unless-stopped"}
    assert lasting - {"couchbase"} == set(LASTING)
    assert set(KILLED) <= set(LASTING)
    others = {name: s["image"] for name, s in running.items() if "build" not in s}
    assert others == IMAGES_OF_OTHERS
    assert {s["image"] for s in running.values() if "build" in s} == {
        services[each]["image"] for each in BUILT if each not in others
    }
    assert {s["build"]["args"]["BASE"] for s in running.values() if "build" in s} == {PULLED_BASE}


def test_the_copy_lets_others_read_everything_that_a_container_mounts() -> None:
    """Triton's files, Prometheus' and so on are read by users of the containers' own."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    mounts = {str(each).partition(":")[0] for service in services for each in service.get("volumes", [])}
    files = {mount.removeprefix("./") for mount in mounts if mount.startswith("./")}
    assert files, "the compose file mounts files of the checkout"
    assert [file for file in files if not file.startswith(MOUNTED)] == []


def test_ports_that_a_container_has_for_others_are_told_from_those_for_itself() -> None:
    """By this machine's own table, with one socket of each kind."""
    kinds = [
        ("127.0.0.1", socket.AF_INET),
        ("0.0.0.0", socket.AF_INET),
        ("::1", socket.AF_INET6),
        ("::", socket.AF_INET6),
    ]
    kinds += [("::", socket.AF_INET6), ("::ffff:127.0.0.1", socket.AF_INET6)]
    with ExitStack() as stack:
        opened: dict[str, int] = {}
        for address, family in kinds:
            listening = stack.enter_context(socket.socket(family))
            listening.bind((address, 0))
            listening.listen()
            opened[address] = listening.getsockname()[1]
        tables = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        found = ports_for_others(tables) & set(opened.values())
    assert found == {opened["0.0.0.0"], opened["::"]}


def test_every_lasting_container_has_its_open_ports_named() -> None:
    assert OPEN_PORTS.keys() == set(LASTING)
