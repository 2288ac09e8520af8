"""The checks of a tower's output."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nearline.adapters.triton import (
    check_tensors,
    check_vectors,
    declaration_in,
    served_features,
    tensors_in,
    tensors_of,
)
from nearline.errors import BadAnswer, Misconfigured, SpaceMismatch
from nearline.features import ITEM_TOWER, USER_TOWER, Features, TextEncoder
from nearline.space import Space

SPACE = Space(3, 64)
FEATURES = Features()
GOOD = np.eye(4, dtype=np.float32)


def test_unit_vectors_of_the_right_size_pass_unchanged() -> None:
    np.testing.assert_array_equal(check_vectors(GOOD, rows=4, dimension=4, what="user_tower"), GOOD)


@pytest.mark.parametrize(("rows", "dimension"), [(3, 4), (4, 5), (0, 4)])
def test_another_size_is_refused_with_both_sizes(rows: int, dimension: int) -> None:
    with pytest.raises(BadAnswer, match=rf"shape \(4, 4\), expected \({rows}, {dimension}\)"):
        check_vectors(GOOD, rows=rows, dimension=dimension, what="user_tower")


def test_no_answer_at_all_is_refused() -> None:
    with pytest.raises(BadAnswer, match="shape None"):
        check_vectors(None, rows=4, dimension=4, what="user_tower")


@pytest.mark.parametrize(("value", "norm"), [(0.0, "0"), (np.nan, "nan"), (np.inf, "inf"), (1.2, "1.2")])
def test_a_vector_without_unit_norm_is_refused_and_its_row_named(value: float, norm: str) -> None:
    vectors = GOOD.copy()
    vectors[2, 2] = value
    with pytest.raises(BadAnswer, match=f"1 of 4 vectors .* row 2 has norm {norm}"):
        check_vectors(vectors, rows=4, dimension=4, what="user_tower")


# --- what the towers say that they read


def told(features: Features, **of: Features) -> dict[str, dict[str, Any]]:
    """The declarations of both towers, trained with *features*; *of* names a tower with others."""
    return {tower: of.get(tower, features).declaration() for tower in (USER_TOWER, ITEM_TOWER)}


def configuration(**parameters: str) -> dict[str, Any]:
    """A model's configuration as Triton answers it."""
    said = {name.replace("_", "."): {"string_value": text} for name, text in parameters.items()}
    return {"config": {"name": "user_tower", "parameters": said}}


def test_a_tower_says_what_it_reads_for_each_version() -> None:
    answer = configuration(features_1='{"version": 1}', features_12='{"version": 2}')
    assert declaration_in(answer, USER_TOWER, "12") == {"version": 2}


@pytest.mark.parametrize(
    "answer",
    [{"config": {}}, configuration(features_2="{}"), configuration(features_3="{"), configuration(features_3="[]")],
    ids=["no parameters", "another version's", "broken", "a list"],
)
def test_a_tower_that_does_not_say_what_it_reads_is_to_be_exported_again(answer: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured, match=r"user_tower version 3 .*no parameter 'features\.3'.*make train"):
        declaration_in(answer, USER_TOWER, "3")


def test_towers_are_given_what_they_were_trained_with() -> None:
    trained = Features(history_length=20, token_count=30, text_encoder=TextEncoder("ab" * 32, 16))
    said = json.loads(json.dumps(told(trained)))
    assert served_features(SPACE, said, kept=20) == trained


def test_towers_that_were_not_trained_together_are_refused_with_both_digests() -> None:
    other = Features(types=5)
    with pytest.raises(Misconfigured, match=rf"{FEATURES.digest}.*{other.digest}.*export both"):
        served_features(SPACE, told(FEATURES, item_tower=other), kept=50)


def test_towers_of_another_dimension_are_of_another_space() -> None:
    with pytest.raises(SpaceMismatch, match="version 3 have 128 dimensions, space 3 has 64"):
        served_features(SPACE, told(Features(dimension=128)), kept=50)


def test_towers_that_read_more_than_the_job_keeps_are_refused_with_what_to_set() -> None:
    long = told(Features(history_length=200))
    with pytest.raises(Misconfigured, match=r"last 200 events, but the job keeps 50: set NEARLINE_HISTORY_LENGTH=200"):
        served_features(SPACE, long, kept=50)
    assert served_features(SPACE, long, kept=200).history_length == 200


def test_towers_that_require_what_this_build_lacks_are_refused_with_both_versions() -> None:
    mood = {"name": "mood", "kind": "category", "of": "mood", "most": 1, "required": True, "since": 9}
    later = {**FEATURES.declaration(), "version": 9}
    later["item"] = [*later["item"], mood]
    with pytest.raises(Misconfigured, match=r"version 9 of the features, this build has version \d+.*'mood'"):
        served_features(SPACE, {USER_TOWER: later, ITEM_TOWER: later}, kept=50)


# --- their tensors


def test_metadata_is_read_without_the_batch_dimension() -> None:
    metadata = {
        "inputs": [{"name": "vectors", "datatype": "FP16", "shape": ["-1", "50", "64"]}],
        "outputs": [{"name": "user", "datatype": "FP32", "shape": ["-1", "64"]}],
    }
    assert tensors_in(metadata) == {"vectors": ("FP16", [50, 64]), "user": ("FP32", [64])}


@pytest.mark.parametrize("features", [FEATURES, replace(FEATURES, text_encoder=TextEncoder("ab" * 32, 16))])
@pytest.mark.parametrize("tower", [USER_TOWER, ITEM_TOWER])
def test_a_tower_with_the_tensors_of_its_declaration_is_served(tower: str, features: Features) -> None:
    check_tensors(tower, SPACE, tensors_of(features)[tower], tensors_of(features)[tower])


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"ages": ("FP32", [50])}, "'user' is missing in the model and FP32 [64] by its declaration"),
        ({"user": ("FP32", [32]), "ages": ("FP32", [50])}, "'user' is FP32 [32] in the model and FP32 [64]"),
        ({"user": ("FP16", [64]), "ages": ("FP32", [50])}, "'user' is FP16 [64] in the model and FP32 [64]"),
        ({"user": ("FP32", [64]), "ages": ("FP32", [50]), "mood": ("FP32", [1])}, "'mood' is FP32 [1] in the model"),
    ],
)
def test_other_tensors_than_declared_are_refused_with_both(found: dict[str, Any], said: str) -> None:
    wanted = {"user": ("FP32", [64]), "ages": ("FP32", [50])}
    with pytest.raises(Misconfigured, match="make train") as refused:
        check_tensors(USER_TOWER, SPACE, wanted, found)
    assert said in str(refused.value)
