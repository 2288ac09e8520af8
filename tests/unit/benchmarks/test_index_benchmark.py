"""The benchmark of the index: what changes, how answers are judged, how it asks, and what its tables say."""

import io
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from rich.console import Console

from benchmarks.index.__main__ import MEASUREMENTS, TARGETS, USUAL, beside_table, peers_table
from benchmarks.index.asking import ANSWER, Asked, Pace, Trial, as_plain
from benchmarks.index.churn import ratios
from benchmarks.index.peers import width_for
from benchmarks.index.vectors import (
    Changes,
    Lean,
    ReplayAnswer,
    ReplayedVectors,
    TowerVectors,
    item_id,
    judge,
    lowest_mean,
    nearest_cosine,
    noise_for,
    number_of,
    recall,
    record_maker,
    shown,
)
from benchmarks.index.wired import Wired
from benchmarks.results import table_of
from nearline.errors import Unavailable
from nearline.features import DIMENSION
from nearline.item_vectors import Vectors, decode_item_vector
from nearline.space import Space

ITEMS = 500


def unit(random: np.random.Generator, count: int, dimension: int = DIMENSION) -> Vectors:
    drawn: Vectors = random.standard_normal((count, dimension)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn


@pytest.fixture(scope="module")
def towers() -> TowerVectors:
    random = np.random.default_rng(0)
    return TowerVectors(unit(random, 40), unit(random, 60))


@pytest.fixture
def changes(towers: TowerVectors) -> Changes:
    return Changes(towers, 1, ITEMS, DIMENSION)


def test_the_same_seed_draws_the_same_vectors_of_unit_norm(towers: TowerVectors) -> None:
    first = towers.draw(np.random.default_rng(1), 100)
    assert np.array_equal(first, towers.draw(np.random.default_rng(1), 100))
    assert not np.array_equal(first, towers.draw(np.random.default_rng(2), 100))
    assert np.linalg.norm(first, axis=1) == pytest.approx(1, abs=1e-5)


def test_twice_the_dimensions_are_two_halves_of_the_same_weight(towers: TowerVectors) -> None:
    wide = towers.draw(np.random.default_rng(1), 100, dimension=2 * DIMENSION)
    assert np.linalg.norm(wide, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(wide[:, :DIMENSION], axis=1) == pytest.approx(0.5**0.5, abs=1e-5)


def test_the_noise_leaves_a_vector_as_near_to_its_neighbour_as_the_items_are() -> None:
    random = np.random.default_rng(0)
    centres = unit(random, 10)
    items = centres[random.integers(0, 10, 200)] + np.float32(0.05) * unit(random, 200)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    found = noise_for(items, 2_000, seed=1)
    drawn = items[np.arange(2_000) % 200] + unit(random, 2_000) * found
    drawn = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    assert nearest_cosine(drawn) == pytest.approx(nearest_cosine(items), abs=0.01)


def test_the_first_cycle_lists_every_item_and_the_next_replaces_each_once(changes: Changes) -> None:
    assert [changes.of(n)[0] for n in range(ITEMS)] == list(range(ITEMS))
    replaced = [changes.of(n)[0] for n in range(ITEMS, 2 * ITEMS)]
    assert sorted(replaced) == list(range(ITEMS)) != replaced


def test_lean_changes_go_over_the_items_in_turn_and_are_drawn_again_the_same(towers: TowerVectors) -> None:
    lean, again = (Lean(towers, 1, 30, DIMENSION) for _ in range(2))
    assert [lean.of(change)[0] for change in range(60)] == [*range(30), *range(30)]
    far = lean.of(1_234)[1].copy()
    assert np.array_equal(again.of(1_234)[1], far)
    assert not np.array_equal(lean.of(1_235)[1], far)


def test_a_changing_index_is_due_what_its_rate_says_and_nothing_without_one() -> None:
    pace = Pace()
    assert pace.due == 0
    pace.at_rate(1e9, done=100)
    assert pace.due > 100
    pace.at_rate(0, done=500)
    assert pace.due == 0


def test_a_replay_holds_what_single_changes_would(changes: Changes) -> None:
    by_hand: dict[int, np.ndarray] = {}
    replay, done = ReplayedVectors(changes), 0
    for to in (ITEMS, ITEMS + 3, 2 * ITEMS, 3 * ITEMS + 7):
        for number in range(done, to):
            item, vector = changes.of(number)
            by_hand[item] = vector
        done = to
        assert np.array_equal(replay.to(to), np.stack([by_hand[item] for item in range(ITEMS)]))
    with pytest.raises(ValueError, match="replayed already"):
        replay.to(ITEMS)


def test_an_answer_is_judged_by_what_was_live_when_it_was_given(changes: Changes, towers: TowerVectors) -> None:
    queries = towers.queries(4)

    def best(change: int) -> list[int]:
        scores = ReplayedVectors(changes).to(change) @ queries[1]
        return [int(item) for item in np.argsort(scores)[-10:]]

    early, late = best(ITEMS), best(2 * ITEMS)
    right = [ReplayAnswer(2 * ITEMS, 1, {10: late}), ReplayAnswer(ITEMS, 1, {10: early})]
    assert judge(changes, queries, right) == {10: [1.0, 1.0]}
    stale = judge(changes, queries, [ReplayAnswer(2 * ITEMS, 1, {10: early})])[10][0]
    assert stale < 0.5


def test_recall_counts_ties_and_misses() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.7, 0.1], np.float32)
    assert recall(scores, [0, 1, 3], 3) == 1
    assert recall(scores, [0, 1, 4], 3) == pytest.approx(2 / 3)
    assert recall(scores, [], 3) == 0


def test_the_lowest_mean_is_of_neighbours_in_time() -> None:
    assert lowest_mean([1, 1, 0, 0, 1, 1], 2) == 0
    assert lowest_mean([1, 0, 1, 0], 2) == 0.5
    assert lowest_mean([1, 0], 500) == 0.5
    assert lowest_mean([], 2) is None


def test_the_wired_catalogue_takes_the_records_of_the_changes(changes: Changes) -> None:
    space = Space(1, DIMENSION)
    wired, make = Wired(DIMENSION, record_maker(changes, space)), record_maker(changes, space)
    item, vector = changes.of(ITEMS + 5)
    record = make(ITEMS + 5)
    assert record.value is not None
    decoded = decode_item_vector(record.id, record.value, space)
    assert (number_of(decoded.item_id), decoded.version) == (item, ITEMS + 6)
    assert decoded.candidate is not None
    assert np.array_equal(decoded.candidate, vector)
    assert wired.catalogue.apply(decoded)
    assert number_of(item_id(item)) == item


def test_a_twentieth_of_the_prices_passes_the_filter() -> None:
    prices = [shown(number).price or 0 for number in range(10_000)]
    assert sum(price < 5 for price in prices) == 500


ECHO = f"""
import json, socket, sys, threading, time
sys.path.insert(0, {str(sys.path[0])!r})
from benchmarks.index.asking import ANSWER, QUESTION
port = socket.socket(fileno=int(sys.argv[-1]))
def answer():
    waiting = b""
    while chunk := port.recv(1 << 16):
        waiting += chunk
        whole = len(waiting) // QUESTION.size * QUESTION.size
        for query, due in QUESTION.iter_unpack(waiting[:whole]):
            if query == 1_000: time.sleep(1)
            done = max(due + 0.004, time.perf_counter()) if query >= 1_000 else due + 0.004
            port.sendall(ANSWER.pack(due, done, query % 2))
        waiting = waiting[whole:]
threading.Thread(target=answer, daemon=True).start()
for line in sys.stdin:
    told = json.loads(line)
    if told["do"] == "die": sys.exit(3)
    print(json.dumps({{"did": told["do"]}}), flush=True)
"""


def test_questions_are_asked_no_faster_than_their_rate_and_latency_counts_from_when_they_were_due() -> None:
    with Asked([sys.executable, "-c", ECHO], queries=10) as asked:
        assert asked.tell("something") == {"did": "something"}
        trial = asked.trial(200, 0.5)
    assert 0 < trial.per_s < 210
    assert trial.p50_ms == pytest.approx(4, abs=0.01)
    assert trial.building == pytest.approx(0.5, abs=0.02)
    assert (trial.within(4.1), trial.within(3.9)) == (True, False)


def test_once_answers_are_too_late_nothing_more_is_asked_and_no_bound_is_passed() -> None:
    seconds, rate, behind_s = 3.0, 2_000, 0.25
    with Asked([sys.executable, "-c", ECHO], queries=100_000) as asked:
        asked.tell("start")
        asked.trial(rate, 0.4)  # 800 questions; number 1,000 takes a second
        late = asked.trial(rate, seconds, behind_s=behind_s)
    answered = late.per_s * seconds
    assert behind_s * rate <= answered < 3 * behind_s * rate
    assert not late.within(500)


def test_a_process_that_ends_is_named_with_what_it_should_do() -> None:
    with (
        Asked([sys.executable, "-c", ECHO], queries=10) as asked,
        pytest.raises(Unavailable, match="while it should die"),
    ):
        asked.tell("die")


def test_a_rate_that_was_not_reached_passes_no_bound() -> None:
    slow = Trial(1_000, 900, 1, 2, 3, 0, None)
    assert not slow.within(100)
    assert as_plain(None) == {"rps": 0, "p99_ms": None}
    assert as_plain(slow)["rps"] == 900
    assert ANSWER.size == 17


def test_the_least_width_with_enough_recall_is_found() -> None:
    queries, truth = np.zeros((1, 2), np.float32), np.arange(50)[None]

    def search(query: np.ndarray, width: int) -> np.ndarray:
        return np.arange(min(50, width // 4))

    assert width_for(search, queries, truth, 0.9) == pytest.approx(180, abs=4)
    assert width_for(lambda query, width: np.arange(10), queries, truth, 0.9) is None


def test_ratios_are_of_turns_and_leave_out_what_never_passed() -> None:
    assert ratios([10, 30, 20], [5, 10, 0]) == {"median": 2.5, "low": 2, "high": 3}
    assert ratios([10], [0]) == {"median": None, "low": None, "high": None}


def test_the_tables_hold_every_figure_beside_what_it_must_reach() -> None:
    results = {
        "churn": {"recall_at_10": 0.991, "below_fresh": 0.007, "at_500_per_s": {"delta_rows_max": 6_000}},
        "build_s": 12.0,
        "side_by_side": {
            "bound_ms": 5.0,
            "rps": {"ours": [900, 1_000], "locked": [300, 500], "flat": [0, 0]},
            "ours_over": {"locked": ratios([900, 1_000], [300, 500]), "flat": ratios([9], [0])},
            "recall_at_50": {"locked": 0.951, "flat": None},
        },
    }
    page = io.StringIO()
    console = Console(width=150, file=page)
    console.print(table_of("The index", TARGETS, results))
    console.print(beside_table(results))
    text = page.getvalue()
    verdicts = {target.figure.strip(): target.verdict(results) for target in TARGETS}
    assert verdicts["recall@10 while everything changes, lowest"] == "goal"
    assert verdicts["below a fresh build"] == "must"
    assert verdicts["delta at 500 changes/s, most"] == "missed"
    assert verdicts["restart to ready"] == "-"
    assert "2.5 (2.0-3.0)" in text
    assert beside_table({}) is None


def test_another_index_may_never_reach_a_recall() -> None:
    timed = {"width": 80, "recall": 0.956, "per_s": 12_000, "p50_us": 75, "p99_us": 146}
    found = {
        "mib_per_100k": {"64": 32.6, "128": 38.7},
        "build_s": {"1": 23.1, "2": 12.0},
        "recall": {"0.955": timed, "0.99": {"most_recall": 0.983}},
        "files": {"load": {"s": 0.084, "held_ms": 4.0}},
        "add_us": 300,
    }
    page = io.StringIO()
    Console(width=150, file=page).print(peers_table({"faiss HNSW SQ8": found}))
    assert "12,000" in page.getvalue()
    assert "never: 0.983" in page.getvalue()


def test_the_long_comparison_is_asked_for_by_name() -> None:
    assert set(MEASUREMENTS) - set(USUAL) == {"peers"}
    words = [sys.executable, "-m", "benchmarks.index", "--only", "speed"]
    refused = subprocess.run(words, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "no measurement speed; there are quiet, memory, served, reads, overdriven, churn, peers" in refused.stderr


def test_cycles_of_different_numbers_differ(changes: Changes) -> None:
    firsts = [changes.cycle(number)[1][0] for number in range(3)]
    assert all(not np.array_equal(one, other) for one, other in pairwise(firsts))
