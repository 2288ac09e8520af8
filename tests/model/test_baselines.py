"""Every baseline finds what it is made to find, from the history at the time of the question."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from nearline.errors import Misconfigured
from nearline.features import TYPE_CODES
from training.arrays import Bools
from training.data.examples import Baskets
from training.data.log import Log, make_log
from training.data.splits import LeaveOneOut, Stage, stage_of
from training.evaluation import baselines
from training.evaluation.baselines import Baseline, answered, choice_table, choices_as_json, choose, fit_chosen, grid
from training.evaluation.evaluate import NEW, Scorer, evaluate
from training.evaluation.metrics import top
from training.evaluation.tables import as_text

DAY_MS = 86_400_000
Story = Sequence[tuple[str, int, int]]  # (user, item, day)

KNN = Baseline("knn", {"weighting": "cosine", "neighbours": 10})
EASE = Baseline("ease", {"regularization": 5.0})
ALS = Baseline("als", {"factors": 8, "alpha": 10, "regularization": 0.1, "iterations": 10, "seed": 1})
MARKOV = Baseline("markov", {"window": 1, "decay": 1.0, "shrink": 0, "lift": 0.0})
SKIPS = Baseline("markov", {"window": 3, "decay": 0.5, "shrink": 0, "lift": 0.0})
POPULAR = Baseline("popular", {"by": "n_users"})
OF_LATE = Baseline("popular", {"by": "n_users", "days": 5})
EVERY = {"popular": POPULAR, "of late": OF_LATE, "knn": KNN, "ease": EASE, "als": ALS, "markov": MARKOV}


@pytest.fixture(autouse=True)
def _environment() -> None:
    if not baselines.PYTHON.exists():
        pytest.fail("no environment .venv/baselines: `make test-model` and `make evaluate` build it", pytrace=False)


def log_of(story: Story, items: int) -> Log:
    rows = [
        {"user_id": user, "item_id": f"i{item:03}", "type": "purchase", "time_ms": day * DAY_MS, "value": 1.0}
        | {"event_id": f"e{number:06}"}
        for number, (user, item, day) in enumerate(story)
    ]
    return make_log(pl.DataFrame(rows), [f"i{item:03}" for item in range(items)])


def stage_of_last(log: Log) -> Stage:
    """Fitted on all but the last two baskets of each user; asked for the last."""
    return stage_of(log, LeaveOneOut(), "test")


def best(log: Log, fitted: Bools, asked: Baskets, runs: Sequence[Baseline], k: int = 1) -> list[list[list[int]]]:
    """The k best items of each baseline for each asked basket."""
    with answered(log, fitted, asked, runs, depth=k) as scorer:
        return [top(scorer(number)(asked), k).tolist() for number in range(len(runs))]


def test_popularity_counts_users_and_of_late_only_the_newest_days() -> None:
    """Item 0 had 3 users long ago, item 1 two in the last days; item 3 nobody"""
    old = [("a", 0, 1), ("b", 0, 1), ("c", 0, 1), ("a", 2, 2)]
    log = log_of([*old, ("d", 1, 20), ("e", 1, 20), ("a", 3, 30)], 4)
    asked = Baskets(np.array([2]), np.array([3]), np.array([0]))
    popular, late = best(log, log.time_ms < 25 * DAY_MS, asked, [POPULAR, OF_LATE], k=4)
    assert popular == [[0, 1, 2, -1]]
    assert late == [[1, 0, 2, -1]]


def test_a_chain_is_solved_by_markov_from_the_last_item() -> None:
    """Everyone walks round a circle of 20 items, from anywhere; even a step that was never fitted is known"""
    random = np.random.default_rng(1)
    starts = random.integers(0, 20, 60)
    log = log_of([(f"u{u:02}", (s + day) % 20, day) for u, s in enumerate(starts) for day in range(8)], 20)
    stage = stage_of_last(log)
    expected = [[int(item)] for item in log.item[stage.judge.start]]
    assert best(log, stage.fitted, stage.judge, [MARKOV, SKIPS]) == [expected, expected]


def test_a_skip_markov_looks_past_the_last_basket() -> None:
    """5 follows 0 two steps on, whatever lies between; the last step of the asked user (4) was never seen to lead on"""
    walks = [(f"u{n}", item, day) for n in range(9) for day, item in enumerate((0, 1 + n % 3, 5))]
    log = log_of([*walks, ("z", 0, 0), ("z", 4, 1), ("z", 5, 2)], 6)
    fitted = log.user < log.user[-1]
    asked = Baskets(np.array([len(log) - 1]), np.array([len(log)]), np.array([len(log) - 3]))
    assert best(log, fitted, asked, [SKIPS]) == [[[5]]]


def pairs(more: Story = (), users: int = 120) -> Log:
    """Even items go with the next odd one: who has 2 n has 2 n + 1. The asked have the even one only, so far."""
    random = np.random.default_rng(2)
    story: list[tuple[str, int, int]] = []
    for user in range(users):
        chosen = random.choice(10, 3, replace=False)
        story += [(f"u{user:03}", 2 * int(n) + odd, day) for day, n in enumerate(chosen) for odd in (0, 1)]
    story += [(f"z{n}", item, day) for n in range(10) for day, item in ((0, 2 * n), (1, 2 * n + 1))]
    return log_of([*story, *more], 20)


def test_knn_ease_and_factors_find_items_bought_together() -> None:
    """The asked users were not fitted at all: their history at the time of the question is enough."""
    log = pairs()
    asked_from = len(log) - 20
    fitted = np.arange(len(log)) < asked_from
    start = np.arange(asked_from + 1, len(log), 2)
    asked = Baskets(start, start + 1, start - 1)
    runs = {"knn": KNN, "ease": EASE, "als": ALS}
    with answered(log, fitted, asked, list(runs.values()), depth=5) as scorer:
        scorers = {name: scorer(number) for number, name in enumerate(runs)}
    reports = evaluate(scorers, log, fitted, asked, k=1)
    assert {name: report.settings[NEW].figures["recall"].mean for name, report in reports.items()} == {
        "knn": 1,
        "ease": 1,
        "als": 1,
    }


def test_an_answer_moves_with_an_event_after_the_fit() -> None:
    """Two users with the same fitted past; one of them then took 4, so 5 is next for her alone."""
    both = [("y1", 0, 0), ("y1", 1, 1), ("y1", 4, 8), ("y1", 9, 9), ("y2", 0, 0), ("y2", 1, 1), ("y2", 9, 9)]
    log = pairs(both)
    fitted = log.time_ms < 5 * DAY_MS
    start = np.flatnonzero(log.time_ms == 9 * DAY_MS)
    asked = Baskets(start, start + 1, log.user_start[start])
    with answered(log, fitted, asked, [KNN, EASE, ALS], depth=20) as scorer:
        for number in range(3):
            answers = evaluate({"": scorer(number)}, log, fitted, asked, k=1)[""].settings[NEW].answers.ranked
            assert answers[0].tolist() == [5]
            assert answers[1].tolist() != [5]


def test_everyone_is_answered_also_without_a_history_and_noise_is_no_better_than_popular() -> None:
    log = pairs()
    random = np.random.default_rng(3)
    noise = replace(log, item=random.integers(0, 20, len(log)).astype(np.int32))
    start = np.unique(noise.user_start)  # first baskets: there is nothing to go by
    end = np.array([int(np.searchsorted(noise.basket_start, s, side="right")) for s in start])
    asked = Baskets(start, end, start)
    everything = np.ones(len(log), dtype=bool)
    answers = best(noise, everything, asked, list(EVERY.values()), k=3)
    assert answers[2:] == [answers[0]] * 4
    stage = stage_of_last(noise)
    with answered(noise, stage.fitted, stage.judge, list(EVERY.values()), depth=20) as scorer:
        scorers = {name: scorer(number) for number, name in enumerate(EVERY)}
    reports = evaluate(scorers, noise, stage.fitted, stage.judge, k=5)
    for report in reports.values():
        assert report.settings["all"].figures["recall"].mean == pytest.approx(5 / 20, abs=0.12)


def test_candidates_are_the_only_answers_and_dislikes_are_no_history() -> None:
    log = pairs()
    start = np.array([len(log) - 1])
    asked = Baskets(start, start + 1, start - 1)
    allowed = np.arange(20) < 6
    with answered(log, np.ones(len(log), dtype=bool), asked, [KNN], depth=20, candidates=allowed) as scorer:
        assert np.array_equal(np.isfinite(scorer(0)(asked))[0], allowed)
    disliked = log.kind.copy()
    disliked[start - 1] = TYPE_CODES["dislike"]
    knn, popular = best(replace(log, kind=disliked), np.arange(len(log)) < len(log) - 2, asked, [KNN, POPULAR], k=3)
    assert knn == popular


def test_a_baseline_knows_only_the_baskets_that_it_was_run_on() -> None:
    log = pairs()
    stage = stage_of_last(log)
    with answered(log, stage.fitted, stage.judge.take(np.arange(5)), [POPULAR], depth=5) as scorer:
        known: Scorer = scorer(0)
    assert known(stage.judge.take(np.array([3, 1]))).shape == (2, 20)
    with pytest.raises(Misconfigured, match="not run on"):
        known(stage.judge)


def test_the_point_of_the_grid_that_is_best_on_validation_is_chosen_and_all_are_kept() -> None:
    """Popularity does not solve the chain."""
    starts = np.random.default_rng(4).integers(0, 20, 60)
    log = log_of([(f"u{u:02}", (s + 3 * day) % 20, day) for u, s in enumerate(starts) for day in range(6)], 20)
    stage = stage_of(log, LeaveOneOut(), "validation")
    points: Mapping[str, Sequence[Baseline]] = {
        "popular": [POPULAR],
        "chain": [POPULAR, *grid("markov", window=[1, 2], decay=[0.5], shrink=[0], lift=[0.0])],
    }
    choices = choose(log, stage.fitted, stage.judge, points, k=1)
    assert choices["chain"].baseline.parameters["window"] == 1
    assert [reached["recall"] == 1 for _, reached in choices["chain"].tried] == [False, True, True]
    plain = json.loads(json.dumps(choices_as_json(choices)))
    assert [tried["parameters"].get("window") for tried in plain["chain"]["tried"]] == [None, 1, 2]
    assert "chain *" in as_text([choice_table(choices)])
    test = stage_of_last(log)
    reports = evaluate(fit_chosen(log, test.fitted, test.judge, choices), log, test.fitted, test.judge, k=1)
    assert reports["chain"].settings[NEW].figures["recall"].mean == 1


def test_a_missing_environment_is_named_with_what_builds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    log = pairs()
    stage = stage_of_last(log)
    monkeypatch.setattr(baselines, "PYTHON", Path(baselines.PYTHON.parents[2] / "nowhere" / "bin" / "python"))
    with (
        pytest.raises(Misconfigured, match="`make evaluate` builds it"),
        answered(log, stage.fitted, stage.judge, [POPULAR]),
    ):
        pass
