"""``nearline status``: what it makes of the numbers that the parts tell."""

from nearline.cli.status import index_words, quantile


def test_the_index_tells_its_recall_with_the_size_of_the_sample() -> None:
    told = {
        "nearline_index_items": 3_659.0,
        "nearline_index_recall_samples": 180.0,
        'nearline_index_recall{k="10"}': 0.9934,
        'nearline_index_recall{k="50"}': 0.9571,
    }
    words = "3,659 items, live recall@10 0.993 and @50 0.957 of the last 180 sampled queries"
    assert index_words(told) == words


def test_before_anything_was_sampled_no_recall_is_claimed() -> None:
    assert index_words({"nearline_index_items": 5.0}) == "5 items, recall not sampled yet"


def test_a_quantile_is_the_bound_of_its_bucket() -> None:
    told = {"a_seconds_count": 100.0, 'a_seconds_bucket{le="0.001"}': 60.0, 'a_seconds_bucket{le="+Inf"}': 100.0}
    assert quantile(told, "a_seconds", 0.5) == 0.001
    assert quantile({}, "a_seconds", 0.5) is None


def test_items_in_an_engine_are_told_as_that() -> None:
    told = {"nearline_engine_up": 0.0, "nearline_engine_writer_lag_records": 1_200.0, "nearline_window_items": 5_500.0}
    words = (
        "items in an engine that is away: answers are degraded, 1,200 item vectors behind, 5,500 items in the window"
    )
    assert index_words(told) == words
    assert index_words(told | {"nearline_engine_up": 1.0}).startswith("items in an engine that answers")
