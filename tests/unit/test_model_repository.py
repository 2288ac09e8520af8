"""The committed towers are what their ``config.json`` says, and fit the features and data of this checkout."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from local.layout import ROOT
from nearline.adapters.triton import tensors_of
from nearline.features import ITEM_TOWER, USER_TOWER, Features, digest_of, features_of
from training.data.dataset import load_dataset

REPOSITORY = ROOT / "model_repository"
VERSIONS = sorted(path.parent for path in REPOSITORY.glob("*/*/config.json"))


@pytest.fixture(scope="module")
def data_digest() -> str:
    return load_dataset(ROOT / "data" / "online-retail").digest


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def config(version: Path) -> dict[str, Any]:
    found = json.loads((version / "config.json").read_text())
    assert isinstance(found, dict)
    return found


def test_both_towers_have_the_same_versions() -> None:
    assert {path.parent.name for path in VERSIONS} == {ITEM_TOWER, USER_TOWER}
    of = {tower: {p.name for p in VERSIONS if p.parent.name == tower} for tower in (ITEM_TOWER, USER_TOWER)}
    assert of[ITEM_TOWER] == of[USER_TOWER] >= {"1"}


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_tower_is_the_one_that_its_config_describes(version: Path) -> None:
    facts = config(version)
    assert facts["tower"] == version.parent.name
    assert str(facts["space"]) == version.name
    assert facts["onnx_sha256"] == sha256(version / "model.onnx")
    assert facts["parity"]["least_cosine"] >= 0.9999


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_tower_was_trained_on_the_features_and_data_of_this_checkout(version: Path, data_digest: str) -> None:
    facts = config(version)
    assert facts["features_digest"] == digest_of(facts["features"])
    trained = features_of(facts["features"])
    assert trained == Features(history_length=trained.history_length), "a feature rule changed: make train ARGS=--write"
    assert facts["data"]["digest"] == data_digest, "the data or how they are read changed: make train ARGS=--write"


def test_the_towers_beat_the_ranking_that_is_the_same_for_everyone() -> None:
    test = config(REPOSITORY / ITEM_TOWER / "1")["metrics"]["test"]
    for metric in ("recall@20_new", "recall@20_all"):
        assert test["two towers"][metric] > 2 * test["most popular"][metric]


def test_the_towers_are_small_enough_for_a_checkout() -> None:
    assert sum(path.stat().st_size for path in REPOSITORY.rglob("*") if path.is_file()) <= 10_000_000


def parameters(text: str) -> dict[str, str]:
    """The parameters of a ``config.pbtxt``; its strings are quoted as JSON's are."""
    found = re.findall(r'parameters \{ key: "([^"]+)" value \{ string_value: ("(?:[^"\\]|\\.)*") \} \}', text)
    return {name: json.loads(value) for name, value in found}


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_server_tells_what_the_tower_was_trained_with(version: Path) -> None:
    told = parameters((version.parent / "config.pbtxt").read_text())[f"features.{version.name}"]
    assert json.loads(told) == config(version)["features"]
    assert " " not in told.replace(Features().declaration()["rules"]["ages"], "")


def test_both_towers_of_a_version_were_trained_together() -> None:
    for version in VERSIONS:
        assert config(version)["features"] == config(REPOSITORY / USER_TOWER / version.name)["features"]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_servers_configuration_has_the_tensors_of_the_features(version: Path) -> None:
    """One configuration serves all versions of a tower, so all of them have the same tensors."""
    text = (version.parent / "config.pbtxt").read_text()
    found = {
        name: (kind, [int(size) for size in sizes.split(",")])
        for name, kind, sizes in re.findall(r'name: "(\w+)" data_type: TYPE_(\w+) dims: \[ ?([\d, ]+?) ?\]', text)
    }
    assert found == tensors_of(features_of(config(version)["features"]))[version.parent.name]
    assert 'backend: "onnxruntime"' in text
    assert "version_policy: { all {} }" in text
