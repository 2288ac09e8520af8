"""Live figures, computed from two pages of metrics."""

import math

import numpy as np
import pytest

from nearline.live import LiveWindow, MetricsPages, figures_between, metrics_urls, quantile, read_page
from nearline.telemetry import FINE_BUCKETS_S


def _pages(**texts: str) -> MetricsPages:
    return {part: read_page(text) for part, text in texts.items()}


def _histogram(name: str, counts: dict[str, int], labels: str = "") -> str:
    lines = [f'{name}_bucket{{{labels}le="{le}"}} {count}' for le, count in counts.items()]
    total = list(counts.values())[-1]
    rest = f"{{{labels.rstrip(',')}}}" if labels else ""
    return "\n".join([*lines, f"{name}_count{rest} {total}", f"{name}_sum{rest} 1.0"]) + "\n"


def test_rates_and_delays_are_of_the_time_between_the_pages() -> None:
    name = "nearline_click_to_servable_seconds"
    before = _histogram(name, {"0.01": 100, "0.02": 100, "+Inf": 100}) + "nearline_sequences_total 100\n"
    after = _histogram(name, {"0.01": 100, "0.02": 120, "+Inf": 120}) + "nearline_sequences_total 150\n"
    figures = figures_between(_pages(user_tower=before), _pages(user_tower=after), 10.0)
    assert figures.clicks_per_s == 5.0
    assert figures.freshness is not None
    assert figures.freshness.count == 20
    assert figures.freshness.p50_s == pytest.approx(0.015)
    assert figures.freshness.p99_s == pytest.approx(0.0199)


def test_a_part_that_was_started_anew_counts_from_nothing() -> None:
    before, after = "nearline_sequences_total 1000\n", "nearline_sequences_total 30\n"
    assert figures_between(_pages(user_tower=before), _pages(user_tower=after), 10.0).clicks_per_s == 3.0


def test_a_histogram_that_was_started_anew_is_taken_whole() -> None:
    """Bucket by bucket, 30 of the slow ones would look like 5 more than before."""
    name = "nearline_recommend_seconds"
    before = _histogram(name, {"0.01": 50, "0.02": 50, "+Inf": 50})
    after = _histogram(name, {"0.01": 0, "0.02": 60, "+Inf": 60})
    answers = figures_between(_pages(retrieval=before), _pages(retrieval=after), 1.0).answers
    assert answers is not None
    assert (answers.p50_s, answers.p99_s) == pytest.approx((0.015, 0.0199))
    assert answers.count == 60


def test_a_part_that_did_not_answer_has_no_figures() -> None:
    after = {**_pages(user_tower="nearline_sequences_total 1000\n", retrieval=""), "item_tower": None}
    figures = figures_between({"user_tower": None}, after, 10.0)
    assert figures.clicks_per_s == 0.0  # its thousand may be of any time
    assert figures.down == ("item_tower",)
    assert (figures.answers, figures.answers_per_s, figures.fallback_share, figures.freshness) == (None,) * 4


def test_answers_tell_their_share_of_fallbacks_and_the_cache_its_hits() -> None:
    before = 'nearline_recommend_answers_total{reason="none"} 10\nnearline_user_cache_hits_total 4\n'
    after = (
        'nearline_recommend_answers_total{reason="none"} 19\n'
        'nearline_recommend_answers_total{reason="unknown_user"} 1\n'
        "nearline_user_cache_hits_total 7\nnearline_user_cache_misses_total 1\n"
    )
    figures = figures_between(_pages(retrieval=before), _pages(retrieval=after), 1.0)
    assert figures.fallback_share == pytest.approx(0.1)
    assert figures.cache_hit_rate == 0.75


def test_how_things_stand_is_told_of_each_part() -> None:
    retrieval = (
        'nearline_index_recall_ratio{k="10"} 0.99\nnearline_index_recall_ratio{k="50"} 0.96\n'
        "nearline_index_recall_samples 180\n"
        'nearline_index_delta_rows 12\nnearline_index_items 3659\nnearline_lag_records{topic="items",partition="0"} 3\n'
        'nearline_lag_records{topic="rules",partition="0"} 1\n'
    )
    tower = (
        'nearline_lag_records{topic="user-sequences",partition="0"} 7\n'
        'nearline_sequences_refused_total{reason="bad_answer"} 2\n'
    )
    flink = (
        'flink_taskmanager_job_task_operator_pendingRecords{operator_name="a b"} 5\n'
        'flink_taskmanager_job_task_operator_reason_nearline_refused{operator_name="last n",reason="bad_id"} 4\n'
    )
    canary = 'nearline_canary_up 1\nnearline_canary_clicks_total{outcome="used"} 3\n'
    pages = _pages(retrieval=retrieval, user_tower=tower, last_n=flink, canary=canary)
    figures = figures_between({}, pages, 0.0)
    assert figures.recall == {10: 0.99, 50: 0.96}
    assert (figures.recall_samples, figures.delta_rows, figures.index_items) == (180, 12, 3659)
    assert figures.lag == {"last_n": 5, "user_tower": 7, "retrieval": 4}
    assert figures.dead_letters == {"bad_answer": 2, "bad_id": 4}
    assert figures.canary_up is True
    assert figures.clicks_per_s is None  # no time has passed


def test_stages_are_told_apart() -> None:
    name = "nearline_click_stage_seconds"
    text = _histogram(name, {"0.01": 10, "+Inf": 10}, 'stage="append",')
    text += _histogram(name, {"0.01": 0, "0.1": 10, "+Inf": 10}, 'stage="vector",')
    figures = figures_between(_pages(user_tower=""), _pages(user_tower=text), 1.0)
    assert {stage: delay.count for stage, delay in figures.stages.items()} == {"append": 10, "vector": 10}
    assert figures.stages["append"].p99_s < 0.01 < figures.stages["vector"].p50_s


def test_a_window_compares_with_a_minute_ago_and_keeps_no_more() -> None:
    window = LiveWindow(60.0)
    for second in range(200):
        figures = window.add(float(second), _pages(user_tower=f"nearline_sequences_total {second * second}\n"))
    assert figures.seconds == 60.0
    assert figures.clicks_per_s == pytest.approx((199**2 - 139**2) / 60)
    assert len(window._kept) == 61


@pytest.mark.parametrize("seed", range(5))
def test_fine_buckets_tell_percentiles_closely_enough(seed: int) -> None:
    """p50 within 10 % and p99 within 25 % is what has to be told; the buckets leave room for the rest of the error."""
    took = np.random.default_rng(seed).lognormal(math.log(0.008 * 2**seed), 0.4, 2_000)
    buckets = {bound: float((took <= bound).sum()) for bound in (*FINE_BUCKETS_S, math.inf)}
    p50, p99 = np.percentile(took, [50, 99])
    assert quantile(buckets, 0.5) == pytest.approx(p50, rel=0.05)
    assert quantile(buckets, 0.99) == pytest.approx(p99, rel=0.12)


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert quantile({1.0: 0.0, math.inf: 5.0}, 0.5) == 1.0
    assert quantile({}, 0.5) is None
    assert quantile({1.0: 0.0, math.inf: 0.0}, 0.5) is None


def test_parts_elsewhere_are_found_where_they_are_said_to_be() -> None:
    here = {"user_tower": "http://127.0.0.1:9101", "canary": "http://127.0.0.1:9104"}
    told = metrics_urls("user_tower=http://tower:9101/, ", here.items())
    assert told == {"user_tower": "http://tower:9101", "canary": "http://127.0.0.1:9104"}
    for wrong in ("tower=http://tower:9101", "user_tower=tower:9101", "user_tower"):
        with pytest.raises(ValueError, match="expected part=http"):
            metrics_urls(wrong, here.items())
