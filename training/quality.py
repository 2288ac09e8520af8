"""Measures recall@10 and NDCG@10 as papers report them, by seed: settings by validation, the test once.

    make quality DATA=FOLDER ARGS="--seeds 1 --set epochs=20"     # validation only: how a recipe is chosen
    make quality DATA=FOLDER ARGS="--test"                        # seeds 1, 2, 3 judged on the test

Full catalogue, seen items filtered. A finished run is not repeated and an interrupted one continues: runs are kept in
build/quality/<data set>/, one folder per recipe and seed, and runs.jsonl there has a line for each.
``--test`` writes docs/results/<data set>.json.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nearline.errors import NearlineError
from training.command_line import SEEDS, listed, make_command, seeds_in, set_again
from training.data.dataset import Dataset, load_dataset
from training.data.splits import STAGES, VALIDATION
from training.evaluation.evaluate import headline
from training.recipe import Recipe, changed, parsed
from training.runs import make_task, run_fit
from training.saved import load_towers, save_towers
from training.task import Task
from training.vectors import tower_scorer

FOLDER = Path("build/quality")
RESULTS = Path("docs/results")
K = 10
RUN = "run.json"


def main() -> int:
    """Fit and judge each seed; print the figures."""
    given = _arguments()
    torch.set_num_threads(given.threads)
    try:
        return quality(given)
    except NearlineError as problem:
        print(f"quality: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on after the last whole epoch", file=sys.stderr)
        return 130


def quality(given: argparse.Namespace) -> int:
    """Run the command with parsed arguments; return the exit status."""
    dataset = load_dataset(given.data, given.dataset)
    recipe = changed(changed(Recipe(), dataset.recipe), parsed(given.set))
    stages = STAGES if given.test else (VALIDATION,)
    runs = [one_run(dataset, recipe, seed, stages, given.folder / dataset.name) for seed in given.seeds]
    found = {stage: averaged([run["figures"][stage] for run in runs]) for stage in stages}
    for stage, figures in found.items():
        print(f"{dataset.name}, {stage}, seeds {listed(given.seeds)}: {said(figures)}")
    if given.test:
        path = given.results / f"{dataset.name}.json"
        write_results(path, dataset.name, found, given, recipe)
        print(f"wrote {path}")
    return 0


def one_run(dataset: Dataset, recipe: Recipe, seed: int, stages: Sequence[str], folder: Path) -> dict[str, Any]:
    """One seed's figures on *stages*: read if it was judged before, else fitted and judged now."""
    own = folder / f"{fingerprint(recipe, dataset)}-{seed}"
    done: dict[str, Any] = json.loads((own / RUN).read_text()) if (own / RUN).is_file() else {}
    fits = {stage: stage if dataset.split.refit else VALIDATION for stage in stages}
    for stage in stages:
        if stage in done.get("figures", {}):
            continue
        task, cost = _fitted(dataset, recipe, seed, fits[stage], own)
        figures = judge(dataset, task, stage, own / fits[stage])
        done = done | cost | {"figures": {**done.get("figures", {}), stage: figures}}
        done |= {"seed": seed, "recipe": differing(recipe), "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M")}
        (own / RUN).write_text(json.dumps(done, indent=1) + "\n")
        with (folder / "runs.jsonl").open("a") as lines:
            lines.write(json.dumps(done) + "\n")
        print(f"{stage}, seed {seed}: {said(figures)}; {json.dumps(cost)}", flush=True)
    return done


def _fitted(dataset: Dataset, recipe: Recipe, seed: int, stage: str, own: Path) -> tuple[Task, dict[str, Any]]:
    """The task of *stage*, with its towers in *own*, and their cost if they were fitted now."""
    task = make_task(dataset, dataset.stage(stage), recipe.features())
    if (own / stage / "towers.pt").is_file():
        return task, {}
    fitted = run_fit(task, recipe, seed=seed, title=f"seed {seed}", folder=own / stage, resume=True)
    save_towers(fitted.towers, recipe, task.features, own / stage, newest_ms=0)
    best = {"best_epoch": fitted.best_epoch, "epochs": fitted.epochs, "temperature": round(fitted.temperature, 4)}
    best |= {"cold_level": round(fitted.cold_level, 4)} if recipe.cold_parity else {}
    return task, {**best, **fitted.cost(), "losses": [round(loss, 4) for loss in fitted.losses]}


def judge(dataset: Dataset, task: Task, stage: str, folder: Path) -> dict[str, float]:
    """Recall@10 and NDCG@10 of the towers in *folder* on *stage*'s baskets."""
    asked = dataset.stage(stage).judge
    return headline(tower_scorer(load_towers(folder).towers, task), dataset.log, asked, K)


def averaged(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over seeds of each figure."""
    return {name: round(float(np.mean([each[name] for each in figures])), 4) for name in figures[0]}


def differing(recipe: Recipe) -> dict[str, Any]:
    """The settings that differ from the defaults."""
    usual = Recipe().as_plain()
    return {name: value for name, value in recipe.as_plain().items() if value != usual[name]}


def fingerprint(recipe: Recipe, dataset: Dataset) -> str:
    """Twelve hex digits of everything that determines a run besides its seed."""
    told = json.dumps({"recipe": recipe.as_plain(), "data": dataset.digest}, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def write_results(
    path: Path, name: str, found: Mapping[str, Mapping[str, float]], given: argparse.Namespace, recipe: Recipe
) -> None:
    """Write the figures with the command that prints them; the folder's place is the reader's."""
    command = make_command("quality", given.data, [f"--seeds {listed(given.seeds)}", *set_again(given.set), "--test"])
    told = {**found, "seeds": list(given.seeds), "command": command, "recipe": differing(recipe)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({name: told}, indent=1) + "\n")


def said(figures: Mapping[str, float]) -> str:
    """The figures for people."""
    return ", ".join(f"{name} {value:.4f}" for name, value in figures.items())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="training.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the log and the catalogue")
    parser.add_argument("--dataset", type=Path, help="a dataset.toml elsewhere than in that folder")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of training/recipe.py"
    )
    parser.add_argument("--seeds", type=seeds_in, default=SEEDS, metavar="1,2,3")
    parser.add_argument("--test", action="store_true", help="judge on the test too, and write docs/results")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where runs are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where --test writes its file")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
