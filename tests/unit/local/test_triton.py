"""How the Triton server is started on one machine; that it then works is tests/contract/test_triton.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from local.layout import ROOT, site_packages
from local.triton import TritonPorts, command, environment, is_ready, prepare_backends
from nearline.errors import Misconfigured

SHIM = ROOT / "deploy" / "triton_local" / "backends" / "onnxruntime" / "model.py"


def test_the_server_is_bound_to_this_machine_and_loads_every_model() -> None:
    words = command(Path("models"), TritonPorts(grpc=1, metrics=3), Path("/backends"), "the secret")
    assert [word for word in words if word.endswith("-address=127.0.0.1")] == [
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
    ]
    assert {"--grpc-port=1", "--metrics-port=3"} < set(words)
    assert {word for word in words if "http" in word} == {"--allow-http=false"}
    assert "--grpc-restricted-protocol=model-repository,shared-memory,trace,logging:nearline=the secret" in words
    assert {"--load-model=*", "--exit-on-error=false"} < set(words)
    assert f"--model-repository={Path('models').absolute()}" in words


def test_the_servers_python_is_its_own_and_does_not_find_the_services_packages() -> None:
    given = {"PATH": "/usr/bin", "PYTHONPATH": "/services", "LD_LIBRARY_PATH": "/mine", "HOME": "/root"}
    variables = environment(given)
    assert variables["PATH"] == f"{variables['VIRTUAL_ENV']}/bin:/usr/bin"
    assert variables["VIRTUAL_ENV"].endswith("/.venv/triton")
    assert "PYTHONPATH" not in variables
    assert variables["LD_LIBRARY_PATH"].endswith("nvidia_pytriton.libs:/mine")
    assert variables["HOME"] == "/root"


def test_the_backends_are_made_once_and_complete() -> None:
    folder = prepare_backends(site_packages("triton"))
    assert os.access(folder / "python" / "triton_python_backend_stub", os.X_OK)
    assert (folder / "onnxruntime" / "model.py").read_bytes() == SHIM.read_bytes()
    assert (folder / "python" / "libtriton_python.so").is_file()
    assert prepare_backends(site_packages("triton")) == folder
    assert not list(folder.parent.glob("new-*"))


def test_an_environment_that_lacks_the_server_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"local\.environments triton"):
        prepare_backends(tmp_path / "lib" / "python3.11" / "site-packages")


def test_the_backend_refuses_the_numpy_that_the_server_cannot_use() -> None:
    """This environment has numpy 2, as a server that was started without `local.triton` might find."""
    done = subprocess.run([sys.executable, str(SHIM)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "this server needs numpy < 2, found 2." in done.stderr


def test_a_closed_port_is_not_ready() -> None:
    assert not is_ready(1)
