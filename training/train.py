"""Trains both towers on a log, judges and exports them; read it downwards.

    make train                                   # the demo's towers, compared with the committed ones
    make train DATA=FOLDER ARGS="--set epochs=5"

FOLDER holds interactions.parquet, items.parquet and, where columns have other names, dataset.toml
(`python -m training.data.dataset FOLDER` prints its content). Two runs of one recipe: the first is judged on
validation, to choose a recipe; the second is fitted on everything before the test, judged once on it, and exported.
A run writes to --out: the towers for Triton, towers.pt for a warm start, checkpoints, TensorBoard's curves and a model
card. With torchrun its processes share the batches:

    .venv/train/bin/torchrun --nproc-per-node 2 -m training.train --data FOLDER
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed

from nearline.adapters.tokenizer import open_tokenizer
from nearline.errors import NearlineError
from nearline.features import ITEM_TOWER
from training.card import card
from training.data.dataset import Dataset, load_dataset
from training.data.splits import STAGES, TEST, Stage
from training.evaluation.evaluate import K, as_json
from training.evaluation.tables import all_tables, as_text
from training.export import export_towers
from training.fit import Fitted, World
from training.recipe import Recipe, changed, parsed
from training.runs import TOWERS, described, group_of, judged, limits_of, make_task, run_fit, simple_scorers
from training.saved import Saved, load_towers, save_towers
from training.task import Task
from training.text_encoder import Encoded, encode_catalogue
from training.vectors import tower_scorer

REPOSITORY = Path("model_repository")
EXPORTED = Path("build/train/exported")  # where the last export went, for local/parity.py
SAME = 0.01  # recall: seeds of one recipe differ by about half of this (docs/model.md)
IN_CONFIG = ("k", "intervals")  # of a report's figures, beside the metrics themselves


@dataclass(frozen=True)
class Run:
    """What the stages of one command share."""

    dataset: Dataset
    recipe: Recipe
    encoded: Encoded | None
    seed: int
    out: Path
    resume: bool
    world: World
    start: Saved | None


def main() -> int:
    """Train, judge, export, and compare with the towers that are already in the repository."""
    given = _arguments()
    torch.set_num_threads(given.threads)
    try:
        return train(given)
    except NearlineError as problem:
        print(f"train: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command with --resume goes on after the last whole epoch", file=sys.stderr)
        return 130


def train(given: argparse.Namespace) -> int:
    """Run the command with parsed arguments; return the exit status."""
    began = time.monotonic()
    with _world() as world:
        run = _prepare(given, world)
        if world.rank == 0:
            print(run.dataset.report(), flush=True)
        results = {name: stage_run(run, run.dataset.stage(name)) for name in _stages(given, run.dataset)}
        if world.rank:
            return 0
        last = list(results)[-1]
        fitted, task, _ = results[last]
        save_towers(fitted.towers, run.recipe, task.features, run.out, newest_ms=newest_ms(task))
        facts = _facts(run, results, last)
        repository = REPOSITORY if given.write else run.out / REPOSITORY.name
        print(compare_with(REPOSITORY, facts, space=given.space))
        export_towers(
            fitted.towers, task.features, task.items, repository, space=given.space, facts=facts, encoded=run.encoded
        )
        (repository / f"model_card.{given.space}.md").write_text(card(facts, space=given.space))
        (run.out / "summary.json").write_text(json.dumps(facts, indent=2) + "\n")
        EXPORTED.parent.mkdir(parents=True, exist_ok=True)
        EXPORTED.write_text(f"{repository}\n{given.space}\n")
        print(f"wrote version {given.space} of both towers and model_card.{given.space}.md to {repository}/")
        print(f"in {time.monotonic() - began:.0f} s; curves: .venv/train/bin/tensorboard --logdir {run.out}")
        return 0


def _prepare(given: argparse.Namespace, world: World) -> Run:
    dataset = load_dataset(given.data, given.dataset)
    recipe = changed(changed(Recipe(), dataset.recipe), parsed(given.set))
    out = given.out or Path("build/train") / dataset.name
    start = load_towers(given.warm_start) if given.warm_start else None
    encoded = encode_catalogue(given.text_encoder, dataset.items, open_tokenizer) if given.text_encoder else None
    return Run(dataset, recipe, encoded, given.seed, out, given.resume, world, start)


def _stages(given: argparse.Namespace, dataset: Dataset) -> list[str]:
    """The stages to run; if both share a model, it is trained once and judged on the test."""
    if given.stage:
        return [given.stage]
    return list(STAGES) if dataset.split.refit else [TEST]


def stage_run(run: Run, stage: Stage) -> tuple[Fitted, Task, Mapping[str, Any]]:
    """Fit and judge on one stage; the reports are plain data by model (only in the first process)."""
    features = run.recipe.features(None if run.encoded is None else run.encoded.tokenizer)
    task = make_task(run.dataset, stage, features, None if run.encoded is None else run.encoded.sentences)
    if run.start is not None:
        task = only_new(task, run.start)
    fitted = run_fit(
        task,
        run.recipe,
        seed=run.seed,
        title=stage.name,
        folder=run.out / stage.name,
        resume=run.resume,
        start=None if run.start is None else run.start.towers,
        world=run.world,
    )
    if run.world.rank:
        return fitted, task, {}
    if run.recipe.cold_parity:
        print(f"cold items: {_raised(fitted.cold_level)}")
    scorers = {TOWERS: tower_scorer(fitted.towers, task), **simple_scorers(run.dataset.log, stage)}
    if run.start is not None:
        before = replace(task, features=run.start.features)
        scorers = {"towers before the warm start": tower_scorer(run.start.towers, before), **scorers}
    reports = judged(run.dataset, stage, scorers, k=K, group=group_of(run.dataset))
    print(as_text(all_tables(reports, f"{run.dataset.name}, {stage.name}")), flush=True)
    return fitted, task, {name: as_json(report) for name, report in reports.items()}


def only_new(task: Task, start: Saved) -> Task:
    """The task with only the examples newer than *start*'s training data."""
    examples = task.examples.take(np.asarray(task.log.time_ms)[task.examples.start] > start.newest_ms)
    return replace(task, examples=examples)


def newest_ms(task: Task) -> int:
    """The time of the newest event that was fitted."""
    return int(np.asarray(task.log.time_ms)[task.fitted].max())


def _facts(run: Run, results: Mapping[str, tuple[Fitted, Task, Mapping[str, Any]]], last: str) -> dict[str, Any]:
    fitted, task, _ = results[last]
    stage = run.dataset.stage(last)
    return {
        "summary": f"{run.recipe.user_tower} user tower over an item tower, trained on {run.dataset.name}.",
        "seed": run.seed,
        "dataset": run.dataset.name,
        "data": {"digest": run.dataset.digest, "report": [line.strip() for line in run.dataset.report().splitlines()]},
        "split": described(run.dataset.split),
        "fitted_events": int(stage.fitted.sum()),
        "examples": len(task.examples),
        "recipe": run.recipe.as_plain(),
        "temperature": fitted.temperature,
        "losses": [round(loss, 4) for loss in fitted.losses],
        "metrics": {
            name: {model: _short(plain) for model, plain in models.items()} for name, (_, _, models) in results.items()
        },
        "cold_level": fitted.cold_level,
        "cost": fitted.cost(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "threads": torch.get_num_threads(),
        "limits": limits_of(run.dataset),
    }


def _raised(level: float) -> str:
    return f"raised by {level:.3f}" if level else "as trained; they fill that share already, or at no level"


def _short(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A report's figures without its slices."""
    return {name: value for name, value in plain.items() if name in IN_CONFIG or isinstance(value, int | float)}


def compare_with(repository: Path, facts: Mapping[str, Any], *, space: int) -> str:
    """One sentence: whether the new recall is the same as, better or worse than *repository*'s towers'."""
    path = repository / ITEM_TOWER / str(space) / "config.json"
    old = json.loads(path.read_text()) if path.is_file() else {}
    if old.get("dataset") != facts["dataset"] or TEST not in old["metrics"] or TEST not in facts["metrics"]:
        return f"nothing to compare with: no towers of {facts['dataset']}, judged on its test, in {path.parent}"
    name = f"recall@{K}_new"
    before, now = (each["metrics"][TEST][TOWERS][name] for each in (old, facts))
    verdict = "the same" if abs(now - before) <= SAME else "better" if now > before else "worse"
    return (
        f"recall@{K} of new items {now:.4f}; the towers in {path.parent} have {before:.4f}: {verdict} (within {SAME})"
    )


@contextmanager
def _world() -> Iterator[World]:
    """This process's place among torchrun's, or alone; its group is left at the end."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else torch.device("cpu")
    if size > 1:
        torch.distributed.init_process_group("nccl" if gpu else "gloo")
    try:
        yield World(int(os.environ.get("RANK", "0")), size, device)
    finally:
        if size > 1:
            torch.distributed.destroy_process_group()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="training.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data/online-retail"), help="folder with the log and the catalogue"
    )
    parser.add_argument("--dataset", type=Path, help="a dataset.toml elsewhere than in that folder")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of training/recipe.py"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--space", type=int, default=1, help="the embedding space, that is the version for Triton")
    parser.add_argument("--out", type=Path, help="where everything is written; default build/train/<data set>")
    parser.add_argument("--write", action="store_true", help=f"export to {REPOSITORY}/, replacing what the demo serves")
    parser.add_argument("--stage", choices=STAGES, help="only this one")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    parser.add_argument(
        "--warm-start", type=Path, metavar="FOLDER", help="begin as its towers.pt; learn newer events only"
    )
    parser.add_argument("--text-encoder", type=Path, metavar="FOLDER", help="with model.onnx and tokenizer.json")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
