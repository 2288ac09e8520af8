"""Evaluates rankings of the full catalogue, with the same users, targets and candidates for every model.

A scorer gives a score to every item for some asked baskets; it is called for a chunk of users at a time, so nothing of
size (all users, items) is ever held. Two settings: ``new`` takes what the user has had before out of targets and
answers (for leave-one-out data this is "seen items filtered"), ``all`` takes nothing out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearline.errors import BadAnswer, Misconfigured
from training.arrays import Bools, Floats, Ints, Shares
from training.data.examples import Baskets, event_pairs, item_counts
from training.data.log import Log
from training.evaluation import bootstrap, metrics, slices
from training.evaluation.bootstrap import Figure
from training.evaluation.metrics import Targets, make_targets, top
from training.evaluation.slices import Slice

K = 20
NEW, ALL = "new", "all"
SETTINGS = (NEW, ALL)
Scorer = Callable[[Baskets], Floats]
"""Scores of every item for each of some baskets, (baskets, items); -inf is never answered."""

_CELLS_AT_ONCE = 4_000_000  # users x items of one chunk: 16 MB of scores

_PER_USER: Mapping[str, Callable[[Ints, Targets], Shares]] = {
    "recall": metrics.recall,
    "ndcg": metrics.ndcg,
    "map": metrics.average_precision,
    "mrr": metrics.reciprocal_rank,
}


@dataclass(frozen=True)
class Question:
    """Who is asked and what counts, the same for every model of a comparison."""

    log: Log
    asked: Baskets
    k: int = K
    settings: tuple[str, ...] = SETTINGS
    candidates: Bools | None = None  # (items,) what may be answered and found; None: the full catalogue
    among: Bools | None = None  # (items,) targets outside it do not count (cold items); answers are not restricted


@dataclass(frozen=True)
class Answers:
    """What one model answered, in one setting, to those asked users who had something to find."""

    user: Ints  # (users,) rows of the asked baskets
    ranked: Ints  # (users, k)
    targets: Targets


@dataclass(frozen=True)
class Measured:
    """One setting of one model; ``per_user`` lies in the order of ``answers.user``."""

    answers: Answers
    per_user: Mapping[str, Shares]
    figures: Mapping[str, Figure]  # recall, ndcg, map, mrr
    coverage: float
    novelty: float
    gini: float

    @property
    def users(self) -> int:
        """How many users the means are over."""
        return len(self.answers.user)


@dataclass(frozen=True)
class Report:
    """All figures of one model; the slices are those of the first setting."""

    question: Question
    settings: Mapping[str, Measured]
    by_popularity: tuple[Slice, ...]
    by_history: tuple[Slice, ...]
    by_group: tuple[Slice, ...]
    largest_gap: str  # in words; empty when no group was asked for


def headline(scorer: Scorer, log: Log, asked: Baskets, k: int) -> dict[str, float]:
    """``recall@k`` and ``ndcg@k`` as papers report them: the means over users, what a user had before left out."""
    answers = answer(scorer, Question(log, asked, k, (NEW,)))[NEW]
    return {
        f"{name}@{k}": float(_PER_USER[name](answers.ranked, answers.targets).mean()) for name in ("recall", "ndcg")
    }


def evaluate(
    scorers: Mapping[str, Scorer],
    log: Log,
    fitted: Bools,
    asked: Baskets,
    *,
    k: int = K,
    settings: tuple[str, ...] = SETTINGS,
    candidates: Bools | None = None,
    among: Bools | None = None,
    group: str | None = None,
    seed: int = 0,
) -> Mapping[str, Report]:
    """A report for each scorer on the same question.

    *fitted* (events,) marks what the models learnt from (``stage.fitted``): popularity and novelty are counted there.
    *group* names a signal of the context (country). *seed* draws the users of the intervals.
    """
    question = Question(log, asked, k, settings, candidates, among)
    counts = item_counts(log, fitted)
    return {name: judge(scorer, question, counts, group=group, seed=seed) for name, scorer in scorers.items()}


def judge(scorer: Scorer, question: Question, counts: Ints, *, group: str | None = None, seed: int = 0) -> Report:
    """The report of one model; *counts* (items,) is how often each item was fitted."""
    answers = answer(scorer, question)
    measured = {name: measure(found, counts, seed=seed) for name, found in answers.items()}
    first = measured[question.settings[0]]
    shown, asked = first.answers, question.asked.take(first.answers.user)
    groups = slices.pooled(slices.user_groups(question.log, asked, group)) if group else None
    by_group = slices.by_group(first.per_user, groups) if groups is not None else ()
    return Report(
        question=question,
        settings=measured,
        by_popularity=slices.by_popularity(
            metrics.places(shown.ranked, shown.targets), shown.targets, counts, question.k
        ),
        by_history=slices.by_history(first.per_user, asked.start - asked.user_start),
        by_group=by_group,
        largest_gap=_gap(first, by_group, groups, seed),
    )


def _gap(first: Measured, by_group: Sequence[Slice], groups: NDArray[Any] | None, seed: int) -> str:
    if groups is None:
        return ""
    return slices.largest_gap(by_group, first.per_user["recall"], groups, metric="recall", seed=seed)


def measure(answers: Answers, counts: Ints, *, seed: int = 0, resamples: int = bootstrap.RESAMPLES) -> Measured:
    """Every metric of *answers*, with intervals over users."""
    per_user = {name: metric(answers.ranked, answers.targets) for name, metric in _PER_USER.items()}
    spread = bootstrap.figures(np.stack(list(per_user.values())), seed=seed, resamples=resamples)
    shown = metrics.exposure(answers.ranked, len(counts))
    return Measured(
        answers=answers,
        per_user=per_user,
        figures=dict(zip(per_user, spread, strict=True)),
        coverage=metrics.coverage(shown),
        novelty=metrics.novelty(shown, counts),
        gini=metrics.gini(shown),
    )


def answer(scorer: Scorer, question: Question) -> dict[str, Answers]:
    """Rank the catalogue for everyone asked, chunk by chunk; users without a target are left out of the setting.

    ``Misconfigured`` when a setting has no user left: there is nothing to measure.
    """
    parts: dict[str, list[Answers]] = {name: [] for name in question.settings}
    step = max(1, _CELLS_AT_ONCE // max(1, len(question.log.item_ids)))
    for start in range(0, len(question.asked), step):
        rows = np.arange(start, min(start + step, len(question.asked)))
        for name, found in _answer_chunk(scorer, question, rows):
            parts[name].append(found)
    return {name: _joined(found, name, len(question.asked)) for name, found in parts.items()}


def _answer_chunk(scorer: Scorer, question: Question, rows: Ints) -> list[tuple[str, Answers]]:
    asked, items = question.asked.take(rows), len(question.log.item_ids)
    scores = _checked(scorer(asked), (len(rows), items))
    if question.candidates is not None:
        scores[:, ~question.candidates] = -np.inf
    targets = _targets(question, asked)
    found = {ALL: _rank(scores, targets, rows, question.k)} if ALL in question.settings else {}
    if NEW in question.settings:
        row, event = event_pairs(history_of(asked))
        seen = question.log.item[event]
        scores[row, seen] = -np.inf
        repeated = np.isin(targets.user * items + targets.item, row * items + seen)
        found[NEW] = _rank(scores, targets.where(~repeated), rows, question.k)
    return list(found.items())


def _checked(scores: Floats, expected: tuple[int, int]) -> Floats:
    """A copy that may be written to; ``BadAnswer`` for a wrong shape or NaN."""
    if scores.shape != expected:
        raise BadAnswer(f"a scorer answered with shape {scores.shape}, expected (baskets, items) = {expected}")
    if np.isnan(scores).any():
        raise BadAnswer("a scorer answered NaN; expected numbers, or -inf for items that it never answers")
    return np.array(scores, dtype=np.float32)


def _targets(question: Question, asked: Baskets) -> Targets:
    row, event = event_pairs(asked)
    targets = make_targets(row, question.log.item[event], len(asked))
    for allowed in (question.candidates, question.among):
        if allowed is not None:
            targets = targets.where(allowed[targets.item])
    return targets


def _rank(scores: Floats, targets: Targets, rows: Ints, k: int) -> Answers:
    """The ranking of those rows that have a target."""
    has = targets.sizes > 0
    number = np.cumsum(has) - 1
    return Answers(rows[has], top(scores[has], k), Targets(number[targets.user], targets.item, int(has.sum())))


def _joined(parts: Sequence[Answers], setting: str, asked: int) -> Answers:
    users = np.cumsum([0, *(part.targets.users for part in parts)])
    if users[-1] == 0:
        raise Misconfigured(f"none of {asked} users asked has a target in the setting {setting!r}: nothing to measure")
    targets = Targets(
        np.concatenate([part.targets.user + before for part, before in zip(parts, users[:-1], strict=True)]),
        np.concatenate([part.targets.item for part in parts]),
        int(users[-1]),
    )
    user, ranked = (np.concatenate([getattr(part, name) for part in parts]) for name in ("user", "ranked"))
    return Answers(user, ranked, targets)


def history_of(asked: Baskets) -> Baskets:
    """What lies before each asked basket, as baskets themselves."""
    return Baskets(asked.user_start, asked.start, asked.user_start)


def difference(a: Report, b: Report, *, metric: str = "recall", setting: str = NEW, seed: int = 0) -> Figure:
    """The mean of *a* - *b* over the same users, paired, with its interval; 0 outside it is a real difference.

    ``Misconfigured`` when the two were not asked the same question.
    """
    _same(a.question, b.question)
    gap = a.settings[setting].per_user[metric] - b.settings[setting].per_user[metric]
    return bootstrap.figures(gap[None, :], seed=seed)[0]


def _same(a: Question, b: Question) -> None:
    same = a.k == b.k and all(
        np.array_equal(left, right) if left is not None and right is not None else left is right
        for left, right in (
            (a.asked.start, b.asked.start),
            (a.candidates, b.candidates),
            (a.among, b.among),
        )
    )
    if not same:
        raise Misconfigured("two reports differ in k, users, candidates or counted targets: no paired difference")


def as_json(report: Report) -> dict[str, Any]:
    """The figures of a report as plain data, without the per-user values."""
    k, question = report.question.k, report.question
    plain: dict[str, Any] = {"k": k}
    for setting, measured in report.settings.items():
        plain |= {f"{name}@{k}_{setting}": figure.mean for name, figure in measured.figures.items()}
        plain |= {f"{name}_{setting}": getattr(measured, name) for name in ("users", "coverage", "novelty", "gini")}
    plain["intervals"] = {
        f"{name}@{k}_{setting}": [figure.low, figure.high]
        for setting, measured in report.settings.items()
        for name, figure in measured.figures.items()
    }
    plain["slices_of"] = question.settings[0]
    for name in ("by_popularity", "by_history", "by_group"):
        plain[name] = [asdict(part) for part in getattr(report, name)]
    return plain | ({"largest_gap": report.largest_gap} if report.largest_gap else {})
