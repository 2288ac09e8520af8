"""Saves and loads trained towers in torch's format, for a warm start, an evaluation or another export."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nearline.errors import Misconfigured
from nearline.features import Features, features_of
from training.recipe import Recipe, changed
from training.towers import TwoTowers

FILE = "towers.pt"


@dataclass(frozen=True)
class Saved:
    """Towers with their recipe, their features, and the time of the newest event that they were trained on."""

    towers: TwoTowers
    recipe: Recipe
    features: Features
    newest_ms: int


def save_towers(towers: TwoTowers, recipe: Recipe, features: Features, folder: Path, *, newest_ms: int) -> Path:
    """Write ``towers.pt`` into *folder*, atomically."""
    sentence = towers.item.sentence
    state = {
        "recipe": recipe.as_plain(),
        "features": features.declaration(),
        "newest_ms": newest_ms,
        "sentence_size": 0 if sentence is None else sentence.in_features,
        "towers": towers.state_dict(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f".{FILE}.new"
    torch.save(state, new)
    os.replace(new, folder / FILE)
    return folder / FILE


def load_towers(folder: Path) -> Saved:
    """Load what ``save_towers`` wrote into *folder*; ``Misconfigured`` if it is missing, or not for this build."""
    path = folder / FILE
    if not path.is_file():
        raise Misconfigured(
            f"no trained towers at {path}: give the folder that `make train` wrote (build/train/<name>)"
        )
    state: Mapping[str, Any] = torch.load(path, weights_only=True)
    recipe, features = changed(Recipe(), state["recipe"]), features_of(state["features"])
    towers = TwoTowers(features, recipe, sentence_size=int(state["sentence_size"]))
    towers.item.own_ids(state["towers"]["item.sorted_ids"])
    towers.load_state_dict(state["towers"])
    return Saved(towers.eval(), recipe, features, int(state["newest_ms"]))
