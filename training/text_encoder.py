"""Connects a pretrained sentence encoder: a folder with ``model.onnx`` and ``tokenizer.json``.

The encoder is not trained. In training it reads every item once, and its sentence vectors are a further input of the
item tower; for serving its graph is put in front of the tower's in one ``model.onnx``: so an embedding space always has
its own encoder, and Triton serves it like any tower. ``model.onnx`` takes ``input_ids`` and
``attention_mask`` (and maybe ``token_type_ids``), INT64 (batch, length), and gives vectors of tokens (batch, length,
size), which are averaged over the mask, or of sentences (batch, size); either way they are brought to unit norm.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, version_converter

from nearline.errors import Misconfigured
from nearline.features import ATTENTION_MASK, INPUT_IDS, TextEncoder, Tokenizer, sentence
from nearline.items import Item

MODEL, TOKENIZER = "model.onnx", "tokenizer.json"
SENTENCE = "sentence"  # the input of the item tower that takes the encoder's vector
TOKEN_TYPES = "token_type_ids"
LENGTH = 32  # tokens of an item that are read: a title has 5-20
LEAST_OPSET = 13  # from there on what to sum over is an input
_PREFIX = "encoder/"

OpenTokenizer = Callable[[Path, TextEncoder], Tokenizer | None]  # ``open_tokenizer`` of nearline/adapters/tokenizer.py


@dataclass(frozen=True)
class Encoded:
    """A catalogue encoded by a pretrained encoder."""

    folder: Path
    tokenizer: TextEncoder
    sentences: NDArray[np.float32]  # (items, size), unit norm
    ids: NDArray[np.int64]  # (items, length)
    mask: NDArray[np.int64]

    def read(self, items: int) -> dict[str, NDArray[np.int64]]:
        """The encoder's input for the first *items*, by name."""
        return {INPUT_IDS: self.ids[:items], ATTENTION_MASK: self.mask[:items]}


def encode_catalogue(
    folder: Path, items: Mapping[str, Item], open_tokenizer: OpenTokenizer, *, length: int = LENGTH, batch: int = 64
) -> Encoded:
    """Every item's sentence vector; ``Misconfigured`` if *folder* holds no usable encoder."""
    tokenizer_path = folder / TOKENIZER
    for path in (folder / MODEL, tokenizer_path):
        if not path.is_file():
            raise Misconfigured(f"no {path}: a text encoder is a folder with {MODEL} and {TOKENIZER}")
    encoder = TextEncoder(hashlib.sha256(tokenizer_path.read_bytes()).hexdigest(), length)
    tokenizer = open_tokenizer(tokenizer_path, encoder)
    assert tokenizer is not None
    session = onnxruntime.InferenceSession(
        sentence_model(folder / MODEL).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    ids, mask = tokenizer([sentence(item) for item in items.values()])
    parts = [
        session.run(None, {INPUT_IDS: ids[start : start + batch], ATTENTION_MASK: mask[start : start + batch]})[0]
        for start in range(0, len(ids), batch)
    ]
    return Encoded(folder, encoder, np.concatenate(parts).astype(np.float32), ids, mask)


def sentence_model(path: Path) -> onnx.ModelProto:
    """The encoder with exactly two inputs, ids and mask, and one output: sentence vectors of unit norm."""
    model = _at_opset(onnx.load(str(path)), least=LEAST_OPSET)
    names = {given.name for given in model.graph.input}
    if not {INPUT_IDS, ATTENTION_MASK} <= names or names - {INPUT_IDS, ATTENTION_MASK, TOKEN_TYPES}:
        raise Misconfigured(
            f"{path} takes {sorted(names)}; expected {INPUT_IDS}, {ATTENTION_MASK}, perhaps {TOKEN_TYPES}"
        )
    model = compose.add_prefix(model, _PREFIX, rename_inputs=False)
    graph = model.graph
    first = graph.output[0]
    rank = len(first.type.tensor_type.shape.dim)
    if TOKEN_TYPES in names:
        kept = [given for given in graph.input if given.name != TOKEN_TYPES]
        del graph.input[:]
        graph.input.extend(kept)
        graph.node.insert(0, helper.make_node("Sub", [INPUT_IDS, INPUT_IDS], [TOKEN_TYPES]))  # all of the first type
    graph.node.extend(_pooled(first.name, rank))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(SENTENCE, TensorProto.FLOAT, [None, None]))
    return model


def _pooled(output: str, rank: int) -> list[onnx.NodeProto]:
    """From the encoder's first output to ``sentence``: the mean over the mask where it is of tokens, then unit norm."""
    if rank not in (2, 3):
        raise Misconfigured(
            f"the encoder's first output {output!r} has {rank} axes; expected 2 (sentences) or 3 (tokens)"
        )
    normed = helper.make_node("LpNormalization", ["pool/mean" if rank == 3 else output], [SENTENCE], axis=1, p=2)
    if rank == 2:
        return [normed]
    last = helper.make_tensor("pool/last", TensorProto.INT64, [1], [2])
    over = helper.make_tensor("pool/over", TensorProto.INT64, [1], [1])
    one = helper.make_tensor("pool/one", TensorProto.FLOAT, [1], [1.0])  # a text may have no token at all
    return [
        helper.make_node("Constant", [], ["pool/last"], value=last),
        helper.make_node("Constant", [], ["pool/over"], value=over),
        helper.make_node("Constant", [], ["pool/one"], value=one),
        helper.make_node("Cast", [ATTENTION_MASK], ["pool/mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["pool/mask", "pool/last"], ["pool/weights"]),
        helper.make_node("Mul", [output, "pool/weights"], ["pool/weighted"]),
        helper.make_node("ReduceSum", ["pool/weighted", "pool/over"], ["pool/sum"], keepdims=0),
        helper.make_node("ReduceSum", ["pool/weights", "pool/over"], ["pool/count"], keepdims=0),
        helper.make_node("Max", ["pool/count", "pool/one"], ["pool/some"]),
        helper.make_node("Div", ["pool/sum", "pool/some"], ["pool/mean"]),
        normed,
    ]


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX' own operators that *model* uses."""
    return int(next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx")))


def put_in_front(encoder: Path, tower: Path) -> None:
    """Make the item tower in *tower* read text itself: its input ``sentence`` becomes the encoder's ids and mask."""
    front, back = sentence_model(encoder), onnx.load(str(tower))
    opset = max(opset_of(front), opset_of(back))
    front, back = (_at_opset(model, least=opset) for model in (front, back))
    back = compose.add_prefix(back, "tower/", rename_inputs=False, rename_outputs=False)
    version = max(front.ir_version, back.ir_version)
    front.ir_version = back.ir_version = version
    merged = compose.merge_models(front, back, io_map=[(SENTENCE, SENTENCE)])
    onnx.save(merged, str(tower))


def _at_opset(model: onnx.ModelProto, *, least: int) -> onnx.ModelProto:
    return model if opset_of(model) >= least else version_converter.convert_version(model, least)
