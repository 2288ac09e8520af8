"""The two towers in Triton: the only file that imports tritonclient.

Every request names the version, which is the space, so a vector of another space cannot come back. The towers'
configuration declares their features as the parameter ``features.<version>``. Every answer is checked for size, NaN
and unit norm before it is returned.
"""

import json
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import aio as grpc_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from nearline.errors import BadAnswer, Misconfigured, SpaceMismatch, Unavailable
from nearline.features import (
    AGES,
    CANDIDATE,
    HISTORY,
    HISTORY_LENGTH,
    ITEM_TOWER,
    TOKENS,
    USER,
    USER_TOWER,
    Features,
    Tensors,
    digest_of,
    features_of,
)
from nearline.item_vectors import Vectors
from nearline.space import Space
from nearline.telemetry import gauge, get_logger
from nearline.tls import Tls

T = TypeVar("T")
TOWERS = (USER_TOWER, ITEM_TOWER)
FEATURES = gauge("features_info", "1 for the declaration that the served towers were trained with.", "digest")
_NORM_SLACK = 1e-2
_ASK_S = 5.0  # deadline of a question about a model; a request for vectors has the caller's
# Errors of the caller, which no retry fixes; every other status is the server's and may pass.
_CALLERS_FAULT = "StatusCode.INVALID_ARGUMENT"
# By default gRPC waits up to two minutes before it retries a dead server; Triton restarts in three seconds.
_CHANNEL = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)


class TritonTowers:
    """Both towers of one space over one connection; safe for concurrent tasks.

    *kept* is how many events of a user the job keeps. Without *tls* the connection is not encrypted.
    """

    def __init__(
        self,
        url: str,
        space: Space,
        *,
        kept: int = HISTORY_LENGTH,
        timeout_ms: int = 1000,
        tls: Tls | None = None,
    ) -> None:
        self._url = url
        self._tls = tls
        self._space = space
        self._kept = kept
        self._timeout_s = timeout_ms / 1000
        self._client: Any = None
        self._features: Features | None = None

    @property
    def features(self) -> Features:
        """The towers' features, known once they are open."""
        assert self._features is not None, "the towers are not open"
        return self._features

    async def open(self) -> None:
        """Connect, read the features of both towers, and check them against the space.

        ``Unavailable`` while the server or a tower is not up (call again), ``SpaceMismatch`` or ``Misconfigured``
        if a tower does not match the space or this build.
        """
        if self._client is None:
            self._client = grpc_aio.InferenceServerClient(self._url, channel_args=_CHANNEL, **_security(self._tls))
        declared = {tower: await self._declared(tower) for tower in TOWERS}
        features = served_features(self._space, declared, kept=self._kept)
        for tower, wanted in tensors_of(features).items():
            check_tensors(tower, self._space, wanted, await self._tensors(tower))
        digest = digest_of(declared[USER_TOWER])
        FEATURES.labels(digest).set(1)
        get_logger().info("towers", space=self._space.number, features=digest, history=features.history_length)
        self._features = features

    async def close(self) -> None:
        """Close the connection; safe to call twice."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def ready(self) -> bool:
        """Whether the server answers and has both towers of the space loaded."""
        if self._client is None:
            return False
        try:
            return all([await self._is_loaded(tower) for tower in TOWERS])
        except Unavailable:
            return False

    async def encode_users(self, batch: Mapping[str, NDArray[Any]]) -> Vectors:
        """The vectors, (n, dim), of the n users in *batch*, which ``Features.user_batch`` makes."""
        answer = await self._infer(USER_TOWER, batch, [USER])
        return check_vectors(answer[USER], rows=len(batch[AGES]), dimension=self._space.dimension, what=USER_TOWER)

    async def encode_items(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[Vectors, Vectors]:
        """The candidate and history vectors, each (n, dim), of the n items in *inputs* (``Features.item_inputs``)."""
        answer = await self._infer(ITEM_TOWER, inputs, [CANDIDATE, HISTORY])
        candidate, history = (
            check_vectors(answer[name], rows=len(inputs[TOKENS]), dimension=self._space.dimension, what=ITEM_TOWER)
            for name in (CANDIDATE, HISTORY)
        )
        return candidate, history

    async def _declared(self, tower: str) -> dict[str, Any]:
        if not await self._is_loaded(tower):
            raise Unavailable(
                f"Triton at {self._url} is up but has no version {self._space.number} of {tower} loaded; "
                f"is there a model_repository/{tower}/{self._space.number}/model.onnx?"
            )
        asked = self._client.get_model_config(tower, self._version, as_json=True, client_timeout=_ASK_S)
        return declaration_in(await self._call(asked), tower, self._version)

    async def _tensors(self, tower: str) -> Tensors:
        asked = self._client.get_model_metadata(tower, self._version, as_json=True, client_timeout=_ASK_S)
        return tensors_in(await self._call(asked))

    async def _is_loaded(self, tower: str) -> bool:
        asked = self._client.is_model_ready(tower, self._version, client_timeout=_ASK_S)
        return bool(await self._call(asked))

    @property
    def _version(self) -> str:
        return str(self._space.number)

    async def _infer(
        self, tower: str, arrays: Mapping[str, NDArray[Any]], outputs: Iterable[str]
    ) -> dict[str, NDArray[Any]]:
        inputs = [_tensor(name, array) for name, array in arrays.items()]
        wanted = [grpc_aio.InferRequestedOutput(name) for name in outputs]
        result = await self._call(
            self._client.infer(
                tower, inputs, model_version=self._version, outputs=wanted, client_timeout=self._timeout_s
            )
        )
        return {name: result.as_numpy(name) for name in outputs}

    async def _call(self, asked: Awaitable[T]) -> T:
        try:
            return await asked
        except InferenceServerException as error:
            raise self._sorted(error) from None

    def _sorted(self, error: InferenceServerException) -> Exception:
        what = f"Triton at {self._url}: {error.message():.300} ({error.status()})"
        if error.status() == _CALLERS_FAULT:
            return Misconfigured(f"{what}; the towers and nearline/features.py disagree")
        return Unavailable(f"{what}; is the server up, and version {self._version} of both towers loaded?")


def _security(tls: Tls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    files = {"root_certificates": tls.ca, "certificate_chain": tls.certificate, "private_key": tls.key}
    return {"ssl": True, **{name: str(file) for name, file in files.items() if file is not None}}


def _tensor(name: str, array: NDArray[Any]) -> Any:
    tensor = grpc_aio.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def declaration_in(answer: Mapping[str, Any], tower: str, version: str) -> dict[str, Any]:
    """The features declared in the configuration of *tower*'s *version*; ``Misconfigured`` if there are none."""
    name = f"features.{version}"
    parameter = answer["config"].get("parameters", {}).get(name, {})
    try:
        declared = json.loads(parameter["string_value"])
    except (KeyError, ValueError):
        declared = None
    if not isinstance(declared, dict):
        raise Misconfigured(
            f"{tower} version {version} does not say what it reads: its config.pbtxt has no parameter {name!r} with a "
            "declaration of features; export the towers again (make train)"
        )
    return declared


def served_features(space: Space, declared: Mapping[str, Mapping[str, Any]], *, kept: int) -> Features:
    """The features to give to both towers of *space*, if the job keeps *kept* events of a user.

    ``Misconfigured`` if this build cannot compute them, the towers were not trained together, or they read more events
    than the job keeps; ``SpaceMismatch`` if their dimension is not the space's.
    """
    digests = {tower: digest_of(declared[tower]) for tower in TOWERS}
    if len(set(digests.values())) != 1:
        raise Misconfigured(
            f"the towers of space {space.number} were trained with different features: {digests}; "
            "export both again (make train)"
        )
    features = features_of(declared[USER_TOWER])
    if features.dimension != space.dimension:
        raise SpaceMismatch(
            f"the towers of version {space.number} have {features.dimension} dimensions, "
            f"space {space.number} has {space.dimension}"
        )
    if features.history_length > kept:
        raise Misconfigured(
            f"the towers of space {space.number} read a user's last {features.history_length} events, but the job "
            f"keeps {kept}: set NEARLINE_HISTORY_LENGTH={features.history_length} for every part"
        )
    return features


def tensors_of(features: Features) -> dict[str, Tensors]:
    """The tensors that each tower must have for *features*."""
    unit = ("FP32", [features.dimension])
    return {
        USER_TOWER: features.user_tensors() | {USER: unit},
        ITEM_TOWER: features.item_tensors() | {CANDIDATE: unit, HISTORY: unit},
    }


def tensors_in(metadata: Mapping[str, Any]) -> Tensors:
    """The type and shape, without the batch dimension, of each tensor in a model's metadata."""
    tensors = [*metadata["inputs"], *metadata["outputs"]]
    return {each["name"]: (each["datatype"], [int(size) for size in each["shape"]][1:]) for each in tensors}


def check_tensors(tower: str, space: Space, wanted: Tensors, found: Tensors) -> None:
    """Raise ``Misconfigured`` unless the tower has exactly the *wanted* tensors."""
    for name in sorted(wanted.keys() | found.keys()):
        if found.get(name) != wanted.get(name):
            raise Misconfigured(
                f"{tower} version {space.number}: tensor {name!r} is {_shown(found.get(name))} in the model and "
                f"{_shown(wanted.get(name))} by its declaration; export the towers again (make train)"
            )


def _shown(tensor: tuple[str, list[int]] | None) -> str:
    return f"{tensor[0]} {tensor[1]}" if tensor else "missing"


def check_vectors(vectors: NDArray[Any] | None, *, rows: int, dimension: int, what: str) -> Vectors:
    """Return *vectors* if they are (rows, dimension), finite and of unit norm, else raise ``BadAnswer``."""
    if vectors is None or vectors.shape != (rows, dimension):
        came = None if vectors is None else vectors.shape
        raise BadAnswer(f"{what} answered with shape {came}, expected {(rows, dimension)}")
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    bad = np.flatnonzero(~(np.abs(norms - 1) <= _NORM_SLACK))  # NaN is never within the slack
    if len(bad):
        first = ", ".join(f"row {row} has norm {norms[row]:.4g}" for row in bad[:5])
        raise BadAnswer(f"{what} answered with {len(bad)} of {rows} vectors that have no unit norm: {first}")
    return vectors.astype(np.float32, copy=False)
