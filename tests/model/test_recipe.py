"""A recipe is changed by name, and a typo is answered with the nearest one."""

import pytest

from nearline.errors import Misconfigured
from training.recipe import Recipe, changed, parsed


def test_settings_given_as_text_take_their_types() -> None:
    recipe = changed(Recipe(), parsed(["epochs=3", "dropout=.5", "learn_temperature=false", "user_tower=transformer"]))
    assert (recipe.epochs, recipe.dropout, recipe.learn_temperature, recipe.user_tower) == (
        3,
        0.5,
        False,
        "transformer",
    )


def test_a_table_of_weights_is_a_setting_too() -> None:
    assert changed(Recipe(), {"type_weights": {"view": 1}}).type_weights == {"view": 1.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "did you mean epochs"),
        ({"epochs": "many"}, "epochs must be int, came 'many'"),
        ({"epochs": 0}, "at least 1"),
        ({"softmax": "sampeld"}, "one of full, sampled"),
        ({"learn_temperature": "perhaps"}, "true or false"),
        ({"temperature": 0}, "above 0"),
        ({"cold_parity": -1}, "0 or more"),
        ({"heads": 3}, "can not be shared by 3 heads"),
        ({"type_weights": 3}, "table of numbers by event type"),
    ],
)
def test_an_unusable_recipe_is_refused_with_the_reason(settings: dict[str, object], message: str) -> None:
    with pytest.raises(Misconfigured, match=message):
        changed(Recipe(), settings)


def test_a_setting_without_a_value_is_refused() -> None:
    with pytest.raises(Misconfigured, match="name=value"):
        parsed(["epochs"])
