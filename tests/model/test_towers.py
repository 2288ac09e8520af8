"""What the towers promise whatever they were trained on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from nearline.errors import BadAnswer
from nearline.features import (
    AGES,
    CANDIDATE,
    CONTEXT,
    HISTORY,
    NUMERIC,
    TOKENS,
    TYPE_CODES,
    TYPES,
    USER,
    VECTORS,
    Features,
)
from nearline.items import Item
from training.export import check_parity, user_examples, write_onnx
from training.recipe import CAUSAL, POOLED, TRANSFORMER, Recipe
from training.towers import TYPE_WEIGHTS, ItemTower, TwoTowers, UserTower, make_user_tower

FEATURES = Features()
Inputs = dict[str, torch.Tensor]


@pytest.fixture
def item_tower() -> ItemTower:
    torch.manual_seed(0)
    tower = ItemTower(FEATURES, id_dropout=0.3, text_dropout=0.1, separate_history=True)
    torch.nn.init.normal_(tower.stand_in.weight, std=0.1)
    tower.eval()
    return tower


@pytest.fixture(params=[(POOLED, 1), (TRANSFORMER, 1), (TRANSFORMER, 2), (CAUSAL, 1), (CAUSAL, 2)])
def user_tower(request: pytest.FixtureRequest) -> UserTower:
    torch.manual_seed(0)
    kind, layers = request.param
    recipe = Recipe(user_tower=kind, layers=layers)
    tower = make_user_tower(FEATURES, recipe)
    torch.nn.init.normal_(tower.context, std=0.1)
    tower.eval()
    return tower


def inputs_of(*items: tuple[str, Item]) -> Inputs:
    return {name: torch.from_numpy(array) for name, array in FEATURES.item_inputs(list(items)).items()}


def encode(tower: ItemTower, *items: tuple[str, Item]) -> torch.Tensor:
    with torch.no_grad():
        return tower(*inputs_of(*items).values())[0]


def trained_on(tower: ItemTower, *ids: str) -> None:
    tower.own_ids(inputs_of(*((each, Item("x")) for each in ids))[TOKENS][:, 0])
    torch.nn.init.normal_(tower.ids)


def history(length: int, *, seed: int = 0, features: Features = FEATURES) -> Inputs:
    """One user: *length* events of random items, an hour apart, all purchases."""
    draw = torch.Generator().manual_seed(seed)
    most = features.history_length
    known = (torch.arange(most) < length)[None]
    vectors = F.normalize(torch.randn(1, most, features.dimension, generator=draw), dim=2) * known[:, :, None]
    return {
        VECTORS: vectors.half(),
        AGES: torch.log1p(torch.arange(most)[None].float()) * known,
        TYPES: (known * TYPE_CODES["purchase"]).int(),
        CONTEXT: torch.zeros(1, 8, dtype=torch.int32),
    }


def ask(tower: UserTower, inputs: Inputs) -> torch.Tensor:
    with torch.no_grad():
        return tower(*inputs.values())[0]


def test_an_item_that_was_never_trained_is_what_its_text_stands_for(item_tower: ItemTower) -> None:
    lamp = Item("red lamp", price=3.0)
    before = encode(item_tower, ("old", lamp), ("new", lamp))
    torch.testing.assert_close(before[0], before[1])  # neither id was trained
    trained_on(item_tower, "old", *(f"other-{n}" for n in range(1000)))
    old, new = encode(item_tower, ("old", lamp), ("new", lamp))
    torch.testing.assert_close(new, before[1])
    assert float(old @ new) < 0.99


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1000])
def test_each_trained_id_finds_its_own_part(item_tower: ItemTower, count: int) -> None:
    ids = [f"item-{n}" for n in range(count)]
    trained_on(item_tower, *ids)
    tokens = inputs_of(*((each, Item("x")) for each in ids))[TOKENS][:, 0]
    place, known = item_tower._place(tokens)
    assert known.all()
    assert (item_tower.sorted_ids[place] == tokens).all()
    strangers = inputs_of(*((f"stranger-{n}", Item("x")) for n in range(500)))[TOKENS][:, 0]
    assert not item_tower._place(strangers)[1].any()


def test_items_of_like_words_are_alike(item_tower: ItemTower) -> None:
    red, blue, other = encode(
        item_tower, ("1", Item("red metal lamp")), ("2", Item("blue metal lamp")), ("3", Item("paper napkins"))
    )
    assert float(red @ blue) > float(red @ other)


def test_an_item_without_any_known_word_has_unit_norm(item_tower: ItemTower) -> None:
    torch.testing.assert_close(encode(item_tower, ("x", Item("🕯️"))).norm(dim=1), torch.ones(1))


def test_a_history_vector_of_its_own_is_another_vector(item_tower: ItemTower) -> None:
    with torch.no_grad():
        candidate, own = item_tower(*inputs_of(("x", Item("red lamp"))).values())
    assert float((candidate * own).sum()) < 0.999
    torch.testing.assert_close(own.norm(dim=1), torch.ones(1))


@pytest.mark.parametrize("length", [0, 1, 7, FEATURES.history_length])
def test_a_user_of_any_history_has_a_finite_vector_of_unit_norm(user_tower: UserTower, length: int) -> None:
    torch.testing.assert_close(ask(user_tower, history(length)).norm(), torch.tensor(1.0))


def test_padded_rows_do_not_change_the_vector(user_tower: UserTower) -> None:
    inputs = history(5)
    clean = ask(user_tower, inputs)
    inputs[VECTORS][:, 5:] = 9.0
    torch.testing.assert_close(ask(user_tower, inputs), clean)


def test_events_that_are_all_masked_are_a_user_without_events(user_tower: UserTower) -> None:
    masked = history(9)
    masked[TYPES][:], masked[VECTORS][:], masked[AGES][:] = 0, 0, 0
    torch.testing.assert_close(ask(user_tower, masked), ask(user_tower, history(0)))


def test_the_country_of_a_user_without_events_makes_a_difference(user_tower: UserTower) -> None:
    known = history(0)
    known[CONTEXT] = torch.from_numpy(FEATURES.user_context([{"country": "Norway"}]))
    assert float(ask(user_tower, known) @ ask(user_tower, history(0))) < 0.999


def test_every_event_type_has_a_weight_and_a_dislike_pushes_where_a_purchase_pulls() -> None:
    assert set(TYPE_WEIGHTS) == set(TYPE_CODES)
    torch.manual_seed(0)
    tower = make_user_tower(FEATURES, Recipe()).eval()
    inputs = history(6)
    bought, item = ask(tower, inputs), inputs[VECTORS][0, 3].float()
    inputs[TYPES][:, 3] = TYPE_CODES["dislike"]
    assert float(ask(tower, inputs) @ item) < float(bought @ item)


@pytest.mark.parametrize("kind", [POOLED, TRANSFORMER, CAUSAL])
def test_exports_agree_with_their_towers(item_tower: ItemTower, kind: str, tmp_path: Path) -> None:
    trained_on(item_tower, *(str(n) for n in range(15)))
    items = inputs_of(*((str(n), Item(f"lamp number {n}", price=n)) for n in range(30)))
    write_onnx(item_tower, items, tmp_path / "item.onnx", (CANDIDATE, HISTORY))
    assert check_parity(item_tower, items, tmp_path / "item.onnx")["least_cosine"] >= 0.9999
    features = replace(FEATURES, history_length=20)
    recipe = Recipe(user_tower=kind, history_length=20)
    tower = make_user_tower(features, recipe)
    users = user_examples(encode(item_tower, ("a", Item("lamp")), ("b", Item("mug"))), features)
    write_onnx(tower, users, tmp_path / "user.onnx", (USER,))
    assert check_parity(tower, users, tmp_path / "user.onnx")["largest_difference"] < 1e-5
    torch.manual_seed(1)
    with pytest.raises(BadAnswer, match="disagrees"):
        check_parity(make_user_tower(features, recipe), users, tmp_path / "user.onnx")


@pytest.mark.parametrize("text", [True, False], ids=["words weighed", "no text"])
def test_items_of_words_that_weigh_or_of_none_are_exported_too(text: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    features = FEATURES if text else replace(FEATURES, token_count=1)
    tower = ItemTower(
        features, id_dropout=0.1, text_dropout=0, separate_history=False, weighed=text, layer=False
    ).eval()
    catalogue = [(str(n), Item(f"lamp number {n}", price=n)) for n in range(30)]
    items = {name: torch.from_numpy(array) for name, array in features.item_inputs(catalogue).items()}
    tower.own_ids(items[TOKENS][:15, 0], scale=0.1)
    torch.nn.init.normal_(tower.numbers.weight)  # the price is all that an item without id and words has
    if text:
        tower.weigh(items[TOKENS][:, 1:])
    write_onnx(tower, items, tmp_path / "item.onnx", (CANDIDATE, HISTORY))
    assert check_parity(tower, items, tmp_path / "item.onnx")["least_cosine"] >= 0.9999


def test_a_word_of_few_items_says_more_than_one_of_many() -> None:
    torch.manual_seed(0)
    tower = ItemTower(FEATURES, id_dropout=0, text_dropout=0, separate_history=False, weighed=True, layer=False)
    lamps = inputs_of(*((str(n), Item(f"lamp {'red' if n == 7 else 'blue'}")) for n in range(50)))
    tower.eval().weigh(lamps[TOKENS][:, 1:])
    red, lamp, both = encode(tower, ("a", Item("red")), ("b", Item("lamp")), ("c", Item("lamp red")))
    assert float(both @ red) > float(both @ lamp)


def test_both_towers_are_asked_in_one_call() -> None:
    """Which is what distributed training needs: one forward, one gradient."""
    towers = TwoTowers(FEATURES, Recipe())
    inputs = inputs_of(("a", Item("lamp")), ("b", Item("mug")))
    events = history(2)
    users, candidates, temperature = towers(
        (inputs[TOKENS], inputs[NUMERIC]),
        torch.zeros(1, FEATURES.history_length, dtype=torch.long),
        events[AGES],
        events[TYPES],
        events[CONTEXT],
    )
    assert (users.shape, candidates.shape) == ((1, FEATURES.dimension), (2, FEATURES.dimension))
    assert float(temperature.detach()) == pytest.approx(Recipe().temperature)
