"""The job in a real mini-cluster, against a real broker. The tests share one running job and follow one another."""

import itertools
import os
import random
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import orjson
import pytest

from flink_jobs.last_n.history import append, holds
from flink_jobs.last_n.metrics import Count, flink_name
from nearline.adapters.kafka.admin import Topics
from nearline.dead_letters import decode_dead_letter
from nearline.events import Event, encode_event
from nearline.hashing import hash64
from nearline.popularity import decode_popularity
from nearline.profiles import Profile, encode_profile
from nearline.seen import decode_seen
from nearline.sequences import UserSequence, decode_sequence
from nearline.signals import Context
from nearline.topics import Topic
from nearline.user_commands import OUTSIDE_TRANSACTION, Command, Erase, Merge, Remove, encode_command
from tests.support.other_producers import CODECS, send_elsewhere, send_in_transaction, send_packed, transaction

from .conftest import Job, Log, children, new_job, wait_for

KEEP = 50
DEADLINE_S = 60.0
Columns = tuple[list[str], list[int], list[str], list[float], list[str], list[Context | None]]


def now_ms() -> int:
    return int(time.time() * 1000)


def event(user: str, number: int, *, time_ms: int, **more: object) -> Event:
    given = {"item_id": f"item-{number % 97}", "type": "click"} | more
    return Event(event_id=f"{user}-{number:05d}", user_id=user, time_ms=time_ms, **given)  # type: ignore[arg-type]


def send(log: Log, *events: Event) -> None:
    for each in events:
        log.send(each.user_id.encode(), encode_event(each))


def obey(log: Log, command: Command) -> None:
    log.send(command.user_id.encode(), encode_command(command))


def columns(sequence: UserSequence) -> Columns:
    return sequence.items, sequence.times_ms, sequence.types, sequence.values, sequence.event_ids, sequence.contexts


def reference(events: list[Event]) -> dict[str, Columns]:
    """What plain Python makes of the events, each user's in their order and each once."""
    histories: dict[str, UserSequence] = {}
    for each in sorted(events, key=lambda e: (e.time_ms, e.event_id)):
        before = histories.get(each.user_id)
        known = holds(before, each.event_id)
        histories[each.user_id] = append(before, each, keep=KEEP, append_ms=0, known=known)
    return {user: columns(history) for user, history in histories.items()}


def latest(log: Log) -> dict[str, Columns]:
    """The last sequence of each user, as a compacted table shows it."""
    return {r.id: columns(decode_sequence(r.value or b"")) for r in log.read("user-sequences")}


def wait_for_sequences(log: Log, expected: dict[str, Columns]) -> None:
    def arrived() -> bool:
        there = latest(log)
        return all(there.get(user) == wanted for user, wanted in expected.items())

    wait_for(arrived, DEADLINE_S, f"the sequences of {len(expected)} users")


def shuffled_with_repeats(events: list[Event], seed: int) -> list[Event]:
    """Every event at least once, a third of them twice, in no order."""
    choice = random.Random(seed)
    records = events + choice.sample(events, len(events) // 3)
    choice.shuffle(records)
    return records


BAD: list[tuple[str, bytes | None, str]] = [
    ("null", None, "empty"),
    ("empty", b"", "empty"),
    ("not UTF-8", b'{"v":1,"user_id":"\xff\xfe"}', "not_utf8"),
    ("not JSON", b'{"v":1,"user_id":', "not_json"),
    ("nested too deep", b'{"user_id":"b","context":' + b"[" * 5000 + b"]" * 5000 + b"}", "too_deep"),
    ("a list", b'["u","i"]', "not_an_object"),
    ("NaN", b'{"v":1,"user_id":"b","value":NaN}', "not_json"),
    ("a lone surrogate", b'{"v":1,"user_id":"\\ud800"}', "not_json"),
    ("over 64 KiB", b'{"user_id":"b","context":{"x":"' + b"x" * 70_000 + b'"}}', "too_large"),
    ("a megabyte", b"x" * (1024 * 1024 - 200), "too_large"),
    ("a missing field", b'{"v":1,"user_id":"b"}', "missing_field"),
    ("no user", b'{"v":1,"event_id":"e","item_id":"i","type":"click","time_ms":1732100000000}', "missing_field"),
]
CHANGED: list[tuple[str, dict[str, object], str]] = [
    ("an integer past 64 bits", {"time_ms": "BIG"}, "wrong_type"),
    ("an integer past all floats", {"time_ms": "HUGE"}, "not_json"),
    ("a typo", {"itemid": "i"}, "unknown_field"),
    ("a number as user", {"user_id": 7}, "wrong_type"),
    ("a long id", {"user_id": "u" * 129}, "bad_id"),
    ("a control character", {"item_id": "a\u0000b"}, "bad_id"),
    ("seconds", {"time_ms": 1732100000}, "impossible_time"),
    ("an unknown type", {"type": "hover"}, "unknown_type"),
    ("another version", {"v": 2}, "unknown_version"),
]


def bad_records() -> list[tuple[str, bytes | None, str]]:
    """All bad input with the reason it must be given; each looks as much like an event as it can."""
    good = orjson.loads(encode_event(event("b", 0, time_ms=now_ms())))
    made = []
    for name, change, reason in CHANGED:
        raw = orjson.dumps(good | change)
        raw = raw.replace(b'"BIG"', b"9" * 30).replace(b'"HUGE"', b"9" * 400)
        made.append((name, raw, reason))
    return BAD + made


def test_bad_input_becomes_a_dead_letter_with_its_bytes_and_a_reason_while_its_neighbours_pass(
    job: Job, log: Log
) -> None:
    bad, good = bad_records(), [event("n-0", i, time_ms=now_ms() + i) for i in range(30)]
    for (_, raw, _), neighbour in zip(bad, good, strict=False):
        log.send(b"n-0", raw)
        send(log, neighbour)
    send(log, *good[len(bad) :])
    log.flush()
    wait_for_sequences(log, reference(good))
    wait_for(lambda: len(log.read("clicks-dlq")) >= len(bad), DEADLINE_S, "the dead letters")
    came_back = (decode_dead_letter(r.value or b"") for r in log.read("clicks-dlq"))
    letters = {(letter.partition, letter.offset): letter for letter in came_back}
    sent = [r for r in log.read("clicks") if (r.partition, r.offset) in letters]
    came = [(letters[r.partition, r.offset], r) for r in sorted(sent, key=lambda r: r.offset)]
    assert [(name, letter.reason) for (name, _, _), (letter, _) in zip(bad, came, strict=True)] == [
        (name, reason) for name, _, reason in bad
    ]
    for letter, record in came:
        assert (letter.value, letter.key, letter.append_ms) == (record.value, record.key, record.append_ms)
        assert letter.detail
    assert job.flink_metric("flink_jobmanager_job_numRestarts") == 0


def test_any_order_and_repetition_ends_in_the_sequence_of_a_clean_run(job: Job, log: Log) -> None:
    start = now_ms() - 3_600_000
    events = [event(f"o-{i % 20}", i, time_ms=start + i * 7 % 1000) for i in range(1500)]
    # The same event told twice differently: the later of the two must count, whichever comes first.
    twins = [replace(e, time_ms=e.time_ms + 5000, item_id="other") for e in events[::50]]
    # Some tell of the user, and of the page, which no tower reads.
    events[::7] = [replace(e, context={"device": "phone", "page": "/"}) for e in events[::7]]
    send(log, *shuffled_with_repeats(events + twins, seed=1))
    log.flush()
    told_last = {e.event_id: e for e in events + twins}
    expected = reference(list(told_last.values()))
    assert any({"device": "phone"} in contexts for *_, contexts in expected.values())
    wait_for_sequences(log, expected)


def test_a_replayed_partition_changes_nothing(job: Job, log: Log) -> None:
    before = len(log.read("user-sequences"))
    settled = latest(log)
    replayed = [r for r in log.read("clicks") if r.partition == 3 and r.key != b"n-0"]
    for record in replayed:
        log.send(record.key, record.value, partition=3)
    marker = event("marker", 0, time_ms=now_ms())
    log.send(b"marker", encode_event(marker), partition=3)
    log.flush()
    wait_for_sequences(log, reference([marker]))
    assert len(replayed) > 100
    assert len(log.read("user-sequences")) == before + 1
    assert {user: c for user, c in latest(log).items() if user != "marker"} == settled


def test_sequences_are_keyed_by_the_users_bytes_and_their_versions_only_grow(job: Job, log: Log) -> None:
    user = "zoë ☕"
    send(log, *[event(user, i, time_ms=now_ms() - i) for i in range(5)])
    log.flush()
    wait_for(lambda: user in latest(log), DEADLINE_S, "the sequence")
    versions: dict[str, int] = {}
    for record in log.read("user-sequences"):
        sequence = decode_sequence(record.value or b"")
        assert record.key == sequence.user_id.encode()
        assert sequence.version > versions.get(sequence.user_id, 0)
        versions[sequence.user_id] = sequence.version


def test_popularity_follows_the_accepted_events_and_comes_in_five_second_steps(job: Job, log: Log) -> None:
    at = now_ms() - 1000
    kinds = ["view", "purchase", "dislike"]
    events = [event("p-0", i, time_ms=at, item_id=f"pop-{i % 3}", type=kinds[i % 3]) for i in range(30)]
    ghosts = [event("p-1", i, time_ms=at, item_id="pop-0", synthetic=True) for i in range(5)]
    send(log, *events, *events, *ghosts)
    log.flush()

    def scores() -> dict[str, float]:
        return {p.item_id: p.score for p in (decode_popularity(r.value or b"") for r in log.read("item-popularity"))}

    def are_settled() -> bool:
        found = scores()
        return found.keys() >= {"pop-0", "pop-1"} and abs(found["pop-1"] / found["pop-0"] - 5.0) < 0.01

    wait_for(are_settled, DEADLINE_S, "the scores")
    assert scores()["pop-1"] / scores()["pop-0"] == pytest.approx(5.0)
    assert "pop-2" not in scores()
    written: dict[str, list[int]] = {}
    for record in log.read("item-popularity"):
        written.setdefault(record.id, []).append(record.append_ms)
    gaps = [b - a for times in written.values() for a, b in itertools.pairwise(times)]
    # Windows end on whole multiples of five seconds; a busy machine may close one late and the next on time.
    assert all(gap > 2500 for gap in gaps), gaps


def newest(log: Log, user: str) -> UserSequence | None:
    found = [decode_sequence(r.value or b"") for r in log.read("user-sequences") if r.id == user]
    return found[-1] if found else None


def wait_for_items(log: Log, user: str, items: list[str]) -> None:
    def there() -> bool:
        sequence = newest(log, user)
        return sequence is not None and list(sequence.items) == items

    wait_for(there, DEADLINE_S, f"{items} of {user}; there is {newest(log, user)}")


def seen_items(log: Log, user: str) -> set[int]:
    """What the newest snapshot and the newest sequence hold together."""
    snapshots = [decode_seen(r.value or b"") for r in log.read("user-seen") if r.id == user]
    sequence = newest(log, user)
    window = sequence.items if sequence else []
    return {int(each) for each in (snapshots[-1].hashes if snapshots else [])} | {hash64(item) for item in window}


def test_commands_are_obeyed_in_the_order_of_the_log_and_are_no_dead_letters(job: Job, log: Log) -> None:
    letters, at = len(log.read("clicks-dlq")), now_ms() - 60_000
    session = [event("s-1", i, time_ms=at + i, item_id=f"s{i}") for i in range(3)]
    send(log, *session, event("c-1", 7, time_ms=at, item_id="before"))
    obey(log, Remove("c-remove", "s-1", session[1].event_id, at))
    obey(log, Merge("c-merge", "s-1", "c-1", at))
    late = event("s-1", 9, time_ms=at + 9, item_id="late")
    send(log, late, session[0], session[1])
    log.flush()
    wait_for_items(log, "c-1", ["before", "s0", "s2", "late"])
    wait_for(lambda: getattr(newest(log, "s-1"), "erased", False), DEADLINE_S, "the session's end")
    forwarded = [record for record in log.read("clicks") if b"merged_from" in (record.value or b"")]
    assert forwarded
    assert {record.headers for record in forwarded} == {(OUTSIDE_TRANSACTION,)}
    obey(log, Erase("c-erase", "c-1", now_ms()))
    send(log, *session, late)
    log.flush()
    send(log, event("c-1", 8, time_ms=now_ms() + 1, item_id="after"))
    log.flush()
    wait_for_items(log, "c-1", ["after"])
    erased = [s for r in log.read("user-sequences") if r.id == "c-1" and (s := decode_sequence(r.value or b"")).erased]
    assert len(erased) == 1
    assert len(log.read("clicks-dlq")) == letters
    assert job.flink_metric("flink_jobmanager_job_numRestarts") == 0


def erasure(user: str) -> tuple[bytes, bytes]:
    return user.encode(), encode_command(Erase(f"erase-{user}", user, now_ms()))


def test_a_command_of_an_aborted_transaction_never_counts_and_clicks_go_on_meanwhile(
    job: Job, log: Log, broker: str
) -> None:
    at, users = now_ms() - 60_000, ["tx-aborted", "tx-committed", "tx-outside"]
    send(log, *[event(user, 1, time_ms=at, item_id="before") for user in users])
    log.flush()
    for user in users:
        wait_for_items(log, user, ["before"])
    with transaction(broker) as aborted, transaction(broker) as committed:
        for producer, user in ((aborted, "tx-aborted"), (committed, "tx-committed")):
            key, value = erasure(user)
            producer.produce("clicks", value, key)
            producer.flush()
        log.send(*erasure("tx-outside"), headers=[OUTSIDE_TRANSACTION])
        send(log, event("tx-aborted", 2, time_ms=at + 1, item_id="meanwhile"))
        log.flush()
        wait_for_items(log, "tx-aborted", ["before", "meanwhile"])
        wait_for(lambda: is_erased(log, "tx-outside"), DEADLINE_S, "the erasure that says it is in no transaction")
        assert not is_erased(log, "tx-committed")
        committed.commit_transaction()
        aborted.abort_transaction()
    wait_for(lambda: is_erased(log, "tx-committed"), DEADLINE_S, "the erasure of the committed transaction")
    name = "flink_taskmanager_job_task_operator_nearline_aborted"
    wait_for(lambda: job.flink_metric(name) == 1, DEADLINE_S, "the count of the aborted one")
    wait_for_items(log, "tx-aborted", ["before", "meanwhile"])
    send_in_transaction(broker, "clicks", [erasure("tx-aborted")], commit=True)
    wait_for(lambda: is_erased(log, "tx-aborted"), DEADLINE_S, "an erasure that is committed")


def is_erased(log: Log, user: str) -> bool:
    return getattr(newest(log, user), "erased", False)


def test_events_of_wrong_clocks_are_counted_and_one_that_is_ahead_has_its_append_time(job: Job, log: Log) -> None:
    ahead, too_old = (job.flink_metric(flink_name(count)) for count in (Count.AHEAD, Count.TOO_OLD))
    at = now_ms() - 60_000
    send(log, event("y-1", 1, time_ms=at + 240_000, item_id="ahead"))
    send(log, *[event("y-2", i, time_ms=at + i) for i in range(KEEP)])
    log.flush()
    send(log, event("y-1", 2, time_ms=now_ms() + 1, item_id="true"), event("y-2", 99, time_ms=at - 604_800_000))
    log.flush()
    wait_for_items(log, "y-1", ["ahead", "true"])
    (record,) = [r for r in log.read("clicks") if b'"y-1-00001"' in (r.value or b"")]
    assert getattr(newest(log, "y-1"), "times_ms", [0])[0] == record.append_ms
    wait_for(lambda: job.flink_metric(flink_name(Count.TOO_OLD)) == too_old + 1, DEADLINE_S, "the one that is too old")
    assert job.flink_metric(flink_name(Count.AHEAD)) == ahead + 1


def test_a_profile_joins_the_sequence_and_a_bad_one_becomes_a_dead_letter(job: Job, log: Log) -> None:
    log.send(b"t-1", encode_profile(Profile(country="GB", interests=("tea",))), topic="users")
    log.send(b"t-2", b'{"v":1,"contry":"GB"}', topic="users")
    log.flush()
    wait_for(lambda: newest(log, "t-1") is not None, DEADLINE_S, "the profile's sequence")
    told = newest(log, "t-1")
    assert told is not None
    assert (told.items, told.profile) == ([], {"country": "GB", "interests": ["tea"]})
    send(log, event("t-1", 1, time_ms=now_ms(), item_id="tea"))
    log.flush()
    wait_for_items(log, "t-1", ["tea"])
    log.send(b"t-1", None, topic="users")
    log.flush()
    wait_for(
        lambda: newest(log, "t-1") != told and not getattr(newest(log, "t-1"), "profile", 1), DEADLINE_S, "its end"
    )
    refused = [decode_dead_letter(r.value or b"") for r in log.read("clicks-dlq") if r.key == b"t-2"]
    assert [(letter.topic, letter.reason) for letter in refused] == [("users", "unknown_field")]


def has_profile(log: Log, user: str) -> bool:
    sequence = newest(log, user)
    return sequence is not None and bool(sequence.profile)


def set_codec(broker: str, topic: str, codec: str) -> None:
    """Give *topic* this ``compression.type``, as an operator or ``nearline init`` does."""
    topics = Topics(broker)
    topics.ensure([Topic(topic, 8, {"compression.type": codec})])
    topics.close()


@pytest.mark.parametrize("kept_as", ["producer", "lz4"])
def test_it_reads_what_other_producers_packed_with_any_codec(job: Job, log: Log, broker: str, kept_as: str) -> None:
    """``producer`` is what topics had before ``nearline init`` set lz4: those records are there for 30 days more."""
    at, items = now_ms() - 60_000, [f"item-{n % 97}" for n in range(20)]
    for topic in ("clicks", "users"):
        set_codec(broker, topic, kept_as)
    profile = encode_profile(Profile(country="GB", interests=("tea", "cake")))
    for codec in CODECS:
        user = f"{kept_as}-{codec}"
        events = [event(user, n, time_ms=at + n) for n in range(20)]
        send_packed(broker, "clicks", codec, [(user.encode(), encode_event(each)) for each in events])
        send_packed(broker, "users", codec, [(user.encode(), profile)] * 5)
    for codec in CODECS:
        wait_for_items(log, f"{kept_as}-{codec}", items)
        wait_for(partial(has_profile, log, f"{kept_as}-{codec}"), DEADLINE_S, f"the profile sent in {codec}")
    assert job.flink_metric("flink_jobmanager_job_numRestarts") == 0


def test_users_whose_records_another_partitioner_wrote_are_as_all_others(job: Job, log: Log, broker: str) -> None:
    """librdkafka's default puts most keys elsewhere; the order of events and of profiles is in the data."""
    at, users = now_ms() - 60_000, [f"other-{n}" for n in range(12)]
    events = [event(user, n, time_ms=at + n) for user in users for n in range(8)]
    theirs, ours = shuffled_with_repeats(events[::2], 5), shuffled_with_repeats(events[1::2], 6)
    send_elsewhere(broker, "clicks", [(each.user_id.encode(), encode_event(each)) for each in theirs])
    send(log, *ours)
    log.flush()
    wait_for_sequences(log, reference(events))

    for country in ("GB", "FR"):
        send_elsewhere(broker, "users", [(user.encode(), encode_profile(Profile(country))) for user in users])
    wait_for_countries(log, dict.fromkeys(users, "FR"))
    for user in users[:6]:
        log.send(user.encode(), encode_profile(Profile("SE")), topic="users")
    log.flush()
    wait_for_countries(log, dict.fromkeys(users[:6], "SE") | dict.fromkeys(users[6:], "FR"))
    counted = job.flink_metric("flink_taskmanager_job_task_operator_topic_nearline_wrong_partition")
    assert counted > len(users)

    for user in users[:6]:
        obey(log, Erase(f"c-{user}", user, now_ms()))
    log.flush()
    wait_for(lambda: all(newest(log, user).erased for user in users[:6]), DEADLINE_S, "the erasures")  # type: ignore[union-attr]
    send_elsewhere(broker, "clicks", [(each.user_id.encode(), encode_event(each)) for each in theirs])
    again = [event(user, 99, time_ms=now_ms(), item_id="again") for user in users[:6]]
    send_elsewhere(broker, "clicks", [(each.user_id.encode(), encode_event(each)) for each in again])
    for user in users[:6]:
        wait_for_items(log, user, ["again"])


def wait_for_countries(log: Log, expected: dict[str, str]) -> None:
    def arrived() -> bool:
        sequences = {user: newest(log, user) for user in expected}
        return {user: each and each.profile.get("country") for user, each in sequences.items()} == expected

    wait_for(arrived, DEADLINE_S, "the newest profiles")


def test_every_seen_item_is_in_the_newest_snapshot_or_sequence(job: Job, log: Log) -> None:
    at = now_ms() - 600_000
    events = [event("v-1", i, time_ms=at + i, item_id=f"v{i}") for i in range(180)]
    send(log, *shuffled_with_repeats(events, seed=2))
    log.flush()
    wait_for_sequences(log, reference(events))
    everything = {hash64(e.item_id) for e in events}
    wait_for(lambda: seen_items(log, "v-1") == everything, DEADLINE_S, "the seen items")
    obey(log, Merge("c-v", "v-1", "w-1", now_ms()))
    log.flush()
    wait_for(lambda: seen_items(log, "v-1") == set(), DEADLINE_S, "their end")
    wait_for(lambda: seen_items(log, "w-1") == everything, DEADLINE_S, "the seen items of the user who logged in")
    obey(log, Erase("c-w", "w-1", now_ms()))
    log.flush()
    wait_for(lambda: seen_items(log, "w-1") == set(), DEADLINE_S, "their end")


@pytest.mark.parametrize("victim", ["the JVM", "the process that started it"])
def test_a_killed_job_loses_no_click(job: Job, log: Log, broker: str, victim: str) -> None:
    users = f"k{len(victim)}"
    start = now_ms() - 60_000
    events = [event(f"{users}-{i % 40}", i, time_ms=start + i * 10) for i in range(3000)]
    # In a transaction, whose end takes an offset that the job never commits.
    send_in_transaction(broker, "clicks", [(e.user_id.encode(), encode_event(e)) for e in events[:1000]], commit=True)
    job.wait_for_checkpoint()
    topics = Topics(broker)
    wait_for(lambda: topics.group_lag("last_n", "clicks") == 0, DEADLINE_S, "a checkpoint of all of them")
    topics.close()
    assert job.flink_metric("flink_taskmanager_job_task_operator_pendingRecords") == 0
    send(log, *events[1000:2000])
    log.flush()
    java = job.java_pid()
    assert job.process is not None
    os.kill(java if victim == "the JVM" else job.process.pid, signal.SIGKILL)
    assert job.process.wait(30) != 0
    wait_for(lambda: not Path(f"/proc/{java}").exists(), 20.0, "the JVM's end")
    send(log, *events[2000:])
    log.flush()
    starts = starts_of(job)
    job.start()
    wait_for_sequences(log, reference(events))
    assert job.metric("nearline_job_restored_checkpoint_info") == 1
    assert job.metric("nearline_job_starts_total") == starts + 1


def starts_of(job: Job) -> int:
    return int(orjson.loads((job.data / "flink" / "starts.json").read_bytes())["count"])


def test_it_ends_on_request_and_leaves_no_process(job: Job, log: Log) -> None:
    java = job.java_pid()
    assert children(java) == []
    assert job.stop() == 0
    assert not Path(f"/proc/{java}").exists()


def test_it_refuses_checkpoints_of_another_kafka_cluster(job: Job, log: Log) -> None:
    cluster = job.data / "flink" / "kafka-cluster"
    mine = cluster.read_text()
    cluster.write_text("another-cluster\n")
    try:
        assert job.spawn().wait(60) == 2
    finally:
        cluster.write_text(mine)
    assert "make reset" in job.output.splitlines()[-1]


def test_without_a_broker_it_says_so_and_ends_for_the_supervisor(tmp_path: Path) -> None:
    job = new_job("127.0.0.1:1", tmp_path / "data", NEARLINE_STARTUP_DEADLINE_S="0.1")
    assert job.spawn().wait(60) == 1
    assert "127.0.0.1:1" in job.output.splitlines()[-1]
