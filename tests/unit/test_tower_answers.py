"""What a tower answers is believed only after these checks."""

import numpy as np
import pytest

from nearline.adapters.triton import check_shapes, check_vectors, shapes_of
from nearline.errors import BadAnswer, Misconfigured, SpaceMismatch
from nearline.space import Space

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


def test_metadata_is_read_without_the_batch_dimension() -> None:
    metadata = {
        "inputs": [{"name": "vectors", "shape": ["-1", "50", "64"]}],
        "outputs": [{"name": "user", "shape": ["-1", "64"]}],
    }
    assert shapes_of(metadata) == {"vectors": [50, 64], "user": [64]}


def test_a_tower_of_another_dimension_is_of_another_space() -> None:
    with pytest.raises(SpaceMismatch, match="it has 128 dimensions, space 3 has 64"):
        check_shapes("user_tower", Space(3, 64), {"user": [64]}, {"user": [128]})


def test_a_tower_that_lacks_a_tensor_is_misconfigured() -> None:
    with pytest.raises(Misconfigured, match="make train"):
        check_shapes("user_tower", Space(3, 64), {"ages": [50]}, {})
