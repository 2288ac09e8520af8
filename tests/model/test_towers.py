"""What the towers promise whatever they were trained on."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from nearline.errors import BadAnswer
from nearline.features import DIMENSION, HISTORY_LENGTH, NUMERIC, TOKENS, TYPE_CODES, item_inputs
from nearline.items import Item
from training.export import check_parity, user_examples, with_half_tables, write_onnx
from training.towers import ID_BUCKETS, TYPE_WEIGHTS, ItemTower, PooledUserTower


@pytest.fixture
def item_tower() -> ItemTower:
    torch.manual_seed(0)
    tower = ItemTower()
    torch.nn.init.normal_(tower.ids)
    return tower.eval()


@pytest.fixture
def user_tower() -> PooledUserTower:
    torch.manual_seed(0)
    return PooledUserTower().eval()


def encode(tower: ItemTower, *items: tuple[str, Item]) -> torch.Tensor:
    inputs = item_inputs(list(items))
    with torch.no_grad():
        return tower(torch.from_numpy(inputs[TOKENS]), torch.from_numpy(inputs[NUMERIC]))[0]


def history(length: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One user: *length* events of random items, an hour apart, all purchases."""
    draw = torch.Generator().manual_seed(seed)
    known = (torch.arange(HISTORY_LENGTH) < length)[None]
    vectors = F.normalize(torch.randn(1, HISTORY_LENGTH, DIMENSION, generator=draw), dim=2) * known[:, :, None]
    ages = torch.log1p(torch.arange(HISTORY_LENGTH)[None].float()) * known
    return vectors.half(), ages, (known * TYPE_CODES["purchase"]).int()


def test_a_new_item_is_its_text_even_where_its_id_shares_a_bucket(item_tower: ItemTower) -> None:
    lamp = Item("red lamp", price=3.0)
    before = encode(item_tower, ("old", lamp), ("new", lamp))
    torch.testing.assert_close(before[0], before[1])  # neither id was trained
    item_tower.own_ids(torch.from_numpy(item_inputs([("old", lamp)])[TOKENS]))
    tokens = torch.from_numpy(item_inputs([("old", lamp), ("new", lamp)])[TOKENS])
    tokens[1, 0] = tokens[0, 0] % ID_BUCKETS + (7 * ID_BUCKETS)  # another id in the very same bucket
    numeric = torch.from_numpy(item_inputs([("old", lamp)] * 2)[NUMERIC])
    with torch.no_grad():
        old, new = item_tower(tokens, numeric)[0]
    torch.testing.assert_close(new, before[1])
    assert float(F.cosine_similarity(old, before[0], dim=0)) < 0.99


def test_items_of_like_words_are_alike(item_tower: ItemTower) -> None:
    red, blue, other = encode(
        item_tower, ("1", Item("red metal lamp")), ("2", Item("blue metal lamp")), ("3", Item("paper napkins"))
    )
    assert float(red @ blue) > float(red @ other)


def test_an_item_without_any_known_word_has_unit_norm(item_tower: ItemTower) -> None:
    torch.testing.assert_close(encode(item_tower, ("x", Item("🕯️"))).norm(dim=1), torch.ones(1))


@pytest.mark.parametrize("length", [0, 1, 7, HISTORY_LENGTH])
def test_a_user_of_any_history_has_a_finite_vector_of_unit_norm(user_tower: PooledUserTower, length: int) -> None:
    with torch.no_grad():
        torch.testing.assert_close(user_tower(*history(length)).norm(dim=1), torch.ones(1))


def test_what_lies_in_padded_rows_does_not_matter(user_tower: PooledUserTower) -> None:
    vectors, ages, types = history(5)
    with torch.no_grad():
        clean = user_tower(vectors, ages, types)
        vectors[:, 5:], ages[:, 5:] = 9.0, 3.0
        torch.testing.assert_close(user_tower(vectors, ages, types), clean)


def test_the_order_of_rows_of_one_age_matters_only_for_the_newest(user_tower: PooledUserTower) -> None:
    vectors, ages, types = history(6)
    ages[:] = 0
    swapped = vectors.clone()
    swapped[:, [2, 4]] = vectors[:, [4, 2]]
    with torch.no_grad():
        torch.testing.assert_close(user_tower(swapped, ages, types), user_tower(vectors, ages, types))


def test_every_event_type_has_a_weight_and_a_dislike_does_not_pull(user_tower: PooledUserTower) -> None:
    assert set(TYPE_WEIGHTS) == set(TYPE_CODES)
    vectors, ages, types = history(6)
    types[:, 3] = TYPE_CODES["dislike"]
    with torch.no_grad():
        disliked = user_tower(vectors, ages, types)
        vectors[:, 3] = -vectors[:, 3]
        torch.testing.assert_close(user_tower(vectors, ages, types), disliked)


def test_exports_agree_with_their_towers(item_tower: ItemTower, user_tower: PooledUserTower, tmp_path: Path) -> None:
    folder = tmp_path
    inputs = item_inputs([(str(n), Item(f"lamp number {n}", price=n)) for n in range(30)])
    tokens, numeric = torch.from_numpy(inputs[TOKENS]), torch.from_numpy(inputs[NUMERIC])
    item_tower.own_ids(tokens[:15])
    names = [TOKENS, NUMERIC]
    write_onnx(with_half_tables(item_tower), (tokens, numeric), folder / "item.onnx", names, ["candidate", "history"])
    assert check_parity(item_tower, (tokens, numeric), folder / "item.onnx", names)["least_cosine"] >= 0.9999
    users = user_examples(encode(item_tower, ("a", Item("lamp")), ("b", Item("mug"))))
    names = ["vectors", "ages", "types"]
    write_onnx(user_tower, users, folder / "user.onnx", names, ["user"])
    assert check_parity(user_tower, users, folder / "user.onnx", names)["largest_difference"] < 1e-5
    torch.manual_seed(1)
    with pytest.raises(BadAnswer, match="disagrees"):
        check_parity(PooledUserTower(), users, folder / "user.onnx", names)
