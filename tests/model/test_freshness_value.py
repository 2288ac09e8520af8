"""What freshness is worth: on logs where the answer is known, and what a delayed history may never hold."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console

from nearline.errors import Misconfigured
from nearline.items import Item
from training.data.dataset import Dataset, load_dataset
from training.data.examples import PADDING, Baskets
from training.data.log import Log, make_log
from training.data.splits import TEST, LeaveOneOut, TimeSplit
from training.evaluation.delays import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    NEVER_MS,
    SECOND_MS,
    Judged,
    curve,
    delayed_batch,
    granularity_ms,
    known_until,
    moments,
    parse_delays,
    since_newest_ms,
    spoken,
)
from training.evaluation.evaluate import ALL, NEW, evaluate
from training.fit import fit
from training.freshness_value import (
    DELAYS,
    EVERY,
    KNOWN,
    Replay,
    check_not_seen,
    freshness_value,
    known_items,
    queries_of,
    replay,
    sentence,
    split_of,
    told_apart,
)
from training.recipe import FULL, Recipe
from training.runs import make_task
from training.saved import Saved, save_towers
from training.task import Task
from training.towers import TwoTowers
from training.vectors import tower_scorer

BEGIN_MS = 20_000 * DAY_MS  # 2024-10-04
CUT_MS = BEGIN_MS + 20 * DAY_MS
ITEMS = 60
GROUPS = 6
RECIPE = Recipe(
    epochs=15,
    batch_size=64,
    learning_rate=5e-3,
    softmax=FULL,
    half_life_days=0,
    dropout=0.1,
    id_dropout=0.0,
    dimension=32,
)
Event = tuple[str, int, int]  # user, item, time_ms


def log_of(events: list[Event], *, joint: bool = True, items: int = ITEMS) -> Log:
    rows = [
        {"user_id": user, "item_id": f"i{item}", "type": "click", "time_ms": time_ms, "order": number}
        for number, (user, item, time_ms) in enumerate(events)
    ]
    return make_log(pl.DataFrame(rows), [f"i{item}" for item in range(items)], joint=joint)


def sessions() -> Iterator[Event]:
    """Each user clicks through three sessions, days apart; within one the next item follows from the last."""
    random = np.random.default_rng(3)
    follower = random.permutation(ITEMS)
    for user in range(150):
        for first_day in (1, 10, 21):
            item, at_ms = random.integers(ITEMS), BEGIN_MS + first_day * DAY_MS + random.integers(5 * DAY_MS)
            for click in range(4):
                yield f"u{user}", int(item), int(at_ms + click * 10 * MINUTE_MS)
                item = follower[item]


def taste() -> Iterator[Event]:
    """Each user keeps to the items of one group, a few times a day, for ever."""
    random = np.random.default_rng(4)
    for user in range(120):
        for day in range(8, 24):
            for at_ms in random.integers(DAY_MS, size=2):
                item = random.integers(ITEMS // GROUPS) * GROUPS + user % GROUPS
                yield f"u{user}", int(item), int(BEGIN_MS + day * DAY_MS + at_ms)


def dataset_of(log: Log) -> Dataset:
    items = {item_id: Item(f"thing {item_id}") for item_id in log.item_ids}
    return Dataset("log", items, log, TimeSplit(CUT_MS - DAY_MS, CUT_MS), "", {}, len(log), {})


def trained(log: Log) -> tuple[Task, TwoTowers]:
    torch.set_num_threads(1)
    data = dataset_of(log)
    task = make_task(data, data.stage(TEST), RECIPE.features())
    return task, fit(task, RECIPE, seed=1).towers


@pytest.fixture(scope="module")
def learnt() -> tuple[Task, TwoTowers]:
    """Towers that know which item follows which."""
    return trained(log_of(list(sessions())))


@pytest.fixture(scope="module")
def replayed(learnt: tuple[Task, TwoTowers]) -> Replay:
    task, towers = learnt
    return replay(task, towers, moments(task.log, from_ms=CUT_MS), parse_delays("1min,1h,24h"), k=5)


# --- known answers


def test_an_hour_of_delay_costs_the_hits_when_the_last_click_decides(replayed: Replay) -> None:
    """A session lasts 30 minutes: a minute's delay hides none of its clicks from the next, an hour's all."""
    found = replayed.curves(ALL, seed=1)[EVERY]
    now, minute, hour, day = found.points
    assert now.recall.mean > 0.6  # three of four clicks follow from the one before
    assert minute.recall == now.recall
    assert minute.hits_lost.mean == 0
    assert hour.recall.mean < 0.25
    assert hour.recall_change.high < -0.3
    assert hour.hits_lost.low > 0.5
    assert day.recall.mean == pytest.approx(hour.recall.mean, abs=0.05)
    assert replayed.within(MINUTE_MS) == 0
    assert replayed.within(HOUR_MS) == pytest.approx(0.75, abs=0.01)


def test_the_sentence_says_what_a_day_costs(replayed: Replay) -> None:
    said = sentence("shop", replayed, replayed.curves(ALL, seed=1)[EVERY], ALL)
    assert said.startswith("With answers 24 h old, shop would lose ")
    assert "% of its " in said
    assert "75.0% of its queries follow an event within 24 h" in said


def test_delay_costs_nothing_when_taste_is_constant() -> None:
    task, towers = trained(log_of(list(taste())))
    flat = replay(task, towers, moments(task.log, from_ms=CUT_MS), parse_delays("1h,24h,7d"), k=10)
    found = flat.curves(ALL, seed=1)[KNOWN]
    assert found.points[0].recall.mean > 0.8  # ten answers, ten items in a group
    for point in found.points[1:]:
        assert abs(point.recall_change.mean) < 0.03
    assert "is not significant" in sentence("shop", flat, found, ALL) or (abs(found.points[2].hits_lost.mean) < 0.03)


def test_without_a_delay_the_figures_are_those_of_the_evaluation(learnt: tuple[Task, TwoTowers]) -> None:
    task, towers = learnt
    asked = moments(task.log, from_ms=CUT_MS)
    found = replay(task, towers, asked, (0, HOUR_MS)).judged
    reports = evaluate({"it": tower_scorer(towers, task)}, task.log, task.fitted, asked)
    for setting in (NEW, ALL):
        per_user = reports["it"].settings[setting].per_user
        np.testing.assert_allclose(found[setting].recall[0], per_user["recall"])
        np.testing.assert_allclose(found[setting].ndcg[0], per_user["ndcg"])


def test_the_popular_baseline_is_measured_on_the_same_queries(learnt: tuple[Task, TwoTowers]) -> None:
    """Every item is as popular as the others: five of sixty are right once in twelve times."""
    task, towers = learnt
    asked = moments(task.log, from_ms=CUT_MS)

    def first_items(chosen: Baskets) -> np.ndarray:
        return np.tile(-np.arange(ITEMS, dtype=np.float32), (len(chosen), 1))

    found = replay(task, towers, asked, (0, HOUR_MS), k=5, popular=first_items).curves(ALL, seed=1)[EVERY]
    assert found.popular is not None
    assert found.popular.recall.mean == pytest.approx(np.isin(task.log.item[asked.start], np.arange(5)).mean())
    assert [point.delay_ms for point in found.delayed] == [0, HOUR_MS]
    assert found.popular.recall_change.high < 0


# --- strictly earlier


def test_a_query_is_a_moment_and_never_sees_what_is_of_its_own_time() -> None:
    log = log_of(
        [("a", 1, 0), ("a", 2, HOUR_MS), ("a", 3, HOUR_MS), ("a", 4, HOUR_MS), ("a", 5, 2 * HOUR_MS)], joint=False
    )
    asked = moments(log, from_ms=HOUR_MS)
    assert [log.item[s:e].tolist() for s, e in zip(asked.start, asked.end, strict=True)] == [[2, 3, 4], [5]]
    seen = delayed_batch(log, asked, 0, length=4).items
    assert seen.tolist() == [[1, PADDING, PADDING, PADDING], [4, 3, 2, 1]]


@pytest.mark.parametrize(("delay_ms", "known"), [(0, 3), (1, 3), (HOUR_MS - 1, 3), (HOUR_MS, 2), (2 * HOUR_MS, 1)])
def test_an_event_exactly_the_delay_before_a_query_is_hidden(delay_ms: int, known: int) -> None:
    log = log_of([("a", 0, 0), ("a", 1, HOUR_MS), ("a", 2, 2 * HOUR_MS), ("a", 3, 3 * HOUR_MS), ("b", 4, 0)])
    asked = moments(log, from_ms=3 * HOUR_MS)
    assert known_until(log, asked, delay_ms).tolist() == [known]


def test_a_history_is_that_of_its_own_user_and_ages_count_from_the_newest_known_event() -> None:
    log = log_of(
        [
            ("a", 1, 0),
            ("b", 2, 0),
            ("b", 3, HOUR_MS),
            ("b", 4, 5 * HOUR_MS),
            ("b", 5, 6 * HOUR_MS),
            ("c", 6, 9 * HOUR_MS),
        ]
    )
    asked = moments(log, from_ms=6 * HOUR_MS)
    late = delayed_batch(log, asked, 2 * HOUR_MS, length=3)
    assert late.items.tolist() == [[3, 2, PADDING], [PADDING] * 3]
    np.testing.assert_allclose(late.ages[0], [0, np.log(2), 0])
    assert late.types[1].tolist() == [0, 0, 0]


def test_moments_are_the_baskets_of_known_and_new_users() -> None:
    log = log_of(list(sessions()))
    stage = dataset_of(log).stage(TEST)
    expected = np.sort(np.concatenate([stage.judge_all.start, stage.newcomers.start]))
    assert moments(log, from_ms=CUT_MS).start.tolist() == expected.tolist()


def test_the_context_of_a_delayed_history_is_what_was_declared_by_then_else_what_the_query_tells() -> None:
    rows: dict[str, list[Any]] = {
        "user_id": ["a"] * 4,
        "item_id": ["i0", "i1", "i2", "i3"],
        "type": ["click"] * 4,
        "time_ms": [0, 1, 2, 3],
        "device": [None, "phone", "tv", "tablet"],
    }
    log = make_log(pl.DataFrame(rows), rows["item_id"])
    asked = moments(log, from_ms=3)
    told = [log.contexts[delayed_batch(log, asked, delay, length=4).context[0]] for delay in (0, 1, 2, 3)]
    assert [context["device"] for context in told] == ["tv", "phone", "tablet", "tablet"]


def test_time_since_the_newest_event_is_never_for_a_new_user() -> None:
    log = log_of([("a", 1, 0), ("a", 2, 5), ("b", 2, 5)])
    asked = moments(log, from_ms=5)
    assert since_newest_ms(log, asked)[0] == 5
    assert since_newest_ms(log, asked)[1] > 10**15


# --- means and intervals


def test_means_are_over_queries_and_intervals_over_users() -> None:
    """Thirty users with fifty queries that end alike say no more than thirty queries would."""
    random = np.random.default_rng(0)
    each = random.integers(0, 2, 30).astype(float)
    one = np.stack([each, each])
    many = np.repeat(one, 50, axis=1)
    alone = curve(Judged((0, 1), np.arange(30), one, one, one), seed=1)
    repeated = curve(Judged((0, 1), np.repeat(np.arange(30), 50), many, many, many), seed=1)
    assert alone is not None
    assert repeated is not None
    assert repeated.points[0].recall == alone.points[0].recall
    assert (repeated.queries, repeated.users) == (1_500, 30)


def test_a_change_is_paired_and_hits_lost_are_a_share_of_those_without_delay() -> None:
    hits = np.array([[2.0, 1, 1, 0], [1.0, 1, 0, 0]])
    found = curve(Judged((0, 1), np.arange(4), hits / 2, hits / 4, hits), seed=1)
    assert found is not None
    assert found.points[1].recall_change.mean == pytest.approx(-0.25)
    assert found.points[1].ndcg_change.mean == pytest.approx(-0.125)
    assert found.points[1].hits_lost.mean == pytest.approx(0.5)
    assert found.points[0].hits_lost.mean == 0


def test_there_is_no_curve_without_a_query_and_no_loss_without_a_hit() -> None:
    nothing = np.zeros((2, 3))
    judged = Judged((0, 1), np.arange(3), nothing, nothing, nothing)
    assert curve(judged.only(np.zeros(3, dtype=bool)), seed=1) is None
    found = curve(judged, seed=1)
    assert found is not None
    assert found.points[1].hits_lost.high == 0


# --- delays and stamps


def test_delays_are_read_sorted_and_with_none_among_them() -> None:
    assert parse_delays("7d, 1min,24h,0") == (0, MINUTE_MS, DAY_MS, 7 * DAY_MS)
    assert [spoken(delay_ms) for delay_ms in parse_delays(f"{DELAYS},90s,36h")] == [
        "0",
        "1 min",
        "90 s",
        "1 h",
        "24 h",
        "36 h",
        "7 d",
    ]


@pytest.mark.parametrize("text", ["1", "h", "1 week", "-1h", "1.5h"])
def test_an_invalid_delay_is_named(text: str) -> None:
    with pytest.raises(Misconfigured, match="a delay is a number and one of s, min, h, d"):
        parse_delays(text)


@pytest.mark.parametrize(
    ("step_ms", "grain_ms"),
    [(DAY_MS, DAY_MS), (2 * HOUR_MS, HOUR_MS), (MINUTE_MS, MINUTE_MS), (7 * SECOND_MS, SECOND_MS), (1_001, 1)],
)
def test_the_granularity_of_the_stamps_is_found_in_any_time_zone(step_ms: int, grain_ms: int) -> None:
    zone_ms = 5 * HOUR_MS + 30 * MINUTE_MS if grain_ms >= HOUR_MS else 0
    assert granularity_ms(log_of([("a", 1, BEGIN_MS + zone_ms + n * step_ms) for n in range(1, 9)])) == grain_ms


def test_delays_that_the_stamps_can_not_tell_apart_are_left_out_and_said() -> None:
    kept, note = told_apart(parse_delays(DELAYS), DAY_MS)
    assert kept == (0, DAY_MS, 7 * DAY_MS)
    assert "all times are whole days; delays below that are left out (1 min, 1 h)" in note
    assert told_apart(parse_delays(DELAYS), MINUTE_MS)[0] == parse_delays(DELAYS)
    with pytest.raises(Misconfigured, match="no delay is left"):
        told_apart(parse_delays("1h"), DAY_MS)


# --- what is refused, and the whole of it


def test_towers_that_have_seen_the_answers_are_refused_with_both_times(learnt: tuple[Task, TwoTowers]) -> None:
    task, towers = learnt
    asked = moments(task.log, from_ms=CUT_MS)
    first_ms = int(task.log.time_ms[asked.start].min())
    saved = Saved(towers, RECIPE, task.features, newest_ms=first_ms - 1)
    check_not_seen(saved, task.log, asked, Path("mine"))
    with pytest.raises(Misconfigured, match=r"in mine learnt .* up to 2024-10-2\d .* first query is of 2024-10-2\d"):
        check_not_seen(replace(saved, newest_ms=first_ms), task.log, asked, Path("mine"))
    with pytest.raises(Misconfigured, match="no query after the cut"):
        check_not_seen(saved, task.log, asked.take(np.zeros(0, dtype=np.int64)), Path("mine"))


def test_how_many_of_the_items_asked_for_the_towers_know_is_told(learnt: tuple[Task, TwoTowers]) -> None:
    task, towers = learnt
    asked = moments(task.log, from_ms=CUT_MS)
    assert known_items(towers, task, asked) == 1
    others = replace(task, items=(task.items[0] + 1, *task.items[1:]))
    assert known_items(towers, others, asked) == 0


def test_leave_one_out_data_needs_a_moment() -> None:
    data = replace(dataset_of(log_of(list(taste()))), split=LeaveOneOut())
    with pytest.raises(Misconfigured, match=r"kind = \"time\".*--test-from 0\.9"):
        split_of(data, None)
    share = split_of(data, "0.9").test_from_ms
    assert (data.log.time_ms < share).mean() == pytest.approx(0.9, abs=0.01)
    assert split_of(data, "2024-10-14").test_from_ms % DAY_MS == 0
    for text in ("1.5", "soon"):
        with pytest.raises(Misconfigured, match="--test-from"):
            split_of(data, text)


def test_sampling_queries_is_repeatable() -> None:
    log = log_of(list(sessions()))
    few = [queries_of(log, from_ms=CUT_MS, most=50, seed=2).start.tolist() for _ in range(2)]
    assert few[0] == few[1] == sorted(set(few[0]))
    assert len(few[0]) == 50


def written(folder: Path) -> Path:
    events = list(sessions())
    columns = {
        "user_id": [e[0] for e in events],
        "item_id": [f"i{e[1]}" for e in events],
        "time": [e[2] for e in events],
    }
    folder.mkdir()
    pl.DataFrame(columns).write_parquet(folder / "interactions.parquet")
    (folder / "dataset.toml").write_text(
        '[interactions]\ntime_unit = "ms"\n[split]\nvalidate_from = 2024-10-23\ntest_from = 2024-10-24\n'
    )
    return folder


def test_the_command_writes_a_plot_and_every_figure(tmp_path: Path) -> None:
    folder = written(tmp_path / "shop")
    data = load_dataset(folder)
    task = make_task(data, data.stage(TEST), RECIPE.features())
    newest_ms = int(task.log.time_ms[task.fitted].max())
    towers = fit(task, replace(RECIPE, epochs=1), seed=1).towers
    save_towers(towers, RECIPE, task.features, tmp_path / "towers", newest_ms=newest_ms)
    with (tmp_path / "said").open("w") as said:
        freshness_value(arguments(folder, tmp_path), Console(file=said, width=150))
    text = (tmp_path / "said").read_text()
    assert "With answers 24 h old, shop would" in text
    assert (tmp_path / "out" / "freshness-value.png").read_bytes().startswith(b"\x89PNG")
    plain = json.loads((tmp_path / "out" / "freshness-value.json").read_text())
    assert plain["queries"] == len(moments(data.log, from_ms=plain_cut(data)))
    points = plain["curves"]["new"][EVERY]["points"]
    assert [point["delay_ms"] for point in points] == [*parse_delays(DELAYS), NEVER_MS]


def plain_cut(data: Dataset) -> int:
    assert isinstance(data.split, TimeSplit)
    return data.split.test_from_ms


def arguments(folder: Path, home: Path, **changed: Any) -> argparse.Namespace:
    given = {
        "folder": folder,
        "towers": home / "towers",
        "dataset": None,
        "delays": DELAYS,
        "test_from": None,
        "queries": 1_000,
        "text_encoder": None,
        "out": home / "out",
        "k": 5,
        "seed": 1,
    }
    return argparse.Namespace(**(given | changed))


def test_a_query_without_any_history_counts_with_the_answer_for_nobody(learnt: tuple[Task, TwoTowers]) -> None:
    task, towers = learnt
    log = log_of([*sessions(), ("new", 7, CUT_MS + DAY_MS)])
    asked = moments(log, from_ms=CUT_MS)
    found = replay(replace(task, log=log), towers, asked, (0, HOUR_MS), k=5)
    assert len(found.judged[ALL].user) == len(asked)
    new = Baskets(asked.start, asked.end, asked.user_start).take(asked.start == asked.user_start)
    assert len(new) == 1
    row = int(np.flatnonzero(asked.start == new.start[0])[0])
    assert found.judged[ALL].recall[0, row] == found.judged[ALL].recall[1, row]
