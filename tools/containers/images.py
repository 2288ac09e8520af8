"""The images of a machine without a registry: a Python base, and our own from what this machine has built already.

Each is named by the digest of what it is made of and stays in the engine, so a second run builds nothing. A machine
with an engine of its own, which can pull, builds from the Dockerfiles alone.
"""

import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from local.broker import AGENT_FOLDER, CLASSPATH_FILE
from local.downloads import CONNECTOR_FOLDER
from local.environments import lists_of
from local.layout import java, site_packages
from tools.containers.commands import Failed, Skipped, run
from tools.containers.engine import Engine, debian_mirror

PYTHON = "python3.11"
PULLED_BASE = "python:3.11.14-slim-bookworm"
_SITE_PACKAGES = f"/usr/local/lib/{PYTHON}/site-packages"
# What Python's own modules need of Debian, and what one expects in any image.
_DEBIAN = (
    "ca-certificates,libssl3,libsqlite3-0,libffi8,libbz2-1.0,liblzma5,libreadline8,zlib1g,libncursesw6,libexpat1,libuuid1,"
    "libstdc++6,netbase,tzdata"
)
_SUITE = "bookworm"
_RECIPE = "1"  # part of every digest: raise it when images are made in another way
_KEPT_BUILD_CACHE = "4GB"


@dataclass(frozen=True)
class Environment:
    """One of this machine's environments: where its packages lie in the image, and what makes their folder."""

    name: str
    folder: str
    step: str = ""


ENVIRONMENTS = (
    Environment("services", _SITE_PACKAGES),
    Environment("flink", _SITE_PACKAGES),
    Environment(
        "triton",
        f"/app/.venv/triton/lib/{PYTHON}/site-packages",
        "RUN python -m venv --without-pip /app/.venv/triton\n",
    ),
)


def can_copy_environments() -> bool:
    """Whether this machine's packages run in the image: made for the same Python, on the same Debian."""
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    return release.get("VERSION_CODENAME") == _SUITE and sys.version_info[:2] == (3, 11)


def python_base(engine: Engine, folder: Path) -> str:
    """An image of Debian 12 with this machine's Python, its certificates and its configuration of pip; its name.

    ``Skipped`` if it cannot be made, or no container of it runs.
    """
    prefix = Path(sys.base_prefix)
    if prefix == Path("/usr"):
        raise Skipped(
            "the base image is made of a Python under its own prefix (pyenv, /usr/local); here it is Debian's"
        )
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    parts = [sys.version, str(prefix), _SUITE, _DEBIAN, certificates.read_text(), _RECIPE]
    name = f"nearline-base:{_digest(parts)}"
    try:
        if not _is_there(engine, name):
            _make_base(engine, name, prefix, certificates, folder)
        engine.docker("run", "--rm", "--init", name, "python", "-c", "")
    except Failed as problem:
        raise Skipped(f"no container of a base image of this machine runs: {problem}") from None
    return name


def _make_base(engine: Engine, name: str, prefix: Path, certificates: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix="base-") as work:
        root = Path(work) / "root"
        run(["debootstrap", "--variant=minbase", f"--include={_DEBIAN}", _SUITE, str(root), debian_mirror()], 400.0)
        _add_python(root, prefix)
        _add_configuration(root, certificates)
        _import(engine, root, name, Path(work) / "root.tar")


def _add_python(root: Path, prefix: Path) -> None:
    local = root / "usr" / "local"
    for part in ("bin", "lib", "include"):
        (local / part).mkdir(parents=True, exist_ok=True)
    shutil.copy2(prefix / "bin" / PYTHON, local / "bin" / PYTHON)
    for link in ("python3", "python"):
        (local / "bin" / link).symlink_to(PYTHON)
    for library in (prefix / "lib").glob("libpython3*"):
        shutil.copy2(library, local / "lib", follow_symlinks=False)
    shutil.copytree(prefix / "include" / PYTHON, local / "include" / PYTHON)
    left_out = shutil.ignore_patterns("site-packages", "test", "tests", "__pycache__")
    shutil.copytree(prefix / "lib" / PYTHON, local / "lib" / PYTHON, symlinks=True, ignore=left_out)
    (local / "lib" / PYTHON / "site-packages").mkdir()
    run(["chroot", str(root), "ldconfig"], 60.0)
    run(["chroot", str(root), "python", "-m", "ensurepip", "--default-pip"], 120.0)
    run(["chroot", str(root), "python", "-m", "compileall", "-q", f"/usr/local/lib/{PYTHON}"], 200.0)


def _add_configuration(root: Path, certificates: Path) -> None:
    """What downloads need in the image as on this machine."""
    shutil.copyfile(certificates, root / "etc/ssl/certs/ca-certificates.crt")
    for file in (Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf"):
        if file.exists():
            shutil.copyfile(file, root / "etc/pip.conf")
    for file in Path("/etc/apt/apt.conf.d").glob("99*"):
        shutil.copyfile(file, root / "etc/apt/apt.conf.d" / file.name)
    for cached in (root / "var/cache/apt/archives").glob("*.deb"):
        cached.unlink()


def _import(engine: Engine, root: Path, name: str, archive: Path) -> None:
    run(["tar", "-C", str(root), "-cf", str(archive), "."], 200.0)
    path = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    variables = f"ENV {path} LANG=C.UTF-8 REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt"
    engine.docker("import", "--change", variables, "--change", 'CMD ["python3"]', str(archive), name, deadline_s=200.0)


def environment_image(engine: Engine, environment: Environment, base: str, folder: Path) -> str:
    """An image of *base* with the packages of this machine's *environment*; its name."""
    lists = [file.read_text() for file in lists_of(environment.name, dev=False)]
    name = f"nearline-environment-{environment.name}:{_digest([base, *lists, environment.step, _RECIPE])}"
    if not _is_there(engine, name):
        text = f"FROM {base}\n{environment.step}COPY packages {environment.folder}\n"
        with tempfile.TemporaryDirectory(dir=folder, prefix="environment-") as work:
            (Path(work) / "Dockerfile").write_text(text)
            _link_packages(site_packages(environment.name), names_in(lists), Path(work) / "packages")
            engine.docker("build", "-q", "-t", name, work, deadline_s=500.0)
    return name


def _link_packages(packages: Path, wanted: set[str], target: Path) -> None:
    """Put the files of the *wanted* distributions, with what Python compiled of them, into the folder *target*."""
    found = [each for each in distributions(path=[str(packages)]) if _plain(each.metadata["Name"]) in wanted]
    for path in {path for distribution in found for path in _files_of(distribution, packages)}:
        link = target / path.relative_to(packages)
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, link)
        except OSError:  # another file system
            shutil.copy2(path, link)


def _files_of(distribution: Distribution, packages: Path) -> Iterator[Path]:
    for file in distribution.files or ():
        path = packages / file
        if ".." not in file.parts and path.exists():
            yield path
            compiled = path.parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc"
            if path.suffix == ".py" and compiled.exists():
                yield compiled


def names_in(lists: Iterable[str]) -> set[str]:
    """The names of the distributions in requirement lists."""
    return {_plain(name) for text in lists for name in re.findall(r"^([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?==", text, re.M)}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def downloaded_jars(folder: Path) -> Path:
    """A folder in the place of the stage ``jars`` of deploy/kafka/Dockerfile, from this machine's downloads."""
    target = folder / "jars"
    shutil.rmtree(target, ignore_errors=True)
    libraries = target / "opt" / "kafka" / "libs"
    libraries.mkdir(parents=True)
    for jar in CLASSPATH_FILE.read_text().splitlines():
        shutil.copy2(jar, libraries)
    shutil.copy2(sorted(AGENT_FOLDER.glob("*.jar"))[-1], target / "opt" / "kafka" / "jmx.jar")
    shutil.copytree(java().parent.parent, target / "opt" / "java", symlinks=True)
    return target


def downloaded_connector(folder: Path) -> Path:
    """A folder in the place of the stage ``connector`` of deploy/flink/Dockerfile, from this machine's downloads."""
    target = folder / "connector"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(CONNECTOR_FOLDER, target / "app" / "build" / "flink" / "lib")
    return target


def remove_old(engine: Engine, kept: Iterable[str]) -> None:
    """Remove our images that are of other inputs than the *kept* ones, and old steps of builds."""
    listed = engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
    ours = {name for name in listed if name.startswith(("nearline-base:", "nearline-environment-"))}
    for name in sorted(ours - set(kept)):
        try:
            engine.docker("image", "rm", name)
        except Failed:
            continue  # an image that is still used is removed by a later run
    engine.docker("image", "prune", "-f", deadline_s=120.0)
    engine.docker("builder", "prune", "-f", "--keep-storage", _KEPT_BUILD_CACHE, deadline_s=120.0)


def overrides(engine: Engine, folder: Path) -> tuple[Mapping[str, object], list[str]]:
    """What the compose file's builds get here (a compose file's ``services``), and the names of the images used."""
    base = python_base(engine, folder)
    made = {each.name: environment_image(engine, each, base, folder) for each in ENVIRONMENTS}

    def build(name: str, **contexts: str) -> Mapping[str, object]:
        stages = {"environment": f"docker-image://{made[name]}"} if name in made else {}
        return {"build": {"args": {"BASE": base}, "additional_contexts": {**stages, **contexts}}}

    services = {
        "kafka": build("kafka", jars=str(downloaded_jars(folder))),
        "jobmanager": build("flink", connector=str(downloaded_connector(folder))),
        "triton": build("triton"),
        "ingest": build("services"),
    }
    return services, [base, *made.values()]


def _is_there(engine: Engine, name: str) -> bool:
    return bool(engine.docker("image", "ls", "-q", name).strip())


def _digest(parts: Iterable[str]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part.encode()).digest())
    return whole.hexdigest()[:16]
