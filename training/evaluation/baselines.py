"""Tunes the baselines on validation and judges them on the same question as the towers.

    .venv/train/bin/python -m training.evaluation.baselines data/online-retail --out build/baselines.json

Every baseline sees at least the history that the towers see: all of the user's events strictly before the target
basket (the towers their last N). The models themselves run in ``.venv/baselines`` (``baseline_models.py``), because
RecTools needs an older numpy than torch; they communicate by files in a temporary folder.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from nearline.errors import Misconfigured
from nearline.features import TYPE_CODES
from training.arrays import Bools, Floats, Ints
from training.data.dataset import Dataset, load_dataset
from training.data.examples import Baskets, event_pairs
from training.data.log import Log
from training.data.splits import STAGES, LeaveOneOut, every_basket, stage_of
from training.evaluation.evaluate import NEW, SETTINGS, K, Scorer, as_json, evaluate, history_of
from training.evaluation.metrics import NOTHING
from training.evaluation.tables import all_tables, wide_console

_ROOT = Path(__file__).parents[2]
PYTHON = _ROOT / ".venv" / "baselines" / "bin" / "python"
_NEGATIVE = (TYPE_CODES["dislike"], TYPE_CODES["skip"])


@dataclass(frozen=True)
class Baseline:
    """A model of ``training.evaluation.baseline_models`` and its parameters."""

    model: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """The parameters that were best on validation, and what every point of the grid reached there."""

    baseline: Baseline
    tried: Sequence[tuple[Mapping[str, Any], Mapping[str, float]]]


def grid(model: str, **values: Sequence[Any]) -> tuple[Baseline, ...]:
    """A baseline for every combination of the *values*."""
    return tuple(Baseline(model, dict(zip(values, point, strict=True))) for point in product(*values.values()))


GRIDS: Mapping[str, tuple[Baseline, ...]] = {
    "most popular": grid("popular", by=["n_users", "n_interactions"]),
    "popular of late": grid("popular", by=["n_users"], days=[3, 7, 14, 30, 90]),
    "item-kNN": grid("knn", weighting=["cosine", "tfidf", "bm25"], neighbours=[5, 10, 20, 50, 200]),
    "first-order Markov": grid("markov", window=[1], decay=[1.0], shrink=[10, 100, 1000], lift=[0.0, 0.3, 0.5]),
    "decayed skip-Markov": grid("markov", window=[5, 20], decay=[0.5, 0.8], shrink=[10], lift=[0.0, 0.3, 0.5]),
    "EASE": grid("ease", regularization=[50, 200, 500, 1000], transposed=[False, True]),
    "ALS": grid("als", factors=[64, 128], alpha=[1, 3], regularization=[1, 10, 30, 100], iterations=[15], seed=[1]),
}


class _Answered:
    """A scorer that knows only the best items of each asked user; all others are -inf."""

    def __init__(self, asked: Baskets, items: int, columns: Ints, values: Floats) -> None:
        self._order = np.argsort(asked.start)
        self._starts, self._items = asked.start[self._order], items
        self._columns, self._values = columns, values

    def __call__(self, asked: Baskets) -> Floats:
        """The kept scores of *asked*, (baskets, items); ``Misconfigured`` for a basket that was not asked before."""
        at = np.searchsorted(self._starts, asked.start).clip(max=len(self._starts) - 1)
        if not np.array_equal(self._starts[at], asked.start):
            raise Misconfigured("a baseline was not run on one of these baskets; it answers only those it was run on")
        rows = self._order[at]
        scores = np.full((len(rows), self._items), -np.inf, dtype=np.float32)
        row, place = np.nonzero(self._columns[rows] != NOTHING)
        scores[row, self._columns[rows][row, place]] = self._values[rows][row, place]
        return scores


@contextmanager
def answered(
    log: Log,
    fitted: Bools,
    asked: Baskets,
    baselines: Sequence[Baseline],
    *,
    depth: int = 100,
    candidates: Bools | None = None,
    threads: int = 2,
    verbose: bool = False,
) -> Iterator[Callable[[int], Scorer]]:
    """Fit *baselines* on the *fitted* events and let them answer *asked*; gives the scorer of each by its number.

    A scorer is exact for rankings of up to *depth* of the same *candidates*, for new items and for all; it holds its
    answers in memory, 16 bytes x depth for each asked basket. Dislikes and skips leave the fit and the histories.
    """
    with tempfile.TemporaryDirectory(prefix="nearline-baselines-") as name:
        folder = Path(name)
        _write(folder, log, fitted, asked, candidates)
        request = {
            "items": len(log.item_ids),
            "users": len(asked),
            "depth": depth,
            "verbose": verbose,
            "runs": [asdict(baseline) for baseline in baselines],
        }
        (folder / "request.json").write_text(json.dumps(request))
        _run(folder, threads)

        def scorer(number: int) -> Scorer:
            with np.load(folder / f"{number}.npz") as found:
                return _Answered(asked, len(log.item_ids), found["columns"], found["values"])

        yield scorer


def _write(folder: Path, log: Log, fitted: Bools, asked: Baskets, candidates: Bools | None) -> None:
    liked = ~np.isin(log.kind, _NEGATIVE)
    starts = every_basket(log).start
    learnt = np.flatnonzero(fitted & liked)
    np.savez(
        folder / "fitted.npz",
        user=log.user[learnt].astype(np.int64),
        item=log.item[learnt].astype(np.int64),
        basket=np.searchsorted(starts, learnt, side="right"),
        time_ms=log.time_ms[learnt],
    )
    row, event = event_pairs(history_of(asked))
    seen, counts = log.item[event].astype(np.int64), liked[event]
    basket = np.searchsorted(starts, event, side="right")
    np.savez(
        folder / "asked.npz",
        row=row[counts],
        item=seen[counts],
        step=(np.searchsorted(starts, asked.start, side="right")[row] - basket)[counts],
        seen_row=row,
        seen_item=seen,
        candidates=np.ones(len(log.item_ids), dtype=bool) if candidates is None else candidates,
    )


def _run(folder: Path, threads: int) -> None:
    if not PYTHON.exists():
        raise Misconfigured(
            f"no environment for the baselines at {PYTHON.relative_to(_ROOT)}; `make evaluate` builds it"
        )
    variables = {"PATH": "", "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    command = [str(PYTHON), "-W", "ignore", "-m", "training.evaluation.baseline_models", str(folder)]
    code = subprocess.run(command, cwd=_ROOT, env=variables, check=False).returncode
    if code:
        raise Misconfigured(f"the baselines ended with status {code}; what they printed stands above")


def choose(
    log: Log,
    fitted: Bools,
    asked: Baskets,
    grids: Mapping[str, Sequence[Baseline]] = GRIDS,
    *,
    k: int = K,
    metric: str = "recall",
    most: int = 4_000,
    threads: int = 2,
    verbose: bool = False,
) -> Mapping[str, Choice]:
    """The point of each grid with the highest *metric* for new items on *asked*, which should be validation's.

    Of more than *most* asked baskets a sample of that size is used, always the same.
    """
    if len(asked) > most:
        asked = asked.take(np.sort(np.random.default_rng(0).permutation(len(asked))[:most]))
    flat = [baseline for points in grids.values() for baseline in points]
    with answered(log, fitted, asked, flat, depth=k, threads=threads, verbose=verbose) as scorer:
        tried = [_figures(scorer(number), log, fitted, asked, k) for number in range(len(flat))]
    choices, start = {}, 0
    for name, points in grids.items():
        reached = tried[start : start + len(points)]
        best = max(range(len(points)), key=lambda number: reached[number][metric])
        choices[name] = Choice(points[best], [(p.parameters, r) for p, r in zip(points, reached, strict=True)])
        start += len(points)
    return choices


def _figures(scorer: Scorer, log: Log, fitted: Bools, asked: Baskets, k: int) -> dict[str, float]:
    report = evaluate({"": scorer}, log, fitted, asked, k=k, settings=(NEW,))[""]
    return {name: report.settings[NEW].figures[name].mean for name in ("recall", "ndcg")}


def fit_chosen(
    log: Log,
    fitted: Bools,
    asked: Baskets,
    choices: Mapping[str, Choice],
    *,
    candidates: Bools | None = None,
    threads: int = 2,
    verbose: bool = False,
) -> Mapping[str, Scorer]:
    """A scorer for each chosen baseline, fitted again on *fitted*; they go beside the towers into ``evaluate``."""
    chosen = [choice.baseline for choice in choices.values()]
    with answered(log, fitted, asked, chosen, candidates=candidates, threads=threads, verbose=verbose) as scorer:
        return {name: scorer(number) for number, name in enumerate(choices)}


def choice_table(choices: Mapping[str, Choice], k: int = K) -> Table:
    """One row for each point of the grids, the chosen ones marked."""
    table = Table(title="Baselines on validation (* = chosen)", title_justify="left")
    for name in ("model", "parameters", f"recall@{k} new", f"NDCG@{k} new"):
        table.add_column(name, justify="right" if "@" in name else "left")
    for name, choice in choices.items():
        for parameters, reached in choice.tried:
            mark = " *" if parameters == choice.baseline.parameters else ""
            shown = ", ".join(f"{key} {value}" for key, value in parameters.items())
            table.add_row(name + mark, shown, f"{reached['recall']:.4f}", f"{reached['ndcg']:.4f}")
    return table


def choices_as_json(choices: Mapping[str, Choice]) -> dict[str, Any]:
    """The choices and all that was tried as plain data."""
    return {
        name: asdict(choice.baseline) | {"tried": [{"parameters": p, **reached} for p, reached in choice.tried]}
        for name, choice in choices.items()
    }


def run(
    dataset: Dataset, *, k: int = K, group: str | None = None, threads: int = 2, verbose: bool = True
) -> dict[str, Any]:
    """Choose the baselines on validation, refit and judge them on the test; tables are printed, figures returned.

    The validation figures are those of the chosen points, so they flatter; the test is asked once.
    """
    console, log = wide_console(), dataset.log
    validation, test = (stage_of(log, dataset.split, name) for name in STAGES)
    settings = (NEW,) if isinstance(dataset.split, LeaveOneOut) else SETTINGS
    choices = choose(log, validation.fitted, validation.judge, k=k, threads=threads, verbose=verbose)
    console.print(choice_table(choices, k))
    figures: dict[str, Any] = {}
    for stage in (validation, test):
        scorers = fit_chosen(log, stage.fitted, stage.judge, choices, threads=threads)
        reports = evaluate(scorers, log, stage.fitted, stage.judge, k=k, settings=settings, group=group)
        console.print(*all_tables(reports, f"{dataset.name}, {stage.name}"), sep="\n")
        figures[stage.name] = {name: as_json(report) for name, report in reports.items()}
    return {"data": dataset.name, "digest": dataset.digest, "choices": choices_as_json(choices), **figures}


def main() -> None:
    """Measure the baselines on a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dataset", type=Path, help="a dataset.toml elsewhere than in that folder")
    parser.add_argument("--k", type=int, default=K)
    parser.add_argument("--group", help="a signal of the context to compare groups of users by, for example country")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    given = parser.parse_args()
    dataset = load_dataset(given.folder, given.dataset)
    figures = run(dataset, k=given.k, group=given.group, threads=given.threads)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
