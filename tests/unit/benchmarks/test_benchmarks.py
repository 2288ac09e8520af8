"""The benchmarks' own logic: what is found, what is counted, and how a figure is judged."""

import argparse
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import orjson
import pytest

from benchmarks.__main__ import MEASUREMENTS
from benchmarks.hot import hot_functions
from benchmarks.ingest import requests
from benchmarks.load import LoadCounts, Result
from benchmarks.overload import figures
from benchmarks.probe import percentiles_ms
from benchmarks.rates import answered, highest_within, is_within
from benchmarks.recall import recall
from benchmarks.recommend import median_run
from benchmarks.results import known, measurements_named, merged
from benchmarks.sampled import Samples
from benchmarks.search import highest_passing
from benchmarks.seen import SEEN, clicks_of, tastes_of
from benchmarks.session import EVENTS, bodies
from benchmarks.synthetic_items import bench_items
from benchmarks.targets import TARGETS, Target
from benchmarks.traffic import clicks, pairs, zipf
from nearline.errors import Unavailable
from nearline.events import decode_event
from services.ingest.clicks import AcceptedEvent, validate
from services.retrieval.routes.sessions import SessionBody

NOW_MS = 1_763_000_000_000
FRESH = Target("freshness", ("freshness_ms", "500", "p50"), 100, 25, "ms")
RATE = Target("rate", ("rate",), 2_000, 6_000, "/s", True)


@pytest.mark.parametrize(("value", "verdict"), [(24, "goal"), (25, "goal"), (26, "must"), (101, "missed")])
def test_less_is_better_for_a_delay(value: float, verdict: str) -> None:
    assert FRESH.verdict({"freshness_ms": {"500": {"p50": value}}}) == verdict


@pytest.mark.parametrize(("value", "verdict"), [(6_000, "goal"), (2_000, "must"), (1_999, "missed"), (0, "missed")])
def test_more_is_better_for_a_rate(value: float, verdict: str) -> None:
    assert RATE.verdict({"rate": value}) == verdict


def test_a_target_without_a_measurement_has_no_verdict() -> None:
    assert {target.verdict({}) for target in TARGETS} == {"-"}
    assert FRESH.verdict({"freshness_ms": {}}) == "-"


def test_a_figure_with_a_goal_alone_is_never_missed() -> None:
    goal_alone = Target("answers", ("rps",), None, 3_500, "rps", True)
    assert goal_alone.verdict({"rps": 3_000}) == "not yet"
    assert goal_alone.verdict({"rps": 3_500}) == "goal"


@pytest.mark.parametrize("limit", [90.0, 800.0, 1_234.0, 9_000.0])
def test_the_highest_passing_rate_is_found_from_above_and_from_below(limit: float) -> None:
    tried = []

    def passes(rate: float) -> bool:
        tried.append(rate)
        return rate <= limit

    found = highest_passing(passes, first=800, precision=0.1, most_trials=20)
    assert found is not None
    assert limit / 1.1 <= found <= limit
    assert len(tried) == len(set(tried))


def test_there_may_be_no_passing_rate() -> None:
    assert highest_passing(lambda rate: False, first=800) is None


def test_the_same_seed_makes_the_same_catalogue_and_no_two_titles_share_their_words() -> None:
    items = bench_items(2_000, seed=3)
    assert items == bench_items(2_000, seed=3)
    assert items != bench_items(2_000, seed=4)
    assert len({frozenset(item.title.split()) for item in items.values()}) == 2_000


def test_zipf_gives_the_first_twice_the_second() -> None:
    probabilities = zipf(10)
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities[0] == pytest.approx(2 * probabilities[1])


def test_the_load_is_seeded_valid_and_reaches_every_user_when_they_take_turns() -> None:
    first = list(islice(pairs(50, 1_000, 1), 500))
    assert first == list(islice(pairs(50, 1_000, 1), 500))
    in_turn = list(islice(pairs(50, 1_000, 1, in_turn=True), 100))
    assert len({user for user, _ in in_turn}) == 50
    key, value = next(clicks(iter(first), "t"))
    event = decode_event(value, append_ms=4_000_000_000_000)
    assert (event.user_id.encode(), event.item_id) == (key, first[0][1])


@pytest.mark.parametrize("batch", [1, 100])
def test_the_load_on_the_door_is_whole_requests_of_events_that_it_accepts(batch: int) -> None:
    for request in requests("http://door:1", batch, users=50, items=100, seed=1)[:3]:
        head, _, body = request.partition(b"\r\n\r\n")
        assert b"Content-Length: %d" % len(body) in head
        sent = orjson.loads(body)
        verdicts = validate(sent if batch > 1 else [sent], now_ms=4_000_000_000_000)
        assert [type(verdict) for verdict in verdicts] == [AcceptedEvent] * batch


def test_recall_counts_true_neighbours_and_what_ties_with_the_last() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.7, 0.1], np.float32)
    assert recall(scores, [0, 1, 2], 3) == 1
    assert recall(scores, [0, 1, 3], 3) == 1
    assert recall(scores, [0, 1, 4], 3) == pytest.approx(2 / 3)
    assert recall(scores, [0], 3) == pytest.approx(1 / 3)


def ran(rate: float, p99_s: float, *, refused: int = 0, errors: int = 0) -> Result:
    """A run at *rate* in which every answer took *p99_s*."""
    counted = LoadCounts(latencies=[p99_s] * 100, refusals=[0.004] * refused, errors=errors)
    return counted.result(rate, 100 / rate, 0.1)


def test_a_rate_is_within_its_bound_only_if_everything_was_answered_in_time() -> None:
    assert is_within(ran(500, 0.005), 5.0)
    assert not is_within(ran(500, 0.006), 5.0)
    assert not is_within(ran(500, 0.005, refused=1), 5.0)
    assert not is_within(ran(500, 0.005, errors=1), 5.0)
    assert not is_within(replace(ran(500, 0.005), degraded=1), 5.0)
    assert not is_within(LoadCounts(latencies=[0.001] * 90).result(500, 0.2, 0.1), 5.0)


def test_the_rate_found_in_short_runs_is_confirmed_by_a_long_one_and_one_pause_does_not_decide() -> None:
    lengths = []

    def run(rate: float, seconds: float) -> Result:
        lengths.append(seconds)
        pause = len(lengths) == 1
        return ran(rate, 0.001 if rate <= 1_000 and not pause else 0.1)

    trials: dict[float, list[Result]] = {}
    found = highest_within(run, 5.0, trials, first=800, short_s=1, long_s=9)
    assert found is not None
    assert 900 <= found.wanted_rps <= 1_000
    assert [one.p99_ms for one in trials[800]] == pytest.approx([100, 1])
    assert lengths[-1] == 9
    before = len(lengths)
    highest_within(run, 5.0, trials, first=800, short_s=1, long_s=9)
    assert lengths[before:] == [9], "what was tried is known"


def test_the_middle_run_stands_for_all_and_a_run_that_refuses_is_the_slowest() -> None:
    found = median_run([ran(1_000, 0.004, refused=10), ran(1_000, 0.002), ran(1_000, 0.003)])
    assert (found["p99_ms"], found["runs_p99_ms"]) == (3, [5_000, 2, 3])
    assert (found["refused"], found["errors"]) == (10, 0)


def test_overload_compares_the_kept_with_the_steady_and_says_how_long_the_refused_waited() -> None:
    found = figures(1_000, ran(700, 0.004), ran(2_000, 0.010, refused=100), [300.0, 310.0, 312.5])
    assert found["kept_over_steady_p99"] == pytest.approx(2.5)
    assert found["shed_ms"] == {"p50": 4.0, "p99": 4.0}
    assert (found["shed_share"], found["memory_growth_mib"]) == (0.5, 12.5)


def test_overload_in_which_nobody_is_refused_or_nobody_served_has_no_such_figure() -> None:
    assert figures(1_000, ran(700, 0.004), ran(2_000, 0.010), [1.0, 1.0, 1.0])["shed_ms"]["p99"] is None
    nobody = LoadCounts(refusals=[0.001]).result(2_000, 1, 0.1)
    assert figures(1_000, ran(700, 0.004), nobody, [1.0, 1.0, 1.0])["kept_over_steady_p99"] is None


def test_users_who_have_seen_a_great_deal_clicked_as_many_different_items_of_one_taste() -> None:
    items = bench_items(3_000, seed=1)
    taste, other = tastes_of(items, 2, seed=1)
    assert (taste, other) == tuple(tastes_of(items, 2, seed=1))
    events = [decode_event(value, append_ms=4_000_000_000_000) for _, value in clicks_of({"a": taste, "b": other})]
    assert len({event.event_id for event in events}) == 2 * SEEN
    assert [event.item_id for event in events if event.user_id == "a"] == taste
    assert len(set(taste)) == SEEN
    # What is left out shares no more words with the favourite, whichever of the clicked ones that was.
    left = [set(items[one].title.split()) for one in items.keys() - set(taste)]
    clicked = [set(items[one].title.split()) for one in taste]
    assert any(
        max(len(words & favourite) for words in left) <= min(len(words & favourite) for words in clicked)
        for favourite in clicked
    )


def test_sessions_are_seeded_and_hold_five_clicks_that_the_route_accepts() -> None:
    first = bodies(20, items=100, seed=1, now_ms=NOW_MS)
    assert first == bodies(20, items=100, seed=1, now_ms=NOW_MS)
    catalogue = bench_items(100, seed=1)
    for body in first:
        session = SessionBody.model_validate(orjson.loads(body)).session(NOW_MS)
        assert [item in catalogue for item in session.items] == [True] * EVENTS
        assert session.times_ms[-1] == NOW_MS


def test_a_run_of_errors_alone_ends_a_measurement_with_the_first_of_them() -> None:
    failed = LoadCounts(errors=3, first_error="HTTP/1.1 422 …").result(10, 1, 0)
    with pytest.raises(Unavailable, match="3 requests, and none was answered; the first: HTTP"):
        answered(failed)
    assert answered(ran(10, 0.001, errors=1)).errors == 1


def test_results_of_one_object_stand_side_by_side_and_a_new_one_replaces_the_old() -> None:
    idle = {"recommend": {"idle": {"rps": 1, "trials": {"100": 1}}}, "load": [1]}
    both = merged(idle, {"recommend": {"diversity_seen": {"p99_ms": 2}}, "load": [2]})
    assert both == {"recommend": {**idle["recommend"], "diversity_seen": {"p99_ms": 2}}, "load": [2]}  # type: ignore[dict-item]
    assert merged(both, {"recommend": {"idle": {"rps": 3}}})["recommend"]["idle"] == {"rps": 3}


@pytest.mark.parametrize(
    ("text", "is_kept"),
    [('{"taken": {}, "a": 1}', True), ('{"quick": true, "taken": {}}', False), ('{"a": 1}', False), ('{"a"', False)],
)
def test_results_of_earlier_runs_are_kept_unless_quick_or_broken(text: str, is_kept: bool, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    assert known(file) == {}
    file.write_text(text)
    assert bool(known(file)) is is_kept


def test_measurements_are_chosen_by_name_or_by_the_first_word_of_it() -> None:
    assert measurements_named("overload,recommend", MEASUREMENTS) == [
        "recommend.idle",
        "recommend.diversity_seen",
        "overload",
    ]
    with pytest.raises(argparse.ArgumentTypeError, match="no measurement recom; there are"):
        measurements_named("recom", MEASUREMENTS)


def test_a_sample_counts_once_for_each_function_on_the_stack() -> None:
    samples = Samples()

    def innermost() -> None:
        samples.take(sys._getframe())

    def recursive(depth: int) -> None:
        recursive(depth - 1) if depth else innermost()

    recursive(3)
    innermost()
    here = "tests/unit/benchmarks/test_benchmarks.py:test_a_sample_counts_once_for_each_function_on_the_stack"
    assert samples.count == 2
    assert samples.own == {f"{here}.<locals>.innermost": 2}
    assert samples.within[f"{here}.<locals>.recursive"] == 1
    assert samples.within[here] == 2


def test_every_hot_function_runs_with_what_the_benchmark_gives_it() -> None:
    for function in hot_functions(np.random.default_rng(1)).values():
        function()


def test_percentiles_are_in_milliseconds() -> None:
    assert percentiles_ms([0.010] * 100) == {"p50": 10.0, "p99": 10.0, "max": 10.0}
