"""Runs the real Triton server without a container, from the nvidia-pytriton wheel in the triton environment.

    python -m local.triton [--repository model_repository]      become the server

The process becomes tritonserver (same pid), so the starting process can watch and end the server itself. A version that
the server refuses keeps no other from being served (deploy/triton/serve.py).
`running_triton` does that for tests and benchmarks. Standard library only.
"""

import argparse
import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.triton.serve import closed, is_served, new_secret, watch
from local.addresses import Ports
from local.layout import BUILD, ENVIRONMENTS, ROOT, environment_python, site_packages
from local.ports import HOST, free_ports
from nearline.errors import Misconfigured, Unavailable

REPOSITORY = ROOT / "model_repository"
_OUR_BACKENDS = ROOT / "deploy" / "triton_local" / "backends"
_FROM_SERVICES = ("PYTHONPATH", "PYTHONHOME")  # the server's Python must not find the services' packages


@dataclass(frozen=True)
class TritonPorts:
    """The two ports of one server."""

    grpc: int
    metrics: int


def prepare_backends(packages: Path) -> Path:
    """The server's folder of backends: the Python backend of the wheel in *packages*, and ours.

    It is created if missing. Its name is the digest of its content and it appears in one step, so servers may start at
    the same time.
    """
    wheel = packages / "pytriton" / "tritonserver"
    python = packages.parent.name.removeprefix("python")
    sources = {
        "python/libtriton_python.so": wheel / "backends" / "python" / "libtriton_python.so",
        "python/triton_python_backend_utils.py": wheel / "backends" / "python" / "triton_python_backend_utils.py",
        "python/triton_python_backend_stub": wheel / "python_backend_stubs" / python / "triton_python_backend_stub",
        "onnxruntime/model.py": _OUR_BACKENDS / "onnxruntime" / "model.py",
    }
    missing = [str(path) for path in sources.values() if not path.is_file()]
    if missing:
        raise Misconfigured(f"{missing[0]} is missing: run `python3 -m local.environments triton`")
    final = BUILD / "triton" / f"backends-{_digest(sources)}"
    if not final.exists():
        _make(final, sources)
    return final


def _digest(sources: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in sources.items():
        digest.update(name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _make(final: Path, sources: Mapping[str, Path]) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=final.parent, prefix="new-"))
    for name, path in sources.items():
        (new / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, new / name)
    (new / "python" / "triton_python_backend_stub").chmod(0o755)  # the wheel does not set it
    new.chmod(0o755)
    try:
        new.rename(final)
    except OSError:  # another process was faster
        shutil.rmtree(new)


def command(repository: Path, ports: TritonPorts, backends: Path, secret: str, *, host: str = HOST) -> list[str]:
    """The server's command line, with every model of *repository*, on the address *host* only.

    Loading models and the like wants *secret*, which anyone can read who may list this machine's processes.
    """
    binary = site_packages("triton") / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    return [
        str(binary),
        f"--model-repository={repository.absolute()}",
        f"--backend-directory={backends}",
        "--model-control-mode=explicit",  # a new space is loaded beside the live one, without a restart
        "--load-model=*",
        "--exit-on-error=false",  # deploy/triton/serve.py loads again what a refused version kept from loading
        f"--grpc-address={host}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-address={host}",
        f"--metrics-port={ports.metrics}",
        "--exit-timeout-secs=5",
        *closed(secret),
    ]


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The server's variables, with the triton environment's Python and the wheel's libraries."""
    home = ENVIRONMENTS / "triton"
    libraries = [_libpython_folder(), str(site_packages("triton") / "nvidia_pytriton.libs")]
    libraries += [environ["LD_LIBRARY_PATH"]] if environ.get("LD_LIBRARY_PATH") else []
    return {
        **{name: value for name, value in environ.items() if name not in _FROM_SERVICES},
        "VIRTUAL_ENV": str(home),
        "PATH": f"{home / 'bin'}:{environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": ":".join(libraries),
    }


def _libpython_folder() -> str:
    """The folder of the triton environment's libpython, which the server's stub is linked with."""
    question = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    answer = subprocess.run(
        [str(environment_python("triton")), "-c", question], capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise Misconfigured(f"the triton environment's Python does not run: {answer.stderr.strip()[-300:]}")
    return answer.stdout.strip()


def is_ready(grpc_port: int, repository: Path = REPOSITORY) -> bool:
    """Whether the server serves a version of every model in *repository*."""
    models = [path.parent for path in repository.glob("*/config.pbtxt")]
    return all(any(is_served(f"{HOST}:{grpc_port}", model.name, v) for v in versions_in(model)) for model in models)


def versions_in(model: Path) -> list[str]:
    """The versions of a model in its folder."""
    return [path.name for path in model.iterdir() if path.name.isdigit()]


@dataclass
class RunningTriton:
    """One server process; it can be killed and restarted in place."""

    repository: Path
    ports: TritonPorts
    output: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """The gRPC address for clients."""
        return f"{HOST}:{self.ports.grpc}"

    @property
    def secret_file(self) -> Path:
        """The file with the secret of the server's newest start."""
        return secret_beside(self.output)

    def kill(self) -> None:
        """Kill the server without warning."""
        self.process.kill()
        self.process.wait()

    def start(self, deadline_s: float = 60.0) -> None:
        """Start the server again on the same ports and wait until it is ready."""
        if self.process.poll() is None:
            return
        self.process = _spawn(self.repository, self.ports, self.output)
        _wait_until_ready(self, deadline_s)

    def stop(self, deadline_s: float = 15.0) -> None:
        """Stop the server, by force if it does not end within *deadline_s*."""
        self.process.terminate()
        try:
            self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def running_triton(repository: Path = REPOSITORY, *, deadline_s: float = 60.0) -> Iterator[RunningTriton]:
    """A ready server of *repository*'s models on free ports; stopped at exit, or when the calling thread dies."""
    with tempfile.TemporaryDirectory(prefix="nearline-triton-") as temporary:
        ports, output = TritonPorts(*free_ports(2)), Path(temporary) / "triton.out"
        server = RunningTriton(repository, ports, output, _spawn(repository, ports, output))
        try:
            _wait_until_ready(server, deadline_s)
            yield server
        finally:
            server.stop()


def secret_beside(output: Path) -> Path:
    """The file with the secret of the server whose output is in *output*."""
    return output.with_name("secret")


def _spawn(repository: Path, ports: TritonPorts, output: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "local.triton", "--repository", str(repository), "--end-with-parent"]
    words += ["--grpc-port", str(ports.grpc), "--metrics-port", str(ports.metrics)]
    words += ["--secret-file", str(secret_beside(output))]
    with output.open("ab") as out:
        return subprocess.Popen(words, cwd=ROOT, stdout=out, stderr=out, stdin=subprocess.DEVNULL)


def _wait_until_ready(server: RunningTriton, deadline_s: float) -> None:
    give_up = time.monotonic() + deadline_s
    while not is_ready(server.ports.grpc, server.repository):
        ended = server.process.poll()
        if ended is not None or time.monotonic() > give_up:
            why = f"ended with {ended}" if ended is not None else f"was not ready within {deadline_s:.0f} s"
            tail = server.output.read_text(errors="replace")[-3000:]
            raise Unavailable(f"Triton on port {server.ports.grpc} {why}; the end of its output:\n{tail}")
        time.sleep(0.05)


def _end_with_parent() -> None:
    """Have Linux end this process (and the server that it becomes) when its parent dies for any reason."""
    parent_death_signal = 1
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


def main() -> None:
    """Become the Triton server."""
    defaults = Ports.from_environment()
    parser = argparse.ArgumentParser(prog="python -m local.triton", description=main.__doc__)
    parser.add_argument("--repository", type=Path, default=REPOSITORY, help="folder of models")
    parser.add_argument("--host", default=HOST, help=f"address to listen on (default {HOST}; in a container 0.0.0.0)")
    parser.add_argument("--grpc-port", type=int, default=defaults.triton, help="default: the port of NEARLINE_TRITON")
    parser.add_argument("--metrics-port", type=int, default=defaults.triton_metrics, help="default: the port after it")
    parser.add_argument("--secret-file", type=Path, help="where to keep what requests to load a model must present")
    parser.add_argument("--end-with-parent", action="store_true", help="end when the starting process dies")
    given = parser.parse_args()
    if given.end_with_parent:
        _end_with_parent()
    ports = TritonPorts(given.grpc_port, given.metrics_port)
    try:
        secret = new_secret(given.secret_file)
        words = command(given.repository, ports, prepare_backends(site_packages("triton")), secret, host=given.host)
        variables = environment(os.environ)
    except Misconfigured as problem:
        sys.exit(f"triton: {problem}")
    watch(f"{HOST}:{ports.grpc}", given.repository, secret)
    os.execve(words[0], words, variables)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
