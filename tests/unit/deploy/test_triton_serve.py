"""How refused versions are left out, on a gRPC server that refuses as Triton does (tests/contract/test_triton.py)."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from deploy.triton.serve import closed, config_in, is_served, is_up, load, new_secret, secret_header, serve_the_good
from local.layout import ROOT
from local.ports import HOST, free_ports
from local.triton import REPOSITORY

SECRET = "5" * 64
SCRIPT = ROOT / "deploy" / "triton" / "serve.py"
OTHER = """
name: 'other'  # quotes of both kinds
platform: "onnxruntime_onnx"
default_model_filename: "a \\"name\\".onnx"
input { name: "x", data_type: TYPE_FP32; dims: [ -1, 4 ] reshape { shape: [4] } }
output [ { name: "y" data_type: TYPE_FP32 dims: 4 } ]
version_policy: { latest { num_versions: 2 } }
dynamic_batching { preferred_batch_size: 8 preferred_batch_size: 16 preserve_ordering: true }
instance_group [ { kind: KIND_CPU count: 2 }, { kind: KIND_GPU gpus: [0] } ]
parameters [ { key: "a" value: { string_value: "1" } }, { key: "b" value: { string_value: "x: {y}" } } ]
"""


class Refusing(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated without types
    """Loads all versions of a model or none, for holders of the secret, and refuses those in *bad*."""

    def __init__(self, bad: set[str], every: list[str]) -> None:
        self.bad, self.every = bad, every
        self.served: dict[str, list[str]] = {}
        self.configs: list[dict[str, Any]] = []

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ServerLiveResponse(live=True)

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ModelReadyResponse(ready=request.version in self.served.get(request.name, []))

    def RepositoryModelLoad(self, request: Any, context: grpc.ServicerContext) -> Any:
        if not set(secret_header(SECRET).items()) <= set(context.invocation_metadata()):
            context.abort(grpc.StatusCode.UNAVAILABLE, "This protocol is restricted, expecting header")
        wanted = self.every
        if "config" in request.parameters:
            self.configs.append(json.loads(request.parameters["config"].string_param))
            wanted = [str(number) for number in self.configs[-1]["version_policy"]["specific"]["versions"]]
        if self.bad & set(wanted):
            context.abort(grpc.StatusCode.INTERNAL, f"failed to load '{request.model_name}', no model version loaded")
        self.served[request.model_name] = wanted
        return service_pb2.RepositoryModelLoadResponse()


@pytest.fixture
def server() -> Iterator[tuple[Refusing, str]]:
    """A server that refuses version 2 of every model, and its address."""
    refusing = Refusing({"2"}, ["1", "2", "10"])
    running = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(refusing, running)
    port = running.add_insecure_port(f"{HOST}:0")
    running.start()
    yield refusing, f"{HOST}:{port}"
    running.stop(None)


def repository_in(folder: Path, *models: str) -> Path:
    """A repository whose *models* have versions 1, 2 and 10, and a folder that is none."""
    for model in models:
        for name in ("1", "2", "10", "notes"):
            (folder / model / name).mkdir(parents=True)
        (folder / model / "config.pbtxt").write_text((REPOSITORY / "user_tower" / "config.pbtxt").read_text())
    return folder


def test_a_model_with_a_refused_version_serves_the_others(server: tuple[Refusing, str], tmp_path: Path) -> None:
    refusing, address = server
    said: list[str] = []
    assert is_up(address)
    assert not load(address, "user_tower", secret=SECRET)
    serve_the_good(address, repository_in(tmp_path, "user_tower"), SECRET, said.append)
    assert refusing.served == {"user_tower": ["1", "10"]}
    assert [is_served(address, "user_tower", version) for version in ("1", "2", "10")] == [True, False, True]
    assert said == ["user_tower: refused versions ['2'] (why is above), served ['1', '10']"]
    assert refusing.configs[0]["parameters"].keys() >= {"features.1", "intra_op_thread_count"}


def test_a_model_of_which_a_version_is_served_is_left_alone(server: tuple[Refusing, str], tmp_path: Path) -> None:
    refusing, address = server
    refusing.served["item_tower"] = ["1"]
    serve_the_good(address, repository_in(tmp_path, "item_tower"), SECRET, print)
    assert refusing.configs == []


def test_a_long_configuration_arrives_whole(server: tuple[Refusing, str]) -> None:
    """The declarations of many versions are more than one frame."""
    refusing, address = server
    config = {"version_policy": {"specific": {"versions": [1]}}, "parameters": {"features.1": "é" * 8_000}}
    assert load(address, "user_tower", config, secret=SECRET)
    assert refusing.configs == [config]
    with pytest.raises(ValueError, match="is too long, at most 65,535"):
        load(address, "user_tower", config | {"name": "x" * 65_535}, secret=SECRET)


def test_the_health_check_asks_for_its_version_of_each_model_only(server: tuple[Refusing, str]) -> None:
    refusing, address = server
    refusing.served = {"user_tower": ["7"], "item_tower": ["7", "8"]}
    assert asked(address, "7") == (0, "")
    assert asked(address, "8") == (1, "version 8 of user_tower is not served\n")


def asked(address: str, version: str) -> tuple[int, str]:
    """What the health check for *version* of both towers exits with and says."""
    return done("ready", address, version, "user_tower", "item_tower")


def done(*words: str) -> tuple[int, str]:
    """What the script exits with and says."""
    ended = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)
    return ended.returncode, ended.stderr


def test_a_model_is_loaded_again_by_the_command_that_reads_the_secret(
    server: tuple[Refusing, str], tmp_path: Path
) -> None:
    refusing, address = server
    refusing.bad = set()
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (tmp_path / "wrong").write_text("another\n")
    assert done("load", address, str(tmp_path / "wrong"), "user_tower")[0] == 1
    assert refusing.served == {}
    assert done("load", address, str(tmp_path / "secret"), "user_tower") == (0, "")
    assert refusing.served == {"user_tower": ["1", "2", "10"]}


def test_the_server_gets_no_http_and_a_new_secret_at_each_start(tmp_path: Path) -> None:
    file = tmp_path / "new" / "secret"
    first = new_secret(file)
    assert new_secret(None) != first
    assert file.read_text().strip() == first
    assert oct(file.stat().st_mode & 0o777) == "0o600"
    assert new_secret(file) == file.read_text().strip() != first
    words = [sys.executable, str(SCRIPT), "run", f"{HOST}:1", str(tmp_path), str(file), "echo", "--started"]
    with (tmp_path / "output").open("w+") as output:  # not a pipe: it is kept open
        subprocess.run(words, stdout=output, stderr=output, check=True)
    said = (tmp_path / "output").read_text().split()
    assert said == ["--started", *closed(file.read_text().strip())]
    assert "--allow-http=false" in said


@pytest.mark.parametrize(
    "text", [*(path.read_text() for path in REPOSITORY.glob("*/config.pbtxt")), OTHER], ids=lambda text: text[:20]
)
def test_a_configuration_is_read_as_protobuf_reads_it(text: str) -> None:
    wanted = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert json_format.ParseDict(config_in(text), model_config_pb2.ModelConfig()) == wanted


def test_a_server_that_is_not_there_serves_nothing() -> None:
    address = f"{HOST}:{free_ports(1)[0]}"
    assert not is_up(address)
    assert not is_served(address, "user_tower", "1")
    assert asked(address, "7") == (1, "version 7 of user_tower, item_tower is not served\n")
