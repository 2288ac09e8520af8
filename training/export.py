"""Export: both towers as ONNX with a parity check, and beside each a ``config.json`` that says what it is.

``<out>/<tower>/<space>/model.onnx`` and ``config.json`` appear together: the folder is written under a hidden name and
renamed, so a server that polls or loads never sees half a version.
"""

import copy
import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nearline.errors import BadAnswer
from nearline.features import (
    AGES,
    CANDIDATE,
    DIMENSION,
    HISTORY,
    HISTORY_LENGTH,
    ITEM_TOWER,
    NUMERIC,
    TOKENS,
    TYPE_CODES,
    TYPES,
    USER,
    USER_TOWER,
    VECTORS,
    features_digest,
)
from training.towers import ItemTower, PooledUserTower

OPSET = 17
LEAST_COSINE = 0.9999
SAME = 0.01  # recall: seeds differ by about half of this (docs/benchmarks.md)


def export_towers(
    item: ItemTower,
    user: PooledUserTower,
    item_inputs: Mapping[str, Tensor],
    out: Path,
    *,
    space: int,
    facts: Mapping[str, Any],
) -> None:
    """Write both towers as version *space* below *out*; ``BadAnswer`` if an export disagrees with its tower."""
    items = (item_inputs[TOKENS], item_inputs[NUMERIC])
    with torch.no_grad():
        history = item(*items)[1]
    users = user_examples(history)
    slim = with_half_tables(item)
    _export(ITEM_TOWER, item, slim, items, [TOKENS, NUMERIC], [CANDIDATE, HISTORY], out, space, facts)
    _export(USER_TOWER, user, user, users, [VECTORS, AGES, TYPES], [USER], out, space, facts)


def with_half_tables(item: ItemTower) -> ItemTower:
    """A copy whose two tables are FP16: half the file, and cosines that differ in the seventh digit."""
    slim = copy.deepcopy(item)
    slim.text = nn.Parameter(slim.text.half(), requires_grad=False)
    slim.ids = nn.Parameter(slim.ids.half(), requires_grad=False)
    return slim


def user_examples(history: Tensor, users: int = 256) -> tuple[Tensor, Tensor, Tensor]:
    """Histories of every length, from empty to full, of items drawn at random: what parity is checked on."""
    draw = torch.Generator().manual_seed(0)
    length = torch.arange(users) % (HISTORY_LENGTH + 1)
    known = torch.arange(HISTORY_LENGTH)[None, :] < length[:, None]
    rows = torch.randint(len(history), (users, HISTORY_LENGTH), generator=draw)
    ages = torch.rand(users, HISTORY_LENGTH, generator=draw).cumsum(1) * known
    types = torch.randint(1, len(TYPE_CODES) + 1, (users, HISTORY_LENGTH), generator=draw) * known
    vectors = (history[rows] * known[:, :, None]).half()
    return vectors, ages, types.int()


def _export(
    name: str,
    tower: nn.Module,
    exported: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: list[str],
    output_names: list[str],
    out: Path,
    space: int,
    facts: Mapping[str, Any],
) -> None:
    final = out / name / str(space)
    folder = final.with_name(f".{space}.new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    write_onnx(exported, inputs, path, input_names, output_names)
    parity = check_parity(tower, inputs, path, input_names)
    config = {
        "tower": name,
        "space": space,
        "dimension": DIMENSION,
        "history_length": HISTORY_LENGTH,
        "features_digest": features_digest(),
        "onnx_sha256": file_digest(path),
        "onnx_bytes": path.stat().st_size,
        "opset": OPSET,
        "parity": parity,
        **facts,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.rmtree(final, ignore_errors=True)
    folder.rename(final)


def write_onnx(
    tower: nn.Module, inputs: tuple[Tensor, ...], path: Path, input_names: list[str], output_names: list[str]
) -> None:
    """Write *tower* to *path* with a free batch dimension."""
    names = [*input_names, *output_names]
    with warnings.catch_warnings():
        # The exporter by tracing is the older of torch's two; it is also ten times quicker and its graph is smaller.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tower.eval(),
            tuple(tensor[:2] for tensor in inputs),
            str(path),
            input_names=input_names,
            output_names=output_names,
            dynamic_axes={name: {0: "batch"} for name in names},
            opset_version=OPSET,
            dynamo=False,
        )


def check_parity(tower: nn.Module, inputs: tuple[Tensor, ...], path: Path, names: list[str]) -> dict[str, float]:
    """The least cosine and the largest difference between the tower and its export; ``BadAnswer`` below .9999."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
    with torch.no_grad():
        expected = tower.eval()(*inputs)
    outputs = expected if isinstance(expected, tuple) else (expected,)
    pairs = [(np.asarray(answer), tensor.numpy()) for answer, tensor in zip(got, outputs, strict=True)]
    parity = {
        "least_cosine": min(_least_cosine(*pair) for pair in pairs),
        "largest_difference": max(float(np.abs(answer - wanted).max()) for answer, wanted in pairs),
    }
    if not parity["least_cosine"] >= LEAST_COSINE:
        raise BadAnswer(f"{path}: the export disagrees with its tower: {parity}, expected cosines of {LEAST_COSINE}")
    return parity


def _least_cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(1) / norms).min())


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def compare_with(repository: Path, test: Mapping[str, Mapping[str, float]], *, space: int) -> str:
    """One sentence: is the new recall the same as, better or worse than that of *repository*'s towers?"""
    path = repository / ITEM_TOWER / str(space) / "config.json"
    if not path.is_file():
        return f"nothing to compare with: no {path}"
    old = json.loads(path.read_text())["metrics"]["test"]["two towers"]["recall@20_new"]
    new = test["two towers"]["recall@20_new"]
    verdict = "the same" if abs(new - old) <= SAME else "better" if new > old else "worse"
    return f"recall@20 (new items) {new:.4f}, {verdict} (within {SAME}) as in {path}: {old:.4f}"
