"""Evaluates the towers on one data set in depth, as tables and one JSON file.

    make evaluate                       # Online Retail: docs/results/online-retail-study.json
    make evaluate DATA=FOLDER ARGS="--k 10 --only cold_items"

Towers of both sizes and several seeds beside the baselines, all on the same questions; the worth of each term of the
loss, each with its own temperature, chosen on validation; items without training events; users without a history;
groups of users. Many small fits run, --jobs at a time, with one thread each.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from nearline.errors import NearlineError
from training.command_line import SEEDS, count_in, listed, make_command, seeds_in, set_again
from training.data.dataset import Dataset, load_dataset
from training.data.splits import TEST, VALIDATION, Stage
from training.evaluation.baselines import choices_as_json, choose, fit_chosen
from training.evaluation.evaluate import NEW, K, Report, Scorer, as_json, difference, evaluate
from training.evaluation.slices import held_out_items
from training.evaluation.tables import all_tables, as_text
from training.recipe import CORRECTED, FULL, LOGQ, PLAIN, POOLED, SAMPLED, TRANSFORMER, Recipe, changed, parsed
from training.runs import described, group_of, make_task, run_fit, simple_scorers, without_items
from training.saved import load_towers, save_towers
from training.vectors import tower_scorer

TEMPERATURES = (0.05, 0.07, 0.1, 0.14, 0.2)
# What each arm of the ablation adds to the one above it; the last is the recipe itself.
ARMS: Mapping[str, Mapping[str, Any]] = {
    "in-batch": {"softmax": SAMPLED, "uniform_negatives": 0, "correction": PLAIN},
    "+ logQ": {"softmax": SAMPLED, "uniform_negatives": 0, "correction": LOGQ},
    "+ corrected": {"softmax": SAMPLED, "uniform_negatives": 0, "correction": CORRECTED},
    "+ mixed negatives": {"softmax": SAMPLED, "correction": CORRECTED},
    "full softmax": {"softmax": FULL},
}
# What each size of the user tower changes in the recipe beside its name; chosen on validation.
SIZES: Mapping[str, Mapping[str, Any]] = {POOLED: {}, TRANSFORMER: {"dropout": 0.2}}
COLD_SHARE = 0.1
DATA = Path("data/online-retail")


@dataclass(frozen=True)
class Job:
    """One fit: what is trained on which stage; *cold* leaves the held-out items out of everything it sees."""

    stage: str
    recipe: Recipe
    seed: int
    cold: bool = False

    @property
    def title(self) -> str:
        """A short name for progress."""
        kind = "without the held-out items" if self.cold else self.recipe.correction
        return (
            f"{self.stage}, {self.recipe.user_tower}, {kind}, temperature {self.recipe.temperature}, seed {self.seed}"
        )


@dataclass(frozen=True)
class Done:
    """A finished fit: the folder of its towers, and its cost."""

    folder: Path
    cost: Mapping[str, float]
    temperature: float


class Fits:
    """Runs each fit once, *jobs* at a time, in separate processes."""

    def __init__(self, dataset: Dataset, folder: Path, *, jobs: int, console: Console) -> None:
        self._dataset, self._folder, self._console, self._jobs = dataset, folder, console, jobs
        self._done: dict[Job, Done] = {}

    def run(self, wanted: Sequence[Job]) -> list[Done]:
        """The result of each of *wanted*, in order."""
        missing = [job for job in dict.fromkeys(wanted) if job not in self._done]
        folders = [self._folder / f"{len(self._done) + number:03}" for number in range(len(missing))]
        work = partial(_fit, self._dataset)
        with ProcessPoolExecutor(self._jobs, mp_context=get_context("fork")) as pool:
            for number, done in enumerate(pool.map(work, missing, folders), start=1):
                self._done[missing[number - 1]] = done
                self._console.print(
                    f"  {number} of {len(missing)}: {missing[number - 1].title}, {done.cost['seconds']:.0f} s"
                )
        return [self._done[job] for job in wanted]

    def scorer(self, job: Job) -> Scorer:
        """The scorer of a finished fit over the whole log."""
        saved = load_towers(self._done[job].folder)
        task = make_task(self._dataset, self._dataset.stage(job.stage), saved.features)
        return tower_scorer(saved.towers, task)


def _fit(dataset: Dataset, job: Job, folder: Path) -> Done:
    """One fit, in a separate process."""
    torch.set_num_threads(1)
    seen = without_items(dataset, held_out_items(dataset.log.item_ids, COLD_SHARE)) if job.cold else dataset
    task = make_task(seen, seen.stage(job.stage), job.recipe.features())
    fitted = run_fit(task, job.recipe, seed=job.seed, title=job.title, quiet=True)
    save_towers(fitted.towers, job.recipe, task.features, folder, newest_ms=0)
    return Done(folder, fitted.cost(), fitted.temperature)


@dataclass(frozen=True)
class Study:
    """The input of every section of the study."""

    dataset: Dataset
    recipe: Recipe
    seeds: tuple[int, ...]
    fits: Fits
    console: Console
    k: int

    def stage(self, name: str) -> Stage:
        """The stage of the data set by that name."""
        return self.dataset.stage(name)

    def judged(self, stage: str, scorers: Mapping[str, Scorer], **how: Any) -> Mapping[str, Report]:
        """The reports of *scorers* on *stage*'s baskets."""
        asked = self.stage(stage)
        return evaluate(scorers, self.dataset.log, asked.fitted, how.pop("asked", asked.judge), k=self.k, **how)

    def say(self, *said: Any) -> None:
        """Print for people."""
        for each in said:
            self.console.print(each)


def models(study: Study) -> dict[str, Any]:
    """Towers of both sizes, every seed, beside the tuned baselines; the gap between the best of each is paired."""
    recipes = {size: changed(study.recipe, {"user_tower": size, **settings}) for size, settings in SIZES.items()}
    jobs = {size: [Job(TEST, recipe, seed) for seed in study.seeds] for size, recipe in recipes.items()}
    done = study.fits.run([job for of in jobs.values() for job in of])
    validation, test = study.stage(VALIDATION), study.stage(TEST)
    log = study.dataset.log
    choices = choose(log, validation.fitted, validation.judge)
    scorers = {f"{size}, seed {job.seed}": study.fits.scorer(job) for size, of in jobs.items() for job in of}
    scorers |= fit_chosen(log, test.fitted, test.judge, choices)
    reports = study.judged(TEST, scorers, group=group_of(study.dataset))
    study.say(as_text(all_tables(reports, f"{study.dataset.name}, test")))
    towers = f"{study.recipe.user_tower}, seed {study.seeds[0]}"
    best = best_of({name: reports[name] for name in choices})
    gap = {metric: asdict(difference(reports[towers], reports[best], metric=metric)) for metric in ("recall", "ndcg")}
    study.say(f"{towers} less {best}, the best baseline, new items: " + _said(gap))
    return {
        "models": {name: as_json(report) for name, report in reports.items()},
        "seeds": {size: spread(reports, size, len(of)) for size, of in jobs.items()},
        "cost": {job.title: each.cost for job, each in zip([j for of in jobs.values() for j in of], done, strict=True)},
        "baselines": choices_as_json(choices),
        "best_baseline": best,
        "less_best_baseline": gap,
    }


def best_of(reports: Mapping[str, Report]) -> str:
    """The name of the report with the highest recall of new items."""
    return max(reports, key=lambda name: reports[name].settings[NEW].figures["recall"].mean)


def spread(reports: Mapping[str, Report], size: str, seeds: int) -> dict[str, Any]:
    """Mean and standard deviation over the seeds of one size, by metric and setting."""
    mine = [as_json(report) for name, report in reports.items() if name.startswith(f"{size}, ")]
    assert len(mine) == seeds
    metrics = [name for name in mine[0] if "@" in name]
    return {
        name: {
            "mean": float(np.mean([each[name] for each in mine])),
            "sd": float(np.std([each[name] for each in mine])),
        }
        for name in metrics
    }


def _said(gap: Mapping[str, Mapping[str, float]]) -> str:
    return ", ".join(
        f"{name} {each['mean']:+.4f} [{each['low']:+.4f}, {each['high']:+.4f}]" for name, each in gap.items()
    )


def ablation(study: Study) -> dict[str, Any]:
    """The worth of each term of the loss: its own temperature, chosen on validation, then every seed on the test."""
    still = {"learn_temperature": False}
    grid = {
        arm: [changed(study.recipe, {**settings, **still, "temperature": value}) for value in TEMPERATURES]
        for arm, settings in ARMS.items()
    }
    seed = study.seeds[0]
    study.fits.run([Job(VALIDATION, recipe, seed) for recipes in grid.values() for recipe in recipes])
    tuned: dict[str, dict[str, float]] = {}
    for arm, recipes in grid.items():
        scorers = {str(recipe.temperature): study.fits.scorer(Job(VALIDATION, recipe, seed)) for recipe in recipes}
        tuned[arm] = {name: _recall(report) for name, report in study.judged(VALIDATION, scorers).items()}
    best = {
        arm: next(r for r in grid[arm] if str(r.temperature) == max(of, key=of.__getitem__))
        for arm, of in tuned.items()
    }
    jobs = {arm: [Job(TEST, recipe, each) for each in study.seeds] for arm, recipe in best.items()}
    study.fits.run([job for of in jobs.values() for job in of])
    found: dict[str, Any] = {}
    for arm, of in jobs.items():
        reports = study.judged(TEST, {str(job.seed): study.fits.scorer(job) for job in of})
        plain = [as_json(report) for report in reports.values()]
        found[arm] = {
            "temperature": best[arm].temperature,
            "validation": tuned[arm],
            **{name: _mean_sd([each[name] for each in plain]) for name in plain[0] if "@" in name},
        }
    study.say(_ablation_table(found, len(study.seeds)))
    return found


def _recall(report: Report) -> float:
    return report.settings[NEW].figures["recall"].mean


def _mean_sd(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "sd": float(np.std(values))}


def _ablation_table(found: Mapping[str, Any], seeds: int) -> Table:
    table = Table(title=f"What each term of the loss is worth (test, mean of {seeds} seeds)", title_justify="left")
    names = [name for name in next(iter(found.values())) if name.startswith(("recall", "ndcg"))]
    for name in ("arm", "temperature", *names):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for arm, of in found.items():
        table.add_row(
            arm, f"{of['temperature']:g}", *(f"{of[name]['mean']:.4f} ± {of[name]['sd']:.4f}" for name in names)
        )
    return table


def cold(study: Study) -> dict[str, Any]:
    """Items that training never saw: text alone against the full model, same users, targets and catalogue."""
    held_out = held_out_items(study.dataset.log.item_ids, COLD_SHARE)
    full = [Job(TEST, study.recipe, seed) for seed in study.seeds]
    blind = [replace(job, cold=True) for job in full]
    study.fits.run([*full, *blind])
    found: list[dict[str, Any]] = []
    for whole, without in zip(full, blind, strict=True):
        scorers = {"full": study.fits.scorer(whole), "text alone": study.fits.scorer(without)}
        scorers |= simple_scorers(study.dataset.log, study.stage(TEST))
        reports = study.judged(TEST, scorers, among=held_out)
        ranked = study.judged(TEST, scorers, among=held_out, candidates=held_out)
        share = _recall(reports["text alone"]) / max(_recall(reports["full"]), 1e-9)
        found.append(
            {
                "seed": whole.seed,
                "users": reports["full"].settings[NEW].users,
                "text_alone_share": share,
                "in_the_full_catalogue": {name: as_json(report) for name, report in reports.items()},
                "among_held_out_items": {name: as_json(report) for name, report in ranked.items()},
            }
        )
    study.say(_cold_table(found, int(held_out.sum()), study.k))
    return {"held_out_items": int(held_out.sum()), "by_seed": found}


def _cold_table(found: Sequence[Mapping[str, Any]], items: int, k: int) -> Table:
    title = f"{items} held-out items as targets (recall@{k} new, {found[0]['users']} users)"
    table = Table(title=title, title_justify="left")
    names = list(found[0]["in_the_full_catalogue"])
    for name in ("seed", *names, "text alone / full", *(f"{name}, among held-out" for name in names[:2])):
        table.add_column(name, justify="right")
    for each in found:
        cells = [f"{each['in_the_full_catalogue'][name][f'recall@{k}_new']:.4f}" for name in names]
        among = [f"{each['among_held_out_items'][name][f'recall@{k}_new']:.4f}" for name in names[:2]]
        table.add_row(str(each["seed"]), *cells, f"{each['text_alone_share']:.2f}", *among)
    return table


def newcomers(study: Study) -> dict[str, Any]:
    """Users without a history: their first basket, from their context alone."""
    asked = study.stage(TEST).newcomers
    if not len(asked):
        return {}
    job = Job(TEST, study.recipe, study.seeds[0])
    study.fits.run([job])
    scorers = {"towers": study.fits.scorer(job), **simple_scorers(study.dataset.log, study.stage(TEST))}
    reports = study.judged(TEST, scorers, asked=asked, settings=(NEW,))
    study.say(as_text(all_tables(reports, "Users without a history")[:1]))
    return {name: as_json(report) for name, report in reports.items()}


SECTIONS: Mapping[str, Callable[[Study], dict[str, Any]]] = {
    "models": models,
    "ablation": ablation,
    "cold_items": cold,
    "newcomers": newcomers,
}


def results(study: Study, sections: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each section's name and figures, with the time that it took."""
    for name in sections:
        began = time.monotonic()
        study.say(f"\n[bold]{name.replace('_', ' ')}[/bold]")
        found = SECTIONS[name](study)
        yield name, found | {"seconds": round(time.monotonic() - began)}


def main() -> int:
    """Run the study and write its file."""
    given = _arguments()
    torch.set_num_threads(1)
    try:
        return evaluate_all(given)
    except NearlineError as problem:
        print(f"evaluate: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        return 130


def evaluate_all(given: argparse.Namespace) -> int:
    """Run the command with parsed arguments; return the exit status."""
    console = Console(width=None if sys.stdout.isatty() else 180)
    dataset = load_dataset(given.data, given.dataset)
    console.print(dataset.report())
    recipe = changed(changed(Recipe(), dataset.recipe), parsed(given.set))
    folder = Path("build/evaluate") / dataset.name
    study = Study(
        dataset, recipe, given.seeds, Fits(dataset, folder, jobs=given.jobs, console=console), console, given.k
    )
    figures: dict[str, Any] = {
        "data": dataset.name,
        "digest": dataset.digest,
        "split": described(dataset.split),
        "report": [line.strip() for line in dataset.report().splitlines()],
        "recipe": recipe.as_plain(),
        "seeds": list(given.seeds),
        "command": _command(given),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }
    out: Path = given.out or Path("docs/results") / f"{dataset.name}-study.json"
    for name, found in results(study, given.only):
        figures[name] = found
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=1) + "\n")
    console.print(f"wrote {out}")
    return 0


def _command(given: argparse.Namespace) -> str:
    """The command that reproduces these figures."""
    told = [f"--k {given.k}"] if given.k != K else []
    told += [f"--only {','.join(given.only)}"] if given.only != tuple(SECTIONS) else []
    told += [f"--seeds {listed(given.seeds)}"] if given.seeds != SEEDS else []
    return make_command("evaluate", given.data if given.data != DATA else None, [*told, *set_again(given.set)])


def _sections(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"no section {name!r}; there are {', '.join(SECTIONS)}")
    return names


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="training.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--dataset", type=Path, help="a dataset.toml elsewhere than in that folder")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of training/recipe.py"
    )
    parser.add_argument("--seeds", type=seeds_in, default=SEEDS, metavar="1,2,3")
    parser.add_argument(
        "--only", type=_sections, default=tuple(SECTIONS), metavar="SECTIONS", help=f"some of {','.join(SECTIONS)}"
    )
    parser.add_argument("--k", type=count_in, default=K, help="answers that count, 20 by default")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="fits at a time")
    parser.add_argument("--out", type=Path, help="default docs/results/<data set>-study.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
