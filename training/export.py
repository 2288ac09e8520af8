"""Exports both towers as ONNX for either Triton server, with their description and recorded answers.

``<out>/<tower>/<space>/`` holds ``model.onnx``, ``config.json`` (recipe, features, data, figures) and ``parity.npz``:
inputs with the towers' answers in torch, so that a server's answers can be checked against them
(``python -m local.parity``). The folder is written under a hidden name and renamed, so a server that polls or loads
never sees half a version. ``<out>/<tower>/config.pbtxt`` tells Triton's clients each version's features.
"""

import copy
import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nearline.errors import BadAnswer, Misconfigured
from nearline.features import (
    AGES,
    CANDIDATE,
    CONTEXT,
    CONTEXT_BUCKETS,
    CONTEXT_COUNT,
    HISTORY,
    ITEM_TOWER,
    NUMERIC,
    TOKENS,
    TYPE_CODES,
    TYPES,
    USER,
    USER_TOWER,
    VECTORS,
    Features,
    Tensors,
)
from training.text_encoder import MODEL, SENTENCE, Encoded, put_in_front
from training.towers import TwoTowers

OPSET = 17
LEAST_COSINE = 0.9999
PARITY_ROWS = 24  # per tower, in parity.npz
EXAMPLES = 256  # rows that an export is compared on here


@dataclass(frozen=True)
class Exported:
    """One tower to export: the module, example inputs by name, and its outputs' names and types."""

    name: str
    module: nn.Module
    slim: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    tensors: Tensors
    about: str
    encoded: Encoded | None = None


def export_towers(
    towers: TwoTowers,
    features: Features,
    items: tuple[Tensor, ...],
    out: Path,
    *,
    space: int,
    facts: Mapping[str, Any],
    encoded: Encoded | None = None,
) -> None:
    """Write both towers as version *space* below *out*; ``BadAnswer`` if an export disagrees with its tower.

    *items* are all items as the item tower was trained on them; *encoded* is the text encoder that read them.
    """
    for tower in _both(towers.eval(), features, items, encoded):
        _check_fits(out / tower.name / "config.pbtxt", tower, features)
        final = out / tower.name / str(space)
        folder = final.with_name(f".{space}.new")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _write(tower, features, folder, space=space, facts=facts)
        shutil.rmtree(final, ignore_errors=True)
        folder.rename(final)
        write_server_config(out / tower.name, tower, features)


def _both(
    towers: TwoTowers, features: Features, items: tuple[Tensor, ...], encoded: Encoded | None
) -> tuple[Exported, Exported]:
    shown = tuple(part[:EXAMPLES] for part in items)
    with torch.no_grad():
        history = towers.item(*shown)[1]
    names = [TOKENS, NUMERIC, SENTENCE][: len(shown)]
    users = user_examples(history, features)
    item = Exported(
        ITEM_TOWER,
        towers.item,
        _with_half(towers.item, "text", "ids"),
        dict(zip(names, shown, strict=True)),
        (CANDIDATE, HISTORY),
        features.item_tensors(),
        "Item text, attributes and numbers in, two vectors out",
        encoded,
    )
    user = Exported(
        USER_TOWER,
        towers.user,
        _with_half(towers.user, "context"),
        users,
        (USER,),
        features.user_tensors(),
        "Vectors, ages and types of a user's last events in, newest first, with the context; one vector out",
    )
    return item, user


def _with_half(tower: nn.Module, *tables: str) -> nn.Module:
    """A copy whose tables are FP16: half the file, and cosines that differ in the seventh digit."""
    slim = copy.deepcopy(tower)
    for name in tables:
        setattr(slim, name, nn.Parameter(getattr(slim, name).half(), requires_grad=False))
    return slim


def user_examples(history: Tensor, features: Features, users: int = EXAMPLES) -> dict[str, Tensor]:
    """Histories of every length, from empty to full, of random items, to check parity on."""
    draw = torch.Generator().manual_seed(0)
    most = features.history_length
    length = torch.arange(users) % (most + 1)
    known = torch.arange(most)[None, :] < length[:, None]
    rows = torch.randint(len(history), (users, most), generator=draw)
    context = torch.randint(1, CONTEXT_BUCKETS, (users, CONTEXT_COUNT), generator=draw).int()
    context[::3] = 0
    return {
        VECTORS: (history[rows] * known[:, :, None]).half(),
        AGES: torch.rand(users, most, generator=draw).cumsum(1) * known,
        TYPES: (torch.randint(1, len(TYPE_CODES) + 1, (users, most), generator=draw) * known).int(),
        CONTEXT: context,
    }


def _write(tower: Exported, features: Features, folder: Path, *, space: int, facts: Mapping[str, Any]) -> None:
    path = folder / "model.onnx"
    write_onnx(tower.slim, tower.inputs, path, tower.outputs)
    parity = check_parity(tower.module, tower.inputs, path)
    served = tower.inputs
    if tower.encoded is not None:
        put_in_front(tower.encoded.folder / MODEL, path)
        served = {
            name: torch.from_numpy(array) for name, array in tower.encoded.read(len(tower.inputs[TOKENS])).items()
        }
        served = {TOKENS: tower.inputs[TOKENS], NUMERIC: tower.inputs[NUMERIC], **served}
    _write_parity(tower, served, folder / "parity.npz")
    config = {
        "tower": tower.name,
        "space": space,
        "dimension": features.dimension,
        "history_length": features.history_length,
        "features_digest": features.digest,
        "features": features.declaration(),
        "onnx_sha256": file_digest(path),
        "onnx_bytes": path.stat().st_size,
        "opset": OPSET,
        "parity": parity,
        **facts,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_onnx(tower: nn.Module, inputs: Mapping[str, Tensor], path: Path, outputs: tuple[str, ...]) -> None:
    """Write *tower* to *path* with a free batch dimension."""
    with warnings.catch_warnings():
        # The exporter by tracing is the older of torch's two; it is also ten times quicker and its graph is smaller.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tower.eval(),
            tuple(tensor[:2] for tensor in inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)},
            opset_version=OPSET,
            dynamo=False,
        )


def check_parity(tower: nn.Module, inputs: Mapping[str, Tensor], path: Path) -> dict[str, float]:
    """The least cosine and the largest difference between the tower and its export; ``BadAnswer`` below .9999."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    pairs = list(zip(map(np.asarray, got), answers(tower, inputs), strict=True))
    parity = {
        "least_cosine": min(least_cosine(*pair) for pair in pairs),
        "largest_difference": max(float(np.abs(answer - wanted).max()) for answer, wanted in pairs),
    }
    if not parity["least_cosine"] >= LEAST_COSINE:
        raise BadAnswer(f"{path}: the export disagrees with its tower: {parity}, expected cosines of {LEAST_COSINE}")
    return parity


def answers(tower: nn.Module, inputs: Mapping[str, Tensor]) -> list[NDArray[np.float32]]:
    """The answers of *tower* to *inputs* in torch, one array per output."""
    with torch.no_grad():
        said = tower.eval()(*inputs.values())
    return [tensor.numpy() for tensor in (said if isinstance(said, tuple) else (said,))]


def least_cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """The smallest cosine between a row of *left* and the same row of *right*."""
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(1) / norms).min())


def _write_parity(tower: Exported, served: Mapping[str, Tensor], path: Path) -> None:
    """Write the inputs for the server (*served*), and the tower's answers to them in torch."""
    step = max(1, len(next(iter(tower.inputs.values()))) // PARITY_ROWS)
    asked = {name: tensor[::step][:PARITY_ROWS] for name, tensor in tower.inputs.items()}
    wanted = dict(zip(tower.outputs, answers(tower.module, asked), strict=True))
    arrays = {f"in.{name}": tensor[::step][:PARITY_ROWS].numpy() for name, tensor in served.items()}
    arrays |= {f"out.{name}": array for name, array in wanted.items()}
    np.savez_compressed(path, **arrays)


def write_server_config(folder: Path, tower: Exported, features: Features) -> None:
    """Write or complete ``config.pbtxt``: the tensors once, and the features of every version in *folder*.

    Other content of an existing file (instances, batching) stays.
    """
    path = folder / "config.pbtxt"
    text = path.read_text() if path.is_file() else _server_config(tower, features)
    kept = [line for line in text.splitlines() if 'key: "features.' not in line]
    versions = sorted((int(config.parent.name), config) for config in folder.glob("[0-9]*/config.json"))
    lines = [_features_line(number, json.loads(config.read_text())["features"]) for number, config in versions]
    path.write_text("\n".join([*kept, *lines]) + "\n")


def _features_line(version: int, declaration: Mapping[str, Any]) -> str:
    told = json.dumps(declaration, sort_keys=True, separators=(",", ":"))
    return f'parameters {{ key: "features.{version}" value {{ string_value: {json.dumps(told)} }} }}'


def _server_config(tower: Exported, features: Features) -> str:
    outputs = {name: ("FP32", [features.dimension]) for name in tower.outputs}
    return "\n".join(
        [
            f"# {tower.about} (nearline/features.py). A version is an embedding space.",
            f'name: "{tower.name}"',
            'backend: "onnxruntime"',
            "max_batch_size: 256",
            _tensor_lines("input", tower.tensors),
            _tensor_lines("output", outputs),
            "version_policy: { all {} }",
            "dynamic_batching {}",
            "instance_group [ { count: 1 } ]",
            'parameters { key: "intra_op_thread_count" value { string_value: "1" } }',
        ]
    )


def _tensor_lines(what: str, tensors: Tensors) -> str:
    lines = [f'  {{ name: "{name}" data_type: TYPE_{kind} dims: {sizes} }}' for name, (kind, sizes) in tensors.items()]
    return f"{what} [\n" + ",\n".join(lines) + "\n]"


def _check_fits(path: Path, tower: Exported, features: Features) -> None:
    """Refuse a version whose tensors differ from those of existing versions: Triton has one list for all."""
    others = [folder for folder in path.parent.glob("[0-9]*") if folder.is_dir()]
    if not path.is_file():
        return
    wanted = re.sub(
        r"\s",
        "",
        _tensor_lines("input", tower.tensors)
        + _tensor_lines("output", {name: ("FP32", [features.dimension]) for name in tower.outputs}),
    )
    if wanted not in re.sub(r"\s", "", path.read_text()):
        if len(others) <= 1:
            path.unlink()  # the only version is being replaced
            return
        raise Misconfigured(
            f"{path} serves {len(others)} versions with other tensors than these towers have ({dict(tower.tensors)}); "
            "all versions of a repository share them: export to another repository, or remove those versions first"
        )


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
