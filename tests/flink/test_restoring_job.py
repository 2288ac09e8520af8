"""The job goes on from what is left of it: its topics, a savepoint, another parallelism or length of history.

The tests follow one another, on the topics that test_last_n_job.py filled if it ran before.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from local.layout import environment_python
from nearline.cli.app import app
from nearline.events import Event, encode_event
from nearline.hashing import hash64
from nearline.seen import decode_seen
from nearline.sequences import UserSequence, decode_sequence
from nearline.user_commands import Erase, encode_command

from .conftest import Job, Log, new_job, wait_for

DEADLINE_S = 90.0
# The job with more slots than one machine gives it.
_PARALLEL = """
import sys
from flink_jobs.last_n import job
alone = job.cluster_configuration
job.cluster_configuration = lambda *given: alone(*given) | {"parallelism.default": sys.argv[1]}
job.main()
"""


def parallel(slots: int) -> list[str]:
    return [str(environment_python("flink")), "-c", _PARALLEL, str(slots)]


def now_ms() -> int:
    return int(time.time() * 1000)


def event(user: str, number: int, time_ms: int) -> Event:
    return Event(f"{user}-{number:04d}", user, f"{user}-item-{number}", "click", time_ms)


def newest(log: Log) -> dict[str, UserSequence]:
    """The last sequence of each user."""
    last = {r.id: r.value for r in log.read("user-sequences")}
    return {user: decode_sequence(value) for user, value in last.items() if value}


def seen(log: Log, user: str) -> set[int]:
    """The items of the user's newest snapshot and newest sequence."""
    snapshots = [decode_seen(r.value) for r in log.read("user-seen") if r.id == user and r.value]
    window = newest(log)[user].items if user in newest(log) else []
    return {int(each) for each in (snapshots[-1].hashes if snapshots else [])} | {hash64(item) for item in window}


def items(log: Log, user: str) -> list[str]:
    return newest(log)[user].items if user in newest(log) else []


def histories(log: Log, user: str) -> list[list[str]]:
    """All that was written of the user, for one who lives so shortly that the last record may be a null value."""
    return [decode_sequence(r.value).items for r in log.read("user-sequences") if r.id == user and r.value]


def is_deleted(log: Log, topic: str, user: str) -> bool:
    """Whether the user's last record in *topic* is a null value."""
    values = [r.value for r in log.read(topic) if r.id == user]
    return bool(values) and values[-1] is None


def names(user: str, numbers: range) -> list[str]:
    return [f"{user}-item-{number}" for number in numbers]


def forget_clicks(broker: str) -> None:
    """Delete what is in ``clicks``, as its retention does after 30 days."""
    from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=broker)
    parts = [TopicPartition("clicks", p) for p in consumer.partitions_for_topic("clicks") or ()]
    ends = consumer.end_offsets(parts)
    consumer.close()
    admin = KafkaAdminClient(bootstrap_servers=broker)
    admin.delete_records(ends)
    admin.close()


@pytest.fixture(scope="module")
def first(broker: str, log: Log, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A job that runs until its checkpoints are lost."""
    job = new_job(broker, tmp_path_factory.mktemp("lost") / "data")
    try:
        yield job
    finally:
        job.kill_if_running()


@pytest.fixture(scope="module")
def second(broker: str, log: Log, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """The job after it, in a data folder without checkpoints."""
    job = new_job(broker, tmp_path_factory.mktemp("restored") / "data")
    try:
        yield job
    finally:
        job.kill_if_running()


def test_a_job_that_lost_its_checkpoints_has_the_histories_that_its_topics_hold(
    first: Job, second: Job, log: Log, broker: str
) -> None:
    """Users of whom ``clicks`` holds nothing, a part, and what the lost job had not read; one erased, one new."""
    at = now_ms() - 600_000
    first.start()
    for user in ("r-quiet", "r-half", "r-erased"):
        for number in range(120):
            log.send(user.encode(), encode_event(event(user, number, at + number)))
    log.send(b"r-erased", encode_command(Erase("x-r", "r-erased", now_ms())))
    log.flush()
    wait_for(lambda: len(items(log, "r-half")) == len(items(log, "r-quiet")) == 50, DEADLINE_S, "the sequences")
    wait_for(lambda: "r-erased" in newest(log) and newest(log)["r-erased"].erased, DEADLINE_S, "the erasure")
    forget_clicks(broker)
    for number in range(120, 130):
        log.send(b"r-half", encode_event(event("r-half", number, at + number)))
    log.flush()
    wait_for(lambda: items(log, "r-half") == names("r-half", range(80, 130)), DEADLINE_S, "the newest events")
    first.kill_if_running()
    before, written = newest(log), len(log.read("user-sequences"))
    for number in range(130, 135):  # while no job runs
        log.send(b"r-half", encode_event(event("r-half", number, at + number)))
    log.send(b"r-new", encode_event(event("r-new", 0, at)))
    log.flush()

    second.command = parallel(2)
    second.start()
    wait_for(lambda: items(log, "r-half") == names("r-half", range(85, 135)), DEADLINE_S, "what no job had read")
    wait_for(lambda: items(log, "r-new") == names("r-new", range(1)), DEADLINE_S, "the new user")
    log.send(b"r-quiet", encode_event(event("r-quiet", 200, now_ms())))
    log.send(b"r-erased", encode_event(event("r-erased", 201, at)))
    log.flush()
    expected = [*names("r-quiet", range(71, 120)), "r-quiet-item-200"]
    wait_for(lambda: items(log, "r-quiet") == expected, DEADLINE_S, "the quiet user's click")
    assert seen(log, "r-quiet") == {hash64(name) for name in [*names("r-quiet", range(120)), "r-quiet-item-200"]}
    assert seen(log, "r-half") == {hash64(name) for name in names("r-half", range(135))}
    later = [r.id for r in log.read("user-sequences")[written:]]
    assert set(later) == {"r-half", "r-new", "r-quiet"}, "nothing is published of whom nothing is new"
    assert all(newest(log)[user].version >= sequence.version for user, sequence in before.items())
    assert second.metric("nearline_job_read_back_records") > 0
    assert "reading users back" in second.output
    assert second.flink_metric("flink_jobmanager_job_numRestarts") == 0


def nearline(job: Job, *words: str) -> str:
    """The output of the command line for the system of *job*."""
    settings = {"NEARLINE_DATA": str(job.data), "NEARLINE_FLINK_REST_PORT": str(job.rest_port)}
    done = CliRunner().invoke(app, words, env=settings, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_savepoint_goes_on_with_more_slots_and_a_shorter_history(second: Job, log: Log) -> None:
    """By the command line, in place of PyFlink's own ``stop_with_savepoint``."""
    assert second.process is not None
    savepoint = Path(nearline(second, "job", "savepoint", "--stop").strip())
    second.process.wait(60)
    assert (savepoint / "_metadata").exists()
    assert "next start goes on from" in nearline(second, "job", "restore", str(savepoint))
    second.command = parallel(3)
    second.extra = {"NEARLINE_HISTORY_LENGTH": "40"}
    second.start()
    assert f'path="{savepoint}"' in second.page()
    log.send(b"r-quiet", encode_event(event("r-quiet", 300, now_ms())))
    log.flush()
    expected = [*names("r-quiet", range(82, 120)), "r-quiet-item-200", "r-quiet-item-300"]
    wait_for(lambda: items(log, "r-quiet") == expected, DEADLINE_S, "the shorter history")
    second.wait_for_checkpoint()
    assert (savepoint / "_metadata").exists(), "a savepoint is the operator's, and stays"


def test_it_goes_on_with_one_slot(second: Job, log: Log) -> None:
    assert second.stop() == 0
    second.command = []
    second.extra = {}
    second.start()
    log.send(b"r-half", encode_event(event("r-half", 400, now_ms())))
    log.flush()
    wait_for(lambda: "r-half-item-400" in items(log, "r-half"), DEADLINE_S, "the click")
    assert len(items(log, "r-half")) == 50, "the other slots' users are there"
    second.wait_for_checkpoint()


def test_it_forgets_users_who_are_idle_for_longer_than_the_time_to_live(second: Job, log: Log) -> None:
    assert second.stop() == 0
    second.extra = {"NEARLINE_HISTORY_TTL_DAYS": str(4.0 / 86_400)}
    second.start()
    users = [f"r-idle-{number}" for number in range(100)]
    for user in users:
        log.send(user.encode(), encode_event(event(user, 0, now_ms())))
    log.flush()
    waiting = iter(users)

    def is_forgotten() -> bool:
        """Whether the second click of yet another user finds no first one."""
        user = next(waiting)
        log.send(user.encode(), encode_event(event(user, 1, now_ms())))
        log.flush()
        wait_for(lambda: any(f"{user}-item-1" in one for one in histories(log, user)), DEADLINE_S, "the second click")
        return names(user, range(1, 2)) in histories(log, user)

    wait_for(is_forgotten, DEADLINE_S, "the first user who is forgotten")
    *_, idle = users
    for topic in ("user-sequences", "user-seen"):
        wait_for(lambda topic=topic: is_deleted(log, topic, idle), DEADLINE_S, f"a null value in {topic}")  # type: ignore[misc]
    assert second.flink_metric("flink_taskmanager_job_task_operator_nearline_expired") > 0
    log.send(idle.encode(), encode_event(event(idle, 2, now_ms())))
    log.flush()
    wait_for(lambda: names(idle, range(2, 3)) in histories(log, idle), DEADLINE_S, "the user who comes back")
