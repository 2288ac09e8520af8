"""Fits and runs the baseline recommenders in their own environment.

    .venv/baselines/bin/python -m training.evaluation.baseline_models FOLDER

RecTools and implicit need numpy < 2, so this module runs there, as a separate process, and communicates by files in
FOLDER: ``request.json``, ``fitted.npz`` and ``asked.npz`` in, ``<number>.npz`` out, one for each run of the request.

Every model is fitted on the same events and scores the same history: all events of the user before the query, also
those after the fit. RecTools' own ``recommend`` uses only the fitted history, so its models' similarities and factors
are multiplied with the history here.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender, TFIDFRecommender
from numpy.typing import NDArray
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import EASEModel, ImplicitALSWrapperModel, ImplicitItemKNNWrapperModel, PopularModel
from scipy import sparse
from threadpoolctl import threadpool_limits

from training.arrays import Bools, Floats, Ints
from training.evaluation.metrics import top

_CELLS_AT_ONCE = 4_000_000
_NEIGHBOURS = {"cosine": CosineRecommender, "tfidf": TFIDFRecommender, "bm25": BM25Recommender}

Score = Callable[[slice], Floats]
"""Scores of every item of the catalogue for some of the asked users, (users, items)."""


@dataclass(frozen=True)
class FitEvents:
    """The events that models learn from, sorted by user, then time; ``basket`` grows along them."""

    user: Ints
    item: Ints
    basket: Ints
    time_ms: Ints
    items: int

    def events(self) -> pd.DataFrame:
        """Every event with the columns of RecTools, repeats too."""
        frame = pd.DataFrame({Columns.User: self.user, Columns.Item: self.item, Columns.Weight: 1.0})
        frame[Columns.Datetime] = pd.to_datetime(self.time_ms, unit="ms")
        return frame

    def dataset(self) -> Dataset:
        """The events for RecTools, one of weight 1 for each pair of user and item."""
        return Dataset.construct(self.events().drop_duplicates([Columns.User, Columns.Item], keep="last"))

    def known(self) -> Bools:
        """The items with an event, (items,): no other is ever answered."""
        return np.bincount(self.item, minlength=self.items) > 0

    @cached_property
    def below(self) -> Floats:
        """Scores below 0, by the number of users who had an item; -inf for an item without an event, (items,)."""
        users = np.bincount(np.unique(self.user * self.items + self.item) % self.items, minlength=self.items)
        return np.where(self.known(), users / users.max() - 2, -np.inf).astype(np.float32)


@dataclass(frozen=True)
class AskedHistories:
    """The history of each asked user: ``step`` 1 is the last basket before the question, 2 the one before it."""

    row: Ints
    item: Ints
    step: Ints
    users: int
    seen_row: Ints  # with items that count as negative, which leave the history but are not "new"
    seen_item: Ints

    def matrix(self, items: int) -> sparse.csr_matrix:
        """1 where a user had an item, (users, items)."""
        return _ones(self.row, self.item, (self.users, items))


def _ones(row: Ints, column: Ints, shape: tuple[int, int]) -> sparse.csr_matrix:
    matrix = sparse.csr_matrix((np.ones(len(row), dtype=np.float32), (row, column)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def popular(fitted: FitEvents, asked: AskedHistories, *, by: str, days: int | None = None) -> Score:
    """The same ranking for everyone: users or interactions of the last *days* before the cut (None: of all time).

    Items without an event in those days come after, by their popularity of all time.
    """
    period = timedelta(days=days) if days else None
    dataset = Dataset.construct(fitted.events())
    model = PopularModel(popularity=by, period=period).fit(dataset)
    inner, counts = model.popularity_list
    scores = np.zeros(fitted.items, dtype=np.float32)
    scores[dataset.item_id_map.external_ids[inner].astype(np.int64)] = counts
    ranked = topped_up(scores[None, :], fitted)
    return lambda rows: np.repeat(ranked, rows.stop - rows.start, axis=0)


def knn(fitted: FitEvents, asked: AskedHistories, *, weighting: str, neighbours: int) -> Score:
    """Items like those of the history: the similarities of the nearest *neighbours* of each, summed."""
    dataset = fitted.dataset()
    model = ImplicitItemKNNWrapperModel(_NEIGHBOURS[weighting](K=neighbours)).fit(dataset)
    similarity = model.model.similarity.astype(np.float32)
    return _from_items(fitted, asked, dataset, lambda history: (history @ similarity).toarray(), positive=True)


def ease(fitted: FitEvents, asked: AskedHistories, *, regularization: float, transposed: bool = False) -> Score:
    """EASE (arXiv 1905.03375): the closed-form item-item weights B, applied to the history X as X B.

    RecTools' own ``recommend`` ranks by X B^T (*transposed*): the same weights, each row scaled otherwise.
    """
    dataset = fitted.dataset()
    weight = EASEModel(regularization=regularization).fit(dataset).weight.astype(np.float32)
    weight = np.ascontiguousarray(weight.T) if transposed else weight
    return _from_items(fitted, asked, dataset, lambda history: np.asarray(history @ weight))


def als(
    fitted: FitEvents,
    asked: AskedHistories,
    *,
    factors: int,
    alpha: float,
    regularization: float,
    iterations: int,
    seed: int,
) -> Score:
    """Implicit ALS; the user's factor is computed again from the history, with the item factors of the fit."""
    dataset = fitted.dataset()
    solver = AlternatingLeastSquares(
        factors=factors, alpha=alpha, regularization=regularization, iterations=iterations, random_state=seed
    )
    with threadpool_limits(1, "blas"):  # implicit has threads of its own; both together are slower than either
        model = ImplicitALSWrapperModel(solver).fit(dataset).model

    def scores(history: sparse.csr_matrix) -> Floats:
        found: Floats = model.recalculate_user(np.arange(history.shape[0]), history) @ model.item_factors.T
        return found

    return _from_items(fitted, asked, dataset, scores)


def markov(fitted: FitEvents, asked: AskedHistories, *, window: int, decay: float, shrink: float, lift: float) -> Score:
    """What came in the next basket after each item of the last one; with *window* > 1 also further on, decayed.

    A pair *gap* baskets apart counts ``decay ** (gap - 1)``, in the fit and for the history. An item's counts are
    divided by their sum + *shrink*, so that rare items do not dominate, and by ``(sum towards the next item) ** lift``,
    since after a large basket every item leads to the popular ones.
    """
    first = np.unique(fitted.basket, return_index=True)[1]
    number = np.searchsorted(fitted.basket[first], fitted.basket)
    owner = fitted.user[first]
    baskets = _ones(number, fitted.item, (len(first), fitted.items))
    counts = sparse.csr_matrix((fitted.items, fitted.items), dtype=np.float32)
    for gap in range(1, min(window, len(first) - 1) + 1):
        first_of = np.flatnonzero(owner[:-gap] == owner[gap:])
        counts = counts + decay ** (gap - 1) * (baskets[first_of].T @ baskets[first_of + gap])
    out, into = (np.asarray(counts.sum(axis)).ravel() for axis in (1, 0))
    before, after = np.maximum(out + shrink, 1e-9), np.maximum(into, 1) ** lift
    chances = (sparse.diags(1 / before) @ counts @ sparse.diags(1 / after)).astype(np.float32)
    recent = asked.step <= window
    weights = (decay ** (asked.step[recent] - 1.0)).astype(np.float32)
    at = (asked.row[recent], asked.item[recent])
    history = sparse.csr_matrix((weights, at), shape=(asked.users, fitted.items))
    return lambda rows: topped_up((history[rows] @ chances).toarray(), fitted)


def topped_up(scores: Floats, fitted: FitEvents) -> Floats:
    """Non-negative *scores*; items without one are ranked below by popularity, items that were not fitted are out."""
    topped: Floats = np.where(scores > 0, scores, fitted.below)
    return topped


def _from_items(
    fitted: FitEvents,
    asked: AskedHistories,
    dataset: Dataset,
    score: Callable[[sparse.csr_matrix], Floats],
    *,
    positive: bool = False,
) -> Score:
    """Translate between the catalogue's columns and RecTools' inner ids; users without a history get popular items."""
    columns = dataset.item_id_map.external_ids.astype(np.int64)
    history = asked.matrix(fitted.items)[:, columns].tocsr()

    def scores(rows: slice) -> Floats:
        chunk = history[rows]
        out = np.full((chunk.shape[0], fitted.items), 0 if positive else -np.inf, dtype=np.float32)
        out[:, columns] = score(chunk)
        nothing = np.diff(chunk.indptr) == 0
        if positive:
            return topped_up(out, fitted)
        out[nothing] = topped_up(np.zeros((1, fitted.items), dtype=np.float32), fitted)
        return out

    return scores


MODELS: Mapping[str, Callable[..., Score]] = {
    "popular": popular,
    "knn": knn,
    "ease": ease,
    "als": als,
    "markov": markov,
}


def best(score: Score, asked: AskedHistories, candidates: Bools, depth: int) -> tuple[NDArray[np.int32], Floats]:
    """The *depth* best items of each user, once of all candidates and once of those new to the user: (users, 2 depth).

    A ranking of either kind up to *depth* can be made from these as from all scores, ties by column included.
    """
    columns = np.empty((asked.users, 2 * depth), dtype=np.int32)
    values = np.empty((asked.users, 2 * depth), dtype=np.float32)
    step = max(1, _CELLS_AT_ONCE // len(candidates))
    for start in range(0, asked.users, step):
        rows = slice(start, min(start + step, asked.users))
        scores = np.array(score(rows), dtype=np.float32)
        scores[:, ~candidates] = -np.inf
        every = top(scores, depth)
        inside = (asked.seen_row >= rows.start) & (asked.seen_row < rows.stop)
        fresh = scores.copy()
        fresh[asked.seen_row[inside] - rows.start, asked.seen_item[inside]] = -np.inf
        columns[rows] = np.concatenate([every, top(fresh, depth)], axis=1)
        values[rows] = np.take_along_axis(scores, np.maximum(columns[rows], 0), axis=1)
    return columns, values


def main() -> None:
    """Process the request in the folder that is the first argument."""
    folder = Path(sys.argv[1])
    request: Mapping[str, Any] = json.loads((folder / "request.json").read_text())
    fitted = FitEvents(**np.load(folder / "fitted.npz"), items=request["items"])
    given = dict(np.load(folder / "asked.npz"))
    candidates = given.pop("candidates")
    asked = AskedHistories(**given, users=request["users"])
    for number, run in enumerate(request["runs"]):
        began = time.monotonic()
        columns, values = best(
            MODELS[run["model"]](fitted, asked, **run["parameters"]), asked, candidates, request["depth"]
        )
        took_s = time.monotonic() - began
        np.savez(folder / f"{number}.npz", columns=columns, values=values, took_s=took_s)
        if request["verbose"]:
            print(f"  {run['model']} {run['parameters']}: {took_s:.1f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
