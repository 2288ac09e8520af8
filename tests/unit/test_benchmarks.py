"""The benchmarks' own logic: what is found, what is counted, and how a figure is judged."""

from itertools import islice

import numpy as np
import orjson
import pytest

from benchmarks.catalogue import bench_items
from benchmarks.ingest import requests
from benchmarks.probe import percentiles_ms
from benchmarks.reads import recall
from benchmarks.search import highest_passing
from benchmarks.targets import TARGETS, Target
from benchmarks.traffic import clicks, pairs, zipf
from nearline.events import decode_event
from services.ingest.clicks import Accepted, judge

FRESH = Target("freshness", ("freshness_ms", "500", "p50"), 100, 25, "ms")
RATE = Target("rate", ("rate",), 2_000, 6_000, "/s", True)


@pytest.mark.parametrize(("value", "verdict"), [(24, "goal"), (25, "goal"), (26, "must"), (101, "missed")])
def test_less_is_better_for_a_delay(value: float, verdict: str) -> None:
    assert FRESH.verdict({"freshness_ms": {"500": {"p50": value}}}) == verdict


@pytest.mark.parametrize(("value", "verdict"), [(6_000, "goal"), (2_000, "must"), (1_999, "missed"), (0, "missed")])
def test_more_is_better_for_a_rate(value: float, verdict: str) -> None:
    assert RATE.verdict({"rate": value}) == verdict


def test_what_was_not_measured_has_no_verdict() -> None:
    assert {target.verdict({}) for target in TARGETS} == {"-"}
    assert FRESH.verdict({"freshness_ms": {}}) == "-"


def test_a_figure_with_a_goal_alone_is_never_missed() -> None:
    goal_alone = Target("reads", ("rps",), None, 3_500, "rps", True)
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
        verdicts = judge(sent if batch > 1 else [sent], now_ms=4_000_000_000_000)
        assert [type(verdict) for verdict in verdicts] == [Accepted] * batch


def test_recall_counts_true_neighbours_and_what_ties_with_the_last() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.7, 0.1], np.float32)
    assert recall(scores, [0, 1, 2], 3) == 1
    assert recall(scores, [0, 1, 3], 3) == 1
    assert recall(scores, [0, 1, 4], 3) == pytest.approx(2 / 3)
    assert recall(scores, [0], 3) == pytest.approx(1 / 3)


def test_percentiles_are_in_milliseconds() -> None:
    assert percentiles_ms([0.010] * 100) == {"p50": 10.0, "p99": 10.0, "max": 10.0}
