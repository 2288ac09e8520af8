"""The two towers, as Triton serves them: the only file that imports tritonclient.

Every request names the version, which is the space: a vector of another space can not come back by accident. Every
answer is checked for size, NaN and unit norm before anyone sees it.
"""

from collections.abc import Awaitable, Mapping, Sequence
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
    NUMERIC,
    NUMERIC_COUNT,
    TOKEN_COUNT,
    TOKENS,
    TYPES,
    USER,
    USER_TOWER,
    VECTORS,
)
from nearline.space import Space

T = TypeVar("T")
Vectors = NDArray[np.float32]
_NORM_SLACK = 1e-2
_ASK_S = 5.0  # deadline of a question about a model; a request for vectors has the caller's
# A caller's mistake that no retry mends; every other status is the server's trouble and may pass.
_CALLERS_FAULT = "StatusCode.INVALID_ARGUMENT"
# grpc waits up to two minutes before it tries a dead server again; a restart here takes three seconds.
_CHANNEL = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)


class Towers:
    """Both towers of one space behind one connection; safe for many tasks at once."""

    def __init__(self, url: str, space: Space, *, history_length: int = HISTORY_LENGTH, timeout_ms: int = 1000) -> None:
        self._url = url
        self._space = space
        self._history_length = history_length
        self._timeout_s = timeout_ms / 1000
        self._client: Any = None

    async def open(self) -> None:
        """Connect and check both towers against the space.

        ``Unavailable`` while the server or a tower is not up (call again), ``SpaceMismatch`` or ``Misconfigured``
        when a tower will never fit.
        """
        if self._client is None:
            self._client = grpc_aio.InferenceServerClient(self._url, channel_args=_CHANNEL)
        for tower, wanted in self._shapes().items():
            await self._check(tower, wanted)

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
            return all([await self._is_loaded(tower) for tower in self._shapes()])
        except Unavailable:
            return False

    async def encode_users(self, batch: Mapping[str, NDArray[Any]]) -> Vectors:
        """The vectors, (n, dim), of n users given as ``nearline.features.user_batch`` gives them."""
        answer = await self._infer(USER_TOWER, batch, [USER])
        return check_vectors(answer[USER], rows=len(batch[AGES]), dimension=self._space.dimension, what=USER_TOWER)

    async def encode_items(self, tokens: NDArray[Any], numeric: NDArray[Any]) -> tuple[Vectors, Vectors]:
        """The candidate and history vectors, each (n, dim), of n items given as ``item_inputs`` gives them."""
        answer = await self._infer(ITEM_TOWER, {TOKENS: tokens, NUMERIC: numeric}, [CANDIDATE, HISTORY])
        candidate, history = (
            check_vectors(answer[name], rows=len(tokens), dimension=self._space.dimension, what=ITEM_TOWER)
            for name in (CANDIDATE, HISTORY)
        )
        return candidate, history

    def _shapes(self) -> dict[str, dict[str, list[int]]]:
        dimension, length = self._space.dimension, self._history_length
        return {
            USER_TOWER: {VECTORS: [length, dimension], AGES: [length], TYPES: [length], USER: [dimension]},
            ITEM_TOWER: {
                TOKENS: [TOKEN_COUNT],
                NUMERIC: [NUMERIC_COUNT],
                CANDIDATE: [dimension],
                HISTORY: [dimension],
            },
        }

    async def _check(self, tower: str, wanted: Mapping[str, Sequence[int]]) -> None:
        if not await self._is_loaded(tower):
            raise Unavailable(
                f"Triton at {self._url} is up but has no version {self._space.number} of {tower} loaded; "
                f"is there a model_repository/{tower}/{self._space.number}/model.onnx?"
            )
        answer = await self._call(
            self._client.get_model_metadata(tower, self._version, as_json=True, client_timeout=_ASK_S)
        )
        check_shapes(tower, self._space, wanted, shapes_of(answer))

    async def _is_loaded(self, tower: str) -> bool:
        asked = self._client.is_model_ready(tower, self._version, client_timeout=_ASK_S)
        return bool(await self._call(asked))

    @property
    def _version(self) -> str:
        return str(self._space.number)

    async def _infer(
        self, tower: str, arrays: Mapping[str, NDArray[Any]], outputs: Sequence[str]
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


def _tensor(name: str, array: NDArray[Any]) -> Any:
    tensor = grpc_aio.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def shapes_of(metadata: Mapping[str, Any]) -> dict[str, list[int]]:
    """The shape of each tensor in a model's metadata, without the batch dimension."""
    tensors = [*metadata["inputs"], *metadata["outputs"]]
    return {tensor["name"]: [int(size) for size in tensor["shape"]][1:] for tensor in tensors}


def check_shapes(
    tower: str, space: Space, wanted: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]]
) -> None:
    """Raise ``SpaceMismatch`` for another dimension, ``Misconfigured`` for any other difference."""
    for name, shape in wanted.items():
        came = list(found.get(name, []))
        if came == list(shape):
            continue
        what = f"{tower} version {space.number}: tensor {name!r} has shape {came}, expected {list(shape)}"
        if len(came) == len(shape) and came[:-1] == list(shape)[:-1] and shape[-1] == space.dimension:
            raise SpaceMismatch(f"{what}: it has {came[-1]} dimensions, space {space.number} has {space.dimension}")
        raise Misconfigured(f"{what}; train and export the towers again (make train)")


def check_vectors(vectors: NDArray[Any] | None, *, rows: int, dimension: int, what: str) -> Vectors:
    """Return *vectors* if they are (rows, dimension), finite and of unit norm, else raise ``BadAnswer``."""
    if vectors is None or vectors.shape != (rows, dimension):
        came = None if vectors is None else vectors.shape
        raise BadAnswer(f"{what} answered with shape {came}, expected {(rows, dimension)}")
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    bad = np.flatnonzero(~(np.abs(norms - 1) <= _NORM_SLACK))  # NaN is not within any slack
    if len(bad):
        first = ", ".join(f"row {row} has norm {norms[row]:.4g}" for row in bad[:5])
        raise BadAnswer(f"{what} answered with {len(bad)} of {rows} vectors that have no unit norm: {first}")
    return vectors.astype(np.float32, copy=False)
