"""A pretrained sentence encoder plugs in front of the item tower; a tiny one stands for it here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from nearline.adapters.tokenizer import open_tokenizer
from nearline.errors import Misconfigured
from nearline.features import ATTENTION_MASK, INPUT_IDS, ITEM_TOWER, NUMERIC, TOKENS, Features, features_of
from nearline.items import Item
from training.export import export_towers
from training.recipe import Recipe
from training.saved import load_towers, save_towers
from training.text_encoder import TOKEN_TYPES, encode_catalogue, sentence_model
from training.towers import TwoTowers

WORDS = {"[PAD]": 0, "[UNK]": 1, "red": 2, "blue": 3, "lamp": 4, "mug": 5}
ITEMS = {"1": Item("red lamp"), "2": Item("blue mug"), "3": Item("red mug, red lamp and red mug"), "4": Item("?")}
SIZE = 3


def encoder(
    folder: Path, *, of_tokens: bool, token_types: bool = False, opset: int = 17, wrong_input: bool = False
) -> Path:
    """A folder with a tokenizer of six words and an encoder that looks each of them up in a fixed table."""
    folder.mkdir()
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": WORDS, "unk_token": "[UNK]"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    table = numpy_helper.from_array(np.eye(len(WORDS), SIZE, k=-1, dtype=np.float32) + 0.5, "table")
    names = ["wrong" if wrong_input else INPUT_IDS, ATTENTION_MASK, *([TOKEN_TYPES] if token_types else [])]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in names]
    nodes = [helper.make_node("Gather", ["table", names[0]], ["tokens"])]
    if token_types:
        nodes += [
            helper.make_node("Cast", [TOKEN_TYPES], ["kind"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["kind"], ["kinds"], keepdims=0),
            helper.make_node("Add", ["tokens", "kinds"], ["typed"]),
        ]
    last, shape = ("typed" if token_types else "tokens"), ["batch", "length", SIZE]
    if not of_tokens:
        nodes.append(helper.make_node("ReduceMax", [last], ["sentences"], axes=[1], keepdims=0))
        last, shape = "sentences", ["batch", SIZE]
    output = helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "tiny", inputs, [output], [table])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8),
        str(folder / "model.onnx"),
    )
    return folder


def test_token_vectors_are_averaged_over_the_mask_and_brought_to_unit_norm(tmp_path: Path) -> None:
    encoded = encode_catalogue(encoder(tmp_path / "e", of_tokens=True), ITEMS, open_tokenizer, length=8, batch=3)
    table = np.eye(len(WORDS), SIZE, k=-1) + 0.5
    expected = table[[WORDS["red"], WORDS["lamp"]]].mean(0)
    np.testing.assert_allclose(encoded.sentences[0], expected / np.linalg.norm(expected), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(encoded.sentences, axis=1), 1, atol=1e-6)


def test_a_text_without_any_token_still_has_a_finite_vector(tmp_path: Path) -> None:
    encoded = encode_catalogue(encoder(tmp_path / "e", of_tokens=True), {"1": Item(" ")}, open_tokenizer, length=8)
    assert np.isfinite(encoded.sentences).all()


@pytest.mark.parametrize(
    ("of_tokens", "token_types", "opset"), [(True, True, 13), (False, False, 12), (True, False, 17)]
)
def test_encoders_of_other_shapes_plug_in_too(tmp_path: Path, of_tokens: bool, token_types: bool, opset: int) -> None:
    """With token types, with sentence vectors, of an older ONNX: always two inputs and one vector of unit norm."""
    folder = encoder(tmp_path / "e", of_tokens=of_tokens, token_types=token_types, opset=opset)
    model = sentence_model(folder / "model.onnx")
    assert [given.name for given in model.graph.input] == [INPUT_IDS, ATTENTION_MASK]
    encoded = encode_catalogue(folder, ITEMS, open_tokenizer, length=8)
    np.testing.assert_allclose(np.linalg.norm(encoded.sentences, axis=1), 1, atol=1e-6)


def test_a_tower_with_an_encoder_in_front_answers_from_ids_what_it_learnt_from_vectors(tmp_path: Path) -> None:
    encoded = encode_catalogue(encoder(tmp_path / "e", of_tokens=True), ITEMS, open_tokenizer, length=8)
    recipe = Recipe(dimension=8, heads=2)
    features = recipe.features(encoded.tokenizer)
    arrays = recipe.features().item_inputs(list(ITEMS.items()))
    items = (torch.from_numpy(arrays[TOKENS]), torch.from_numpy(arrays[NUMERIC]), torch.from_numpy(encoded.sentences))
    towers = _untrained(recipe, features, items)
    assert towers.item.sentence is not None
    torch.nn.init.normal_(towers.item.sentence.weight)
    export_towers(towers, features, items, tmp_path / "out", space=1, facts={}, encoded=encoded)
    folder = tmp_path / "out" / ITEM_TOWER / "1"
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    assert {given.name for given in session.get_inputs()} == {TOKENS, NUMERIC, INPUT_IDS, ATTENTION_MASK}
    with np.load(folder / "parity.npz") as asked:
        got = session.run(["candidate"], {each.name: asked[f"in.{each.name}"] for each in session.get_inputs()})[0]
        np.testing.assert_allclose(got, asked["out.candidate"], atol=1e-3)
    told = json.loads((folder / "config.json").read_text())["features"]
    assert features_of(told).text_encoder == encoded.tokenizer
    with pytest.raises(Misconfigured, match="NEARLINE_TOKENIZER"):
        features_of(told).item_inputs(list(ITEMS.items()))


def test_towers_with_an_encoder_are_saved_and_loaded(tmp_path: Path) -> None:
    encoded = encode_catalogue(encoder(tmp_path / "e", of_tokens=True), ITEMS, open_tokenizer, length=8)
    recipe = Recipe(dimension=8, heads=2)
    features = recipe.features(encoded.tokenizer)
    arrays = recipe.features().item_inputs(list(ITEMS.items()))
    items = (torch.from_numpy(arrays[TOKENS]), torch.from_numpy(arrays[NUMERIC]), torch.from_numpy(encoded.sentences))
    towers = _untrained(recipe, features, items)
    save_towers(towers, recipe, features, tmp_path, newest_ms=1)
    again = load_towers(tmp_path)
    assert again.features == features
    with torch.no_grad():
        torch.testing.assert_close(again.towers.item(*items)[0], towers.eval().item(*items)[0])


def test_a_folder_that_is_not_a_text_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"a folder with model\.onnx and tokenizer\.json"):
        encode_catalogue(tmp_path, ITEMS, open_tokenizer)
    with pytest.raises(Misconfigured, match=r"takes \['attention_mask', 'wrong'\]; expected input_ids"):
        encode_catalogue(encoder(tmp_path / "e", of_tokens=True, wrong_input=True), ITEMS, open_tokenizer)


def _untrained(recipe: Recipe, features: Features, items: tuple[torch.Tensor, ...]) -> TwoTowers:
    torch.manual_seed(0)
    towers = TwoTowers(features, recipe, sentence_size=items[2].shape[1])
    towers.item.own_ids(items[0][:2, 0])
    return towers
