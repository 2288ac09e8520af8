"""The Dockerfiles: hadolint's rules, and what it cannot know: whether this repository has what they copy."""

import fnmatch
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local.layout import ROOT

# The lists that an image can be built from, the first if nothing else is said.
ENVIRONMENTS = {"flink": ["flink"], "services": ["services", "milvus"], "triton_local": ["triton"]}
DOCKERFILES = sorted((ROOT / "deploy").glob("*/Dockerfile"))
BASE = "python:3.11.14-slim-bookworm"
HADOLINT = Path(sys.executable).with_name("hadolint")


def instructions(dockerfile: Path, name: str) -> list[list[str]]:
    """The arguments of every instruction *name*, continuation lines joined and comments left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [line.split()[1:] for line in joined.splitlines() if line.startswith(f"{name} ")]


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets *path* through to the engine (last matching line wins)."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        rule, keeps = line.removeprefix("!"), line.startswith("!")
        if rule and not rule.startswith("#"):
            parents = [path, *(str(parent) for parent in Path(path).parents)]
            sent = keeps if any(fnmatch.fnmatch(part, rule) for part in parents) else sent
    return sent


def lint(file: Path) -> subprocess.CompletedProcess[str]:
    command = [str(HADOLINT), "--no-color", "--config", str(ROOT / "deploy" / "hadolint.yaml"), str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_there_are_the_images_that_the_compose_file_builds() -> None:
    """One image for the services, one for Flink, one for Kafka with its agent, and for a trial one for Triton."""
    assert [file.parent.name for file in DOCKERFILES] == ["flink", "kafka", "services", "triton_local"]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.parent.name)
def test_hadolint_has_nothing_to_say(dockerfile: Path) -> None:
    """Neither about the instructions nor, through shellcheck, about the commands."""
    done = lint(dockerfile)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("defect", "rule"),
    [
        ("FROM python\n", "DL3006"),
        ("FROM a:1\nRUN cd /x && pip install y\n", "DL3013"),
        ("FROM a:1\nRUN [ $x ]\n", "SC"),
    ],
    ids=["no tag", "no version", "shell"],
)
def test_hadolint_sees_a_defect(defect: str, rule: str, tmp_path: Path) -> None:
    """Our list of exceptions leaves the rest switched on."""
    file = tmp_path / "Dockerfile"
    file.write_text(defect)
    done = lint(file)
    assert done.returncode == 1
    assert rule in done.stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.parent.name)
def test_every_copied_path_exists_and_is_not_ignored(dockerfile: Path) -> None:
    """Every COPY that is not from another stage names a path of this repository which .dockerignore lets through."""
    for words in instructions(dockerfile, "COPY"):
        if not any(word.startswith("--from=") for word in words):
            sources = [word for word in words[:-1] if not word.startswith("--")]
            assert [source for source in sources if not (ROOT / source).exists()] == []
            assert [source for source in sources if not is_sent(source)] == []


@pytest.mark.parametrize("name", ["kafka", "triton_local"])
def test_an_image_that_starts_a_server_as_without_containers_has_all_that_the_start_imports(
    name: str, tmp_path: Path
) -> None:
    """The module is loaded from a folder with what the image copies and nothing else."""
    for words in instructions(ROOT / "deploy" / name / "Dockerfile", "COPY"):
        for source in words[:-1]:
            file = ROOT / source
            if not words[0].startswith("--") and file.is_dir():
                shutil.copytree(file, tmp_path / words[-1], dirs_exist_ok=True)
            elif not words[0].startswith("--"):
                target = tmp_path / words[-1] / file.name if words[-1].endswith("/") else tmp_path / words[-1]
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
    module = {"kafka": "local.broker", "triton_local": "local.triton"}[name]
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("path", "sent"),
    [(".env", False), (".venv/services", False), ("data/online-retail", False), ("nearline/ids.py", True)],
)
def test_only_what_an_image_is_made_of_is_sent(path: str, sent: bool) -> None:
    """Passwords, environments and data stay here."""
    assert is_sent(path) is sent


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.parent.name)
def test_the_image_is_pinned_and_its_processes_are_nobody_special(dockerfile: Path) -> None:
    """One Python, to the patch; the last user is a number, and not one of the system's."""
    stages = {words[-1] for words in instructions(dockerfile, "FROM") if "AS" in words}
    bases = {words[0] for words in instructions(dockerfile, "FROM")} - stages
    assert bases == {"${BASE}"}
    assert ["BASE=" + BASE] in instructions(dockerfile, "ARG"), (
        "another base can be given, with a CA bundle and a pip.conf"
    )
    assert int(instructions(dockerfile, "USER")[-1][0]) >= 1000


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.parent.name)
def test_an_image_of_a_checkout_that_only_its_owner_reads_can_be_read_by_its_user(dockerfile: Path) -> None:
    """Under umask 077 what is copied has mode 600: after the last copy everybody may read it."""
    final = dockerfile.read_text().rpartition("\nFROM ")[2]
    after = final.rpartition("\nCOPY ")[2]
    assert "chmod -R go+rX " in after.partition("\nUSER ")[0]


OF_ENVIRONMENTS = [file for file in DOCKERFILES if file.parent.name in ENVIRONMENTS]


@pytest.mark.parametrize("dockerfile", OF_ENVIRONMENTS, ids=lambda file: file.parent.name)
def test_packages_are_installed_from_the_hashed_list_only(dockerfile: Path) -> None:
    """The image holds one of its environments: nothing else is resolved while it is built."""
    text = dockerfile.read_text()
    lists = [f"requirements/{name}.txt" for name in ENVIRONMENTS[dockerfile.parent.name]]
    assert instructions(dockerfile, "COPY")[0][:-1] == lists
    assert re.search(r'--require-hashes -r (/requirements.txt|"/requirements/\$\{LIST\}.txt")', text)
    *_, environment = (stage for stage in text.split("\nFROM ") if stage.startswith("${BASE} AS environment"))
    assert re.search(
        r"pip install --no-cache-dir (--no-index --no-deps /wheels/|--no-deps --require-hashes)", environment
    )
    assert len(re.findall(r"\bpip install\b", environment)) == 1
    assert not re.search(r"\bpip install\b", text.rpartition("\nFROM ")[2])
