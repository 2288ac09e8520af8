"""``nearline status``: the summary of the parts' metrics."""

from starlette.applications import Starlette

from nearline.adapters.http import status_routes
from nearline.cli.status import (
    index_words,
    ingest_words,
    job_words,
    of_topic,
    quantile,
    status_lines,
    wrong_partition_words,
)
from nearline.settings import load_settings
from tests.support.served import served


def test_the_index_tells_its_recall_with_the_size_of_the_sample() -> None:
    told = {
        "nearline_index_items": 3_659.0,
        "nearline_index_recall_samples": 180.0,
        'nearline_index_recall_ratio{k="10"}': 0.9934,
        'nearline_index_recall_ratio{k="50"}': 0.9571,
    }
    words = "3,659 items, live recall@10 0.993 and @50 0.957 of the last 180 sampled queries"
    assert index_words(told) == words


def test_before_anything_was_sampled_no_recall_is_claimed() -> None:
    assert index_words({"nearline_index_items": 5.0}) == "5 items, recall not sampled yet"


def test_a_quantile_is_the_bound_of_its_bucket() -> None:
    told = {"a_seconds_count": 100.0, 'a_seconds_bucket{le="0.001"}': 60.0, 'a_seconds_bucket{le="+Inf"}': 100.0}
    assert quantile(told, "a_seconds", 0.5) == 0.001
    assert quantile({}, "a_seconds", 0.5) is None


def test_a_quantile_of_one_topic_is_not_mixed_with_another() -> None:
    told = {
        'a_seconds_count{topic="clicks"}': 10.0,
        'a_seconds_bucket{topic="clicks",le="0.002"}': 10.0,
        'a_seconds_count{topic="items"}': 10.0,
        'a_seconds_bucket{topic="items",le="5.0"}': 10.0,
    }
    last = {'a_seconds_count{topic="clicks"}': 10.0, 'a_seconds_bucket{le="0.002",topic="clicks"}': 10.0}
    assert quantile(of_topic(last, "clicks"), "a_seconds", 0.99) == 0.002
    assert quantile(of_topic(told, "clicks"), "a_seconds", 0.99) == 0.002
    assert quantile(of_topic(told, "items"), "a_seconds", 0.99) == 5.0


def test_labels_may_come_in_any_order() -> None:
    """The library writes a bucket's bound before or after the others, as it likes."""
    told = {'a_seconds_count{topic="clicks"}': 10.0, 'a_seconds_bucket{le="0.002",topic="clicks"}': 10.0}
    assert quantile(of_topic(told, "clicks"), "a_seconds", 0.99) == 0.002


def test_the_door_tells_what_came_in_and_what_was_refused() -> None:
    told = {
        "nearline_ingest_events_accepted_total": 1_200.0,
        'nearline_ingest_events_refused_total{reason="bad_id"}': 2.0,
        'nearline_ingest_events_refused_total{reason="unknown_field"}': 1.0,
        'nearline_ingest_items_accepted_total{change="put"}': 7.0,
    }
    assert ingest_words(told) == "1,200 events, 3 refused; 7 changes of items"
    odd = ingest_words(told | {"nearline_ingest_unknown_items_total": 12.0})
    assert odd == "1,200 events, 3 refused, 12 on items that are not in the catalogue; 7 changes of items"
    assert ingest_words({}) == "0 events, none refused; 0 changes of items"


def test_records_in_the_wrong_partition_are_told_by_topic() -> None:
    job = "flink_taskmanager_job_task_operator_topic_nearline_wrong_partition"
    items = {'nearline_wrong_partition_records_total{topic="items"}': 1_200.0}
    flink = {f'{job}{{topic="{topic}",subtask_index="{n}"}}': 3.0 for topic in ("clicks", "users") for n in (0, 1)}
    found = wrong_partition_words([items, flink])
    assert found.startswith("records in another partition than their key's: 6 of clicks, 1,200 of items, 6 of users")
    assert wrong_partition_words([{name: 0.0 for name in items}, {}]) == ""


def test_items_in_an_engine_are_told_as_that() -> None:
    told = {
        "nearline_engine_up": 0.0,
        'nearline_lag_records{topic="item-vectors.1",partition="3"}': 1_200.0,
        "nearline_window_items": 5_500.0,
    }
    words = "items in an engine that is down: answers are degraded, 1,200 item vectors behind, 5,500 head items here"
    assert index_words(told) == words
    assert index_words(told | {"nearline_engine_up": 1.0}).startswith("items in an engine that answers")


def test_parts_on_other_hosts_are_asked_at_their_own_addresses() -> None:
    """In containers each part is another host: only ``NEARLINE_METRICS_OF`` knows where."""
    parts = ("ingest", "last_n", "launcher", "user_tower", "item_tower", "retrieval", "web", "canary")
    with served(Starlette(routes=status_routes(dict))) as url:
        addresses = ",".join(f"{part}={url}" for part in parts)
        settings = load_settings({"NEARLINE_METRICS_OF": addresses, "NEARLINE_KAFKA": "127.0.0.1:1"})
        states = {line.part: line.state for line in status_lines(settings)}
    assert states.pop("log") == "down"
    states.pop("partitions", None)  # this process has all its tests' metrics, and one counts wrong partitions
    assert set(states.values()) == {"ready"}
    assert len(states) == 7


def test_a_job_manager_that_counts_no_starts_is_not_said_to_have_had_none() -> None:
    restarted = {'flink_jobmanager_job_numRestarts{job_name="last_n"}': 2.0}
    assert job_words(restarted) == "2 restarts"
    assert job_words({"nearline_job_starts_total": 3.0, **restarted}) == "started 3 times, 2 restarts since"
