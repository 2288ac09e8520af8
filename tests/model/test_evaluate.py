"""Evaluation: which users are asked, how figures are computed, and that noise scores at chance."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import ArrayLike

from nearline.errors import BadAnswer, Misconfigured
from training.arrays import Floats
from training.data.examples import Baskets
from training.data.log import Log, make_log
from training.evaluation.evaluate import ALL, NEW, Report, Scorer, as_json, difference, evaluate
from training.evaluation.slices import deciles, held_out_items, pooled, user_groups
from training.evaluation.tables import all_tables, as_text

HOUR_MS = 3_600_000
Story = Sequence[tuple[str, int, int]]  # (user, item, hour)


def log_of(story: Story, items: int) -> Log:
    rows = [
        {"user_id": user, "item_id": f"i{item:04}", "type": "purchase", "time_ms": hour * HOUR_MS, "value": 1.0}
        | {"event_id": f"e{number:06}"}
        for number, (user, item, hour) in enumerate(story)
    ]
    return make_log(pl.DataFrame(rows), [f"i{item:04}" for item in range(items)])


def last_baskets(log: Log) -> Baskets:
    """Each user's last basket."""
    start = np.unique(log.basket_start)
    end = np.append(start[1:], len(log))
    last = np.append(np.diff(log.user_start[start]) > 0, True)
    return Baskets(start[last], end[last], log.user_start[start[last]])


def before(log: Log, asked: Baskets) -> np.ndarray:
    """All events but those of the asked baskets."""
    fitted = np.ones(len(log), dtype=bool)
    for start, end in zip(asked.start, asked.end, strict=True):
        fitted[start:end] = False
    return fitted


def same_for_all(scores: ArrayLike) -> Scorer:
    return lambda asked: np.tile(np.asarray(scores, np.float32), (len(asked), 1))


def judged(scorer: Scorer, log: Log, **settings: Any) -> Report:
    asked = last_baskets(log)
    return evaluate({"it": scorer}, log, before(log, asked), asked, **settings)["it"]


def shop(*, users: int = 400, items: int = 100, seed: int = 1) -> Log:
    """Five purchases one after the other, the popular items (the low columns) far more often."""
    random = np.random.default_rng(seed)
    chance = 1 / np.arange(1, items + 1)
    drawn = [random.choice(items, 5, replace=False, p=chance / chance.sum()) for _ in range(users)]
    return log_of([(f"u{u:04}", int(i), hour) for u, row in enumerate(drawn) for hour, i in enumerate(row)], items)


def test_new_items_only_takes_repeats_out_of_targets_and_answers() -> None:
    """scores: 0 > 1 > 2 > 3 > 4 > 5, bought now: 0, 2, 4, bought before: 0, 1"""
    log = log_of([("ann", 0, 0), ("ann", 1, 0), ("ann", 0, 1), ("ann", 2, 1), ("ann", 4, 1)], 6)
    report = judged(same_for_all([6, 5, 4, 3, 2, 1]), log, k=2)
    new, every = report.settings[NEW], report.settings[ALL]
    assert new.answers.ranked.tolist() == [[2, 3]]
    assert (new.figures["recall"].mean, every.figures["recall"].mean) == (1 / 2, 1 / 2)


def test_a_user_who_only_repeats_is_not_asked_for_new_items() -> None:
    log = log_of([("ann", 0, 0), ("ann", 0, 1), ("bob", 0, 0), ("bob", 1, 1)], 3)
    report = judged(same_for_all([3, 2, 1]), log, k=1)
    assert report.settings[NEW].users == 1
    assert report.settings[NEW].answers.user.tolist() == [1]
    assert report.settings[ALL].users == 2
    assert report.settings[NEW].figures["recall"].mean == 1


def test_when_nobody_has_a_target_there_is_nothing_to_measure() -> None:
    with pytest.raises(Misconfigured, match="none of 1 users asked has a target in the setting 'new'"):
        judged(same_for_all([1, 2]), log_of([("ann", 0, 0), ("ann", 0, 1)], 2))


def test_a_user_without_a_history_is_judged_on_all_items() -> None:
    report = judged(same_for_all([1, 2]), log_of([("ann", 1, 0)], 2), k=1)
    assert report.settings[NEW].figures["recall"].mean == 1
    assert [part.label for part in report.by_history] == ["0"]


def test_a_scorer_that_answers_nonsense_is_refused() -> None:
    log = log_of([("ann", 0, 0), ("ann", 1, 1)], 3)
    with pytest.raises(BadAnswer, match=r"shape \(1, 2\), expected \(baskets, items\) = \(1, 3\)"):
        judged(same_for_all([1, 2]), log)
    with pytest.raises(BadAnswer, match="NaN"):
        judged(same_for_all([1, 2, float("nan")]), log)


def test_a_target_that_a_model_never_answers_is_missed_not_left_out() -> None:
    log = log_of([("ann", 0, 0), ("ann", 1, 1)], 3)
    report = judged(same_for_all([1, -np.inf, 2]), log, k=2)
    assert (report.settings[NEW].users, report.settings[NEW].figures["recall"].mean) == (1, 0)


def test_it_is_the_same_in_one_chunk_and_in_many(monkeypatch: pytest.MonkeyPatch) -> None:
    log = shop(users=50, items=30)
    chunks = []

    def popular(asked: Baskets) -> Floats:
        chunks.append(len(asked))
        return same_for_all(np.arange(30, 0, -1))(asked)

    whole = as_json(judged(popular, log, k=5))
    monkeypatch.setattr("training.evaluation.evaluate._CELLS_AT_ONCE", 30 * 7)
    assert as_json(judged(popular, log, k=5)) == whole
    assert chunks == [50] + [7] * 7 + [1]


def test_noise_scores_chance_and_the_truth_scores_one() -> None:
    log = shop(users=600)
    random = np.random.default_rng(2)

    def noise(asked: Baskets) -> Floats:
        return random.random((len(asked), 100)).astype(np.float32)

    def truth(asked: Baskets) -> Floats:
        return np.eye(100, dtype=np.float32)[log.item[asked.start]]

    assert judged(noise, log, k=20).settings[ALL].figures["recall"].mean == pytest.approx(20 / 100, abs=0.05)
    assert judged(truth, log, k=20).settings[NEW].figures["ndcg"].mean == 1


def test_targets_permuted_among_users_fall_to_most_popular() -> None:
    """A model that knows each user's own target knows nothing once the targets are dealt out anew."""
    log = shop(users=800)
    asked = last_baskets(log)
    truth = log.item[asked.start].copy()
    dealt = log.item.copy()
    dealt[asked.start] = np.random.default_rng(3).permutation(truth)
    knows = {int(start): int(item) for start, item in zip(asked.start, truth, strict=True)}
    counts = np.bincount(log.item[before(log, asked)], minlength=100).astype(np.float32)

    def oracle(asked: Baskets) -> Floats:
        return counts + 1e6 * np.eye(100, dtype=np.float32)[[knows[int(start)] for start in asked.start]]

    permuted = replace(log, item=dealt)
    reports = evaluate({"oracle": oracle, "popular": same_for_all(counts)}, permuted, before(log, asked), asked, k=20)
    assert judged(oracle, log, k=20).settings[NEW].figures["recall"].mean == 1
    assert abs(difference(reports["oracle"], reports["popular"]).mean) < 0.03


def test_a_model_differs_from_itself_by_nothing_and_from_another_by_its_lead() -> None:
    log = shop()
    asked = last_baskets(log)
    scorers = {"up": same_for_all(np.arange(100)), "down": same_for_all(-np.arange(100))}
    up, down = evaluate(scorers, log, before(log, asked), asked, k=20).values()
    same = difference(up, up, metric="ndcg")
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    lead = difference(down, up)
    means = [report.settings[NEW].figures["recall"].mean for report in (down, up)]
    assert lead.mean == pytest.approx(means[0] - means[1])
    assert 0 < lead.low < lead.mean < lead.high


def test_two_reports_on_different_questions_are_not_compared() -> None:
    log = shop(users=30)
    some = np.arange(100) < 90
    one, other = (judged(same_for_all(np.arange(100)), log, candidates=mask) for mask in (None, some))
    with pytest.raises(Misconfigured, match="candidates"):
        difference(one, other)


def test_cold_items_are_the_only_targets_that_count_but_the_catalogue_stays_whole() -> None:
    """bought now: 2 and 3; only 3 is cold, and it ranks third of the four items that are new"""
    log = log_of([("ann", 0, 0), ("ann", 2, 1), ("ann", 3, 1), ("bob", 0, 0), ("bob", 1, 1)], 5)
    cold = np.arange(5) == 3
    scorer = same_for_all([5, 4, 3, 2, 1])
    at = {k: judged(scorer, log, k=k, among=cold).settings[NEW] for k in (2, 3)}
    assert [at[k].figures["recall"].mean for k in (2, 3)] == [0, 1]
    assert at[3].users == 1
    only = judged(scorer, log, k=1, among=cold, candidates=cold)
    assert only.settings[NEW].figures["recall"].mean == 1


def test_held_out_items_are_about_a_tenth_and_always_the_same() -> None:
    ids = [f"i{number}" for number in range(5_000)]
    held = held_out_items(ids)
    assert held.mean() == pytest.approx(0.1, abs=0.02)
    assert np.array_equal(held, held_out_items(ids[::-1])[::-1])
    assert np.all(held_out_items(ids, 0.3)[held])


def test_deciles_go_by_fitted_events() -> None:
    counts = np.array([0, 5, 9, 1, *range(10, 26)])
    assert deciles(counts)[:4].tolist() == [10, 8, 8, 9]
    assert np.bincount(deciles(counts), minlength=11).tolist() == [2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1]


def test_slices_add_up() -> None:
    report = judged(same_for_all(np.arange(100, 0, -1)), shop(), k=20)
    new = report.settings[NEW]
    assert sum(part.figures["targets"] for part in report.by_popularity) == len(new.answers.targets.item)
    hits = sum(part.figures["hits"] for part in report.by_popularity)
    assert hits == new.per_user["recall"].sum()  # one target each
    assert report.by_popularity[0].figures["found"] > report.by_popularity[-1].figures["found"]
    assert [(part.label, part.users) for part in report.by_history] == [("2-5", new.users)]
    assert report.by_history[0].figures["recall"] == pytest.approx(new.figures["recall"].mean)


def test_history_lengths_fall_into_their_parts() -> None:
    lengths = {"a": 1, "b": 2, "c": 5, "d": 6, "e": 51}
    story = [(user, hour % 3, hour) for user, length in lengths.items() for hour in range(length)]
    log = log_of(story + [(user, 3, 60) for user in lengths], 4)
    parts = [(part.label, part.users) for part in judged(same_for_all([1, 2, 3, 4]), log).by_history]
    assert parts == [("1", 1), ("2-5", 2), ("6-20", 1), (">50", 1)]


def test_targets_that_were_never_fitted_have_a_part_of_their_own() -> None:
    report = judged(same_for_all([1, 2, 3]), log_of([("ann", 0, 0), ("ann", 2, 1)], 3), k=1)
    assert [(part.label, part.figures["found"]) for part in report.by_popularity] == [("never fitted", 1)]


def with_countries(log: Log, country_of: dict[str, str], users: Sequence[str]) -> Log:
    contexts = ({}, *({"country": name} for name in country_of.values()))
    row = {user: number for number, user in enumerate(country_of, start=1)}
    return replace(log, contexts=contexts, context=np.array([row.get(user, 0) for user in users]))


def test_a_users_group_is_what_was_declared_before_the_basket_or_else_with_it() -> None:
    log = log_of([("ann", 0, 0), ("ann", 1, 1), ("ann", 2, 2), ("bob", 0, 0), ("eve", 1, 0)], 3)
    told = replace(log, contexts=({}, {"country": "FR"}, {"country": "DE"}), context=np.array([1, 1, 2, 2, 0]))
    assert user_groups(told, last_baskets(told), "country").tolist() == ["FR", "DE", "unknown"]


def test_small_groups_are_judged_together() -> None:
    groups = np.array(["UK"] * 4 + ["FR", "DE", "DE"])
    assert pooled(groups, least=3).tolist() == ["UK"] * 4 + ["all others"] * 3


def test_the_largest_gap_between_groups_is_named_in_words() -> None:
    """Half of the users are Finns and get what they want; there are too few Danes to speak of."""
    names = [f"u{n:03}" for n in range(150)]
    country = {name: ("FI" if n < 70 else "SE" if n < 140 else "DK") for n, name in enumerate(names)}
    story = [(name, item, hour) for name in names for hour, item in ((0, 3), (1, 0 if country[name] == "FI" else 1))]
    log = with_countries(log_of(story, 4), country, [name for name in names for _ in range(2)])
    report = judged(same_for_all([4, 3, 2, 1]), log, k=1, group="country")
    assert [(part.label, part.users) for part in report.by_group] == [("FI", 70), ("SE", 70)]
    groups = "FI 1.0000 (70 users) against SE 0.0000 (70 users), the largest gap of 2 groups"
    assert report.largest_gap == f"recall: {groups}: 1.0000 [1.0000, 1.0000]"


def test_a_report_is_plain_json_and_a_table() -> None:
    log = shop(users=40)
    asked = last_baskets(log)
    reports = evaluate({"up": same_for_all(np.arange(100))}, log, before(log, asked), asked, k=20)
    plain = json.loads(json.dumps(as_json(reports["up"])))
    assert plain["users_all"] == 40
    low, high = plain["intervals"]["recall@20_new"]
    assert low <= plain["recall@20_new"] <= high
    text = as_text(all_tables(reports, "All of it"))
    assert "recall@20 new" in text
    assert f"{plain['ndcg@20_all']:.4f}" in text


def test_leave_one_out_is_judged_with_seen_items_filtered_only() -> None:
    report = judged(same_for_all(np.arange(100)), shop(users=40), settings=(NEW,))
    assert list(report.settings) == [NEW]
    assert "recall@20 all" not in as_text(all_tables({"up": report}))
