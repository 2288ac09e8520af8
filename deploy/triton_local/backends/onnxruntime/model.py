"""The backend ``onnxruntime`` for the server on one machine: one ONNX file, run on the CPU.

The container has a native backend of this name; the server that the nvidia-pytriton wheel carries has only the Python
backend. This file takes the name there, so one model repository serves both. It reads what the native one would:
``<version>/model.onnx`` (or ``default_model_filename``) and the parameter ``intra_op_thread_count``.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

if int(np.__version__.split(".")[0]) >= 2:
    # The server's Python bindings were built for numpy 1: with 2 they crash or return nonsense.
    raise ImportError(f"this server needs numpy < 2, found {np.__version__}: start it by `python -m local.triton`")

import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One session of onnxruntime; requests that arrive together are run as one batch."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: object) -> object:
        """Return the configuration as it is: it is complete."""
        return auto_complete_model_config

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the version's ONNX file; an error here makes the server refuse the version and keep the others."""
        config = json.loads(args["model_config"])
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]
        name = config.get("default_model_filename") or "model.onnx"
        path = os.path.join(args["model_repository"], args["model_version"], name)
        self._session = onnxruntime.InferenceSession(path, _options(config), providers=["CPUExecutionProvider"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request, in order; one whose client gave up is answered without being computed."""
        gave_up = [request.is_cancelled() for request in requests]
        awaited = [request for request, is_over in zip(requests, gave_up, strict=True) if not is_over]
        answers = iter(self._computed(awaited) if awaited else ())
        return [_cancelled() if is_over else next(answers) for is_over in gave_up]

    def _computed(self, requests: Sequence[Any]) -> list[Any]:
        """The answer to each of *requests*: join the inputs, run once, split the outputs."""
        parts = [[_array(request, name) for name in self._inputs] for request in requests]
        joined = [column[0] if len(column) == 1 else np.concatenate(column) for column in zip(*parts, strict=True)]
        answers = self._session.run(self._outputs, dict(zip(self._inputs, joined, strict=True)))
        ends = np.cumsum([len(part[0]) for part in parts])[:-1]
        split = [np.split(answer, ends) for answer in answers]
        return [self._response(columns) for columns in zip(*split, strict=True)]

    def _response(self, columns: Sequence[Any]) -> Any:
        named = zip(self._outputs, columns, strict=True)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, np.ascontiguousarray(c)) for name, c in named])


def _cancelled() -> Any:
    error = pb_utils.TritonError("the client gave up before the request was computed", pb_utils.TritonError.CANCELLED)
    return pb_utils.InferenceResponse(error=error)


def _array(request: Any, name: str) -> Any:
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def _options(config: Mapping[str, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    threads = config.get("parameters", {}).get("intra_op_thread_count", {}).get("string_value", "1")
    options.intra_op_num_threads = int(threads)
    options.inter_op_num_threads = 1
    # A spinning thread burns the core that Kafka, Flink and the index share with it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena keeps the largest batch it ever saw, for each size: 450 MB after an hour of mixed batches.
    options.enable_cpu_mem_arena = False
    return options
