"""Train both towers on Online Retail, judge them, export them: read downwards.

    .venv/train/bin/python -m training.train --seed 1 --out build/train --space 1

Two runs of the same recipe: the first on purchases before 2011-10-09, judged on the month after (that is where the
recipe was chosen); the second, refit on purchases before 2011-11-09, judged once on each known user's first invoice
after it. The second is what is exported: the demo's towers know nothing of the last month that its replay plays.
"""

import argparse
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearline.datasets import FILE, load_online_retail
from nearline.features import ITEM_TOWER, NUMERIC, TOKENS, USER_TOWER, item_inputs
from training.data import Baskets, Batch, Log, baskets, epoch, first_baskets_after, item_counts, make_log
from training.evaluate import Floats, judge, make_question, popularity_scores, table, tower_scores
from training.export import compare_with, export_towers, file_digest
from training.loss import basket_loss, basket_weights, inclusion, recency
from training.towers import ItemTower, PooledUserTower

REPOSITORY = Path("model_repository")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run besides the data and the seed."""

    epochs: int = 14
    batch_size: int = 256
    uniform_negatives: int = 1000
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    repeat_weight: float = 0.3
    half_life_days: float = 30.0
    first_temperature: float = 0.1
    id_dropout: float = 0.3
    text_dropout: float = 0.1
    dropout: float = 0.2


@dataclass(frozen=True)
class Towers:
    """A trained pair, and the last temperature."""

    item: ItemTower
    user: PooledUserTower
    temperature: float


def day_ms(day: str) -> int:
    """Midnight UTC of an ISO day in milliseconds."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


MONTH_MS = 30 * 86_400_000
VALIDATE_MS, TEST_MS, END_MS = day_ms("2011-10-09"), day_ms("2011-11-09"), day_ms("2012-01-01")


def fit(log: Log, inputs: dict[str, Tensor], examples: Baskets, counts: Tensor, recipe: Recipe, seed: int) -> Towers:
    """Train a pair of towers on *examples*; the same arguments give the same pair, up to the order of sums."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    item_tower = ItemTower(id_dropout=recipe.id_dropout, text_dropout=recipe.text_dropout)
    item_tower.own_ids(inputs[TOKENS][counts > 0])
    user_tower = PooledUserTower(dropout=recipe.dropout)
    log_temperature = torch.nn.Parameter(torch.tensor(recipe.first_temperature).log())
    parameters = [*item_tower.parameters(), *user_tower.parameters(), log_temperature]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    newest_ms = int(log.time_ms[examples.start].max())
    steps = recipe.epochs * max(1, len(examples) // min(recipe.batch_size, len(examples)))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.1)
    for number in range(recipe.epochs):
        item_tower.train()
        user_tower.train()
        losses = []
        for batch in epoch(log, examples, batch_size=recipe.batch_size, random=random):
            optimizer.zero_grad(set_to_none=True)
            temperature = log_temperature.exp()
            loss = batch_loss(
                batch, inputs, counts, item_tower, user_tower, temperature, recipe, random, newest_ms=newest_ms
            )
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {number + 1:>3}  loss {np.mean(losses):.4f}  temperature {log_temperature.exp():.4f}", flush=True)
    return Towers(item_tower.eval(), user_tower.eval(), float(log_temperature.detach().exp()))


def batch_loss(
    batch: Batch,
    inputs: dict[str, Tensor],
    counts: Tensor,
    item_tower: ItemTower,
    user_tower: PooledUserTower,
    temperature: Tensor,
    recipe: Recipe,
    random: np.random.Generator,
    *,
    newest_ms: int,
) -> Tensor:
    """The loss of one batch: encode every item it touches once, then the users from those vectors."""
    drawn = random.integers(0, len(counts), recipe.uniform_negatives)
    candidates = np.unique(np.concatenate([batch.target_item, drawn]))
    touched = np.unique(np.concatenate([candidates, batch.items[batch.items >= 0]]))
    rows = torch.from_numpy(touched)
    candidate_vectors, history_vectors = item_tower(inputs[TOKENS][rows], inputs[NUMERIC][rows])
    place = np.searchsorted(touched, np.maximum(batch.items, 0)).clip(max=len(touched) - 1)
    types = torch.from_numpy(batch.types)
    vectors = history_vectors[torch.from_numpy(place)] * (types > 0)[:, :, None]  # (batch, history, dim)
    users = user_tower(vectors, torch.from_numpy(batch.ages), types)
    target_row = torch.from_numpy(batch.target_row)
    fresh = recency(torch.from_numpy(batch.time_ms), newest_ms=newest_ms, half_life_days=recipe.half_life_days)
    chances = inclusion(counts, draws=len(batch.target_item), uniform=recipe.uniform_negatives)
    return basket_loss(
        users,
        candidate_vectors[torch.from_numpy(np.searchsorted(touched, candidates))],
        target_row,
        torch.from_numpy(np.searchsorted(candidates, batch.target_item)),
        basket_weights(target_row, torch.from_numpy(batch.target_new), fresh, repeat_weight=recipe.repeat_weight),
        chances[torch.from_numpy(candidates)].log(),
        temperature,
    )


def item_vectors(tower: ItemTower, inputs: dict[str, Tensor]) -> Floats:
    """Every item's candidate vector, (items, dim)."""
    with torch.no_grad():
        vectors: Floats = tower.eval()(inputs[TOKENS], inputs[NUMERIC])[0].numpy()
    return vectors


def fit_and_judge(
    log: Log, inputs: dict[str, Tensor], recipe: Recipe, *, seed: int, cut_ms: int, end_ms: int
) -> tuple[Towers, dict[str, dict[str, float]]]:
    """Fit on what is before *cut_ms*; judge on each known user's first basket from then to *end_ms*."""
    counts = torch.from_numpy(item_counts(log, before_ms=cut_ms))
    towers = fit(log, inputs, baskets(log, before_ms=cut_ms), counts, recipe, seed)
    question = make_question(log, first_baskets_after(log, from_ms=cut_ms, before_ms=end_ms))
    items = item_vectors(towers.item, inputs)
    figures = {
        "two towers": judge(tower_scores(log, question, items, towers.user), question),
        "most popular": judge(popularity_scores(log, question, before_ms=cut_ms), question),
        "popular of late": judge(
            popularity_scores(log, question, before_ms=cut_ms, from_ms=cut_ms - MONTH_MS), question
        ),
    }
    print(table(figures), flush=True)
    return towers, figures


def main() -> None:
    """Train, judge, export, and compare with the towers that are already in the repository."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/online-retail"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--space", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/train"), help="where <tower>/<space>/ is written")
    parser.add_argument("--write", action="store_true", help=f"replace the towers in {REPOSITORY}/ with the new ones")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--skip-validation", action="store_true", help="only the refit")
    given = parser.parse_args()
    began = time.monotonic()
    torch.set_num_threads(given.threads)
    prepared = load_online_retail(given.data)
    print(prepared.report())
    log = make_log(prepared.events, list(prepared.items))
    inputs = {name: torch.from_numpy(array) for name, array in item_inputs(list(prepared.items.items())).items()}
    recipe = Recipe(epochs=given.epochs)
    metrics: dict[str, Any] = {}
    if not given.skip_validation:
        _, metrics["validation"] = fit_and_judge(
            log, inputs, recipe, seed=given.seed, cut_ms=VALIDATE_MS, end_ms=TEST_MS
        )
    towers, metrics["test"] = fit_and_judge(log, inputs, recipe, seed=given.seed, cut_ms=TEST_MS, end_ms=END_MS)
    took_s = round(time.monotonic() - began, 1)
    facts = {
        "seed": given.seed,
        "data_sha256": file_digest(given.data / FILE),
        "recipe": asdict(recipe),
        "temperature": towers.temperature,
        "trained_on": "Online Retail, purchases before 2011-11-09 (UTC)",
        "metrics": metrics,
        "training_s": took_s,
    }
    print(compare_with(REPOSITORY, metrics["test"], space=given.space))
    out = REPOSITORY if given.write else given.out
    export_towers(towers.item, towers.user, inputs, out, space=given.space, facts=facts)
    print(f"wrote {out}/{{{ITEM_TOWER},{USER_TOWER}}}/{given.space} in {took_s} s")


if __name__ == "__main__":
    main()
