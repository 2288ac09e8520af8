"""What is left of an erased user, judged by records and by the settings of their topics."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest

from nearline.dead_letters import encode_dead_letter, letter_about
from nearline.erasure import Remains, Retention, Traces, elsewhere, events_of, remains, retention_of
from nearline.events import Event, encode_event
from nearline.log import Record
from nearline.profiles import Profile, encode_profile
from nearline.seen import FOREVER_S, SeenSnapshot, encode_seen, no_seen
from nearline.sequences import UserSequence, encode_sequence, erased_sequence
from nearline.topics import CLICKS, CLICKS_DLQ, EXPOSURES, USER_SEEN, USER_SEQUENCES, USER_SEQUENCES_DLQ, USERS
from nearline.user_commands import Command, Erase, Merge, Remove, encode_command
from nearline.user_documents import UserDocument

T = 1_800_000_000_000  # when the user is erased
DAY = 24 * 3600 * 1000
MONTH = Retention(31 * DAY, None, DAY)
KEPT = Retention(None, 2 * DAY, 7 * DAY)
LIMITS = {
    CLICKS: MONTH,
    CLICKS_DLQ: MONTH,
    EXPOSURES: MONTH,
    USER_SEQUENCES_DLQ: MONTH,
    "user-updates.1": Retention(DAY // 24, None, DAY),
    USERS: Retention(None, 2 * DAY, 7 * DAY),
    USER_SEQUENCES: KEPT,
    USER_SEEN: KEPT,
}
_offsets = count()


def record(topic: str, at_ms: int, value: bytes | None, key: str = "u", partition: int = 0) -> Record:
    return Record(topic, partition, next(_offsets), at_ms, key.encode(), value)


def click(at_ms: int, key: str = "u", event_id: str = "e") -> Record:
    return record(CLICKS, at_ms, encode_event(Event(event_id, key, "i", "click", at_ms)), key)


def command(told: Command, at_ms: int) -> Record:
    return record(CLICKS, at_ms, encode_command(told), told.user_id)


ERASE = command(Erase("c", "u", T), T)


def sequence(version: int, key: str = "u") -> Record:
    body = encode_sequence(UserSequence(key, version, ["i"], [version], ["click"], [1.0], ["e"]))
    return record(USER_SEQUENCES, version, body, key)


def marked(version: int = T + 5) -> Record:
    return record(USER_SEQUENCES, version, encode_sequence(erased_sequence("u", version)))


def document(version: int, *, erased: bool = False) -> UserDocument:
    none = np.zeros(0, np.uint64)
    vector = None if erased else np.ones(4, np.float32)
    seen = none if erased else np.array([3, 5], np.uint64)
    return UserDocument(vector, version, version, "e", version, version + 1, seen, none, none, version, erased=erased)


def traces_of(*records: Record, user_id: str = "u") -> Traces:
    traces = Traces(user_id)
    for each in records:
        traces.take(each)
    return traces


def left(*records: Record, stored: UserDocument | None = None) -> dict[str, Remains]:
    rows = remains(traces_of(*records), LIMITS, stored, space=1, document_ttl_ms=400 * DAY)
    return {row.where: row for row in rows}


def test_records_of_other_users_are_not_reported() -> None:
    assert left(click(T, "other"), sequence(T, "other")) == {}


def test_before_the_erasure_everything_is_in_use() -> None:
    told = record(USERS, T, encode_profile(Profile("GB")))
    found = left(click(T - 2), sequence(T - 1), told, stored=document(T - 1))
    in_use = {where for where, row in found.items() if row.is_known}
    assert in_use == {"profile (users)", "history (user-sequences)", "document of space 1 (store)"}
    assert {found[where].note for where in in_use} == {"until erased"}


def test_after_the_erasure_marks_are_left_and_what_the_log_has_not_deleted_yet() -> None:
    told, gone = record(USERS, T - 9, encode_profile(Profile("GB"))), record(USERS, T - 1, None)
    snapshot = SeenSnapshot(T - 3, *(np.array([x], kind) for x, kind in ((3, "u8"), (FOREVER_S, "u4"), (0, "?"))))
    seen = record(USER_SEEN, T - 3, encode_seen(snapshot))
    unseen = record(USER_SEEN, T + 5, encode_seen(no_seen(T + 5)))
    clicks = [click(T - 4), click(T - 3), ERASE]
    found = left(*clicks, sequence(T - 3), marked(), told, gone, seen, unseen, stored=document(T + 5, erased=True))
    assert not any(row.is_known or row.is_new for row in found.values())
    assert (found[CLICKS].found, found[CLICKS].until_ms) == ("2 records", T - 3 + 31 * DAY)
    for place in ("history (user-sequences)", "seen items (user-seen)"):
        assert found[place].until_ms == T + 5 + (400 + 2 + 2 + 7) * DAY, "idle, deleted by the job, compacted"
    assert found["profile (users)"].until_ms == T - 1 + (2 + 7) * DAY
    assert found["document of space 1 (store)"].until_ms == T + 6 + 400 * DAY
    for topic, replaced_ms in ((USERS, T - 1), (USER_SEQUENCES, T + 5), (USER_SEEN, T + 5)):
        older = found[f"{topic}, before compaction"]
        assert (older.found, older.until_ms) == ("1 older values", replaced_ms + 2 * DAY)


@pytest.mark.parametrize("gone_first", [False, True])
def test_an_erased_profile_in_another_partition_is_not_in_use_but_stays_until_it_is_erased_there(
    gone_first: bool,
) -> None:
    """Another client wrote it: compaction works within a partition, so a delete elsewhere does not replace it."""
    told = record(USERS, T - 9, encode_profile(Profile("GB")), partition=5)
    gone = record(USERS, T - 1, None, partition=2)
    found = left(*((gone, told) if gone_first else (told, gone)), ERASE)
    assert not found["profile (users)"].is_known
    row = found["users, before compaction"]
    assert (row.found, row.until_ms) == ("1 older values", None)
    assert "partition 5" in row.note
    there = left(told, gone, record(USERS, T - 1, None, partition=5), ERASE)["users, before compaction"]
    assert there.until_ms is not None


def test_the_newest_erasure_counts_whichever_partition_is_read_last() -> None:
    merge = command(Merge("m", "u", "somebody", T - 5), T - 5)
    for records in ((merge, ERASE), (ERASE, merge)):
        traces = traces_of(*records)
        assert (traces.erased_ms, traces.became) == (T, None)


@pytest.mark.parametrize("late", [sequence(T - 1), record(USERS, T - 1, encode_profile(Profile("GB")))])
def test_data_that_the_erasure_has_not_reached_is_reported_as_in_use(late: Record) -> None:
    found = left(ERASE, late)
    (row,) = (row for row in found.values() if row.is_known)
    assert "not erased yet" in row.note


def test_a_document_older_than_the_erasure_is_reported_as_in_use() -> None:
    assert left(ERASE, marked(), stored=document(T - 1))["document of space 1 (store)"].is_known


def test_a_user_who_comes_back_is_new_and_not_in_the_way_of_the_erasure() -> None:
    found = left(click(T - 4), ERASE, click(T + 9), marked(), sequence(T + 9), stored=document(T + 9))
    assert {where for where, row in found.items() if row.is_new} == {
        "history (user-sequences)",
        "document of space 1 (store)",
    }
    assert not any(row.is_known for row in found.values())
    assert found[CLICKS].found == "1 records"  # what came afterwards is no remains


def test_the_last_erasure_counts() -> None:
    traces = traces_of(ERASE, click(T + 5), command(Erase("c", "u", T + 9), T + 9))
    assert traces.erased_ms == T + 9
    assert len(traces.before_erasure(CLICKS)) == 1


def test_a_removed_event_is_no_erasure_and_what_names_it_is_left() -> None:
    traces = traces_of(click(T - 4), command(Remove("c", "u", "e", T), T))
    assert traces.erased_ms is None
    assert len(traces.held[CLICKS]) == 2
    assert [event.event_id for event in events_of(traces)] == ["e"]


def test_a_merged_session_is_found_and_counts_as_erased() -> None:
    records = (click(T - 4, "s"), command(Merge("c", "s", "u", T), T), click(T + 1, "u"))
    user, session = traces_of(*records), traces_of(*records, user_id="s")
    assert (user.sessions, user.erased_ms, len(user.held[CLICKS])) == ({"s"}, None, 1)
    assert (session.became, session.erased_ms) == ("u", T)
    assert [each.append_ms for each in session.before_erasure(CLICKS)] == [T - 4]


def test_an_id_that_json_escapes_is_found_all_the_same() -> None:
    merge = b'{"v":1,"command":"merge","command_id":"c","user_id":"s","into":"zo\\u00eb","time_ms":1800000000000}'
    assert traces_of(record(CLICKS, T, merge, "s"), user_id="zoë").sessions == {"s"}


def test_a_dead_letter_is_the_users_by_its_key_or_by_what_it_holds() -> None:
    values = {"u": b"{", "x": b'{"user_id":"u","itm":1}', "u2": b'{"user_id":"u2"}'}
    refused = [record(CLICKS, T - 5, value, key) for key, value in values.items()]
    about = [encode_dead_letter(letter_about(each, "bad", "")) for each in refused]
    letters = [record(CLICKS_DLQ, T - 4, letter, "") for letter in about]
    assert left(ERASE, *letters, record(CLICKS_DLQ, T, b"no letter", ""))[CLICKS_DLQ].found == "2 letters"


def test_records_in_a_topic_without_retention_have_no_end_date() -> None:
    for_ever = {**LIMITS, CLICKS: Retention(None, None, DAY), USERS: Retention(None, None, DAY)}
    told, gone = record(USERS, T - 9, encode_profile(Profile("GB"))), record(USERS, T - 1, None)
    rows = remains(traces_of(click(T - 4), ERASE, told, gone), for_ever, None, space=1, document_ttl_ms=DAY)
    assert {row.where: (row.until_ms, row.note) for row in rows} == {
        place: (None, "no limit is set") for place in (CLICKS, "profile (users)", "users, before compaction")
    }


def config(**changed: Any) -> Mapping[str, str]:
    kafkas = {
        "cleanup.policy": "delete",
        "retention.ms": str(30 * DAY),
        "segment.ms": str(DAY),
        "max.compaction.lag.ms": str(2**63 - 1),
        "delete.retention.ms": str(DAY),
    }
    return kafkas | {name.replace("_", "."): str(value) for name, value in changed.items()}


def test_limits_come_from_the_settings_of_the_topic() -> None:
    five_minutes = 5 * 60 * 1000
    assert retention_of(config()) == Retention(31 * DAY + five_minutes, None, 2 * DAY)
    assert retention_of(config(retention_ms=-1)).deleted_ms is None
    compacted = config(cleanup_policy="compact", max_compaction_lag_ms=DAY)
    assert retention_of(compacted) == Retention(None, 2 * DAY + five_minutes, 2 * DAY), "a heartbeat a day"
    both = retention_of(config(cleanup_policy="compact,delete", retention_ms=400 * DAY, max_compaction_lag_ms=DAY))
    assert (both.superseded_ms, replace(both, compacted_ms=None).superseded_ms) == (
        2 * DAY + five_minutes,
        401 * DAY + five_minutes,
    )
    assert retention_of(config(cleanup_policy="compact")).superseded_ms is None


def test_places_that_cannot_be_read_are_reported_with_their_limit() -> None:
    def places(oldest_ms: int | None, *records: Record) -> dict[str, Remains]:
        return {row.where: row for row in elsewhere(traces_of(*records), oldest_checkpoint_ms=oldest_ms)}

    assert places(T + 1, ERASE)["page tokens"].until_ms == T + 30 * 60 * 1000
    assert places(None)["page tokens"].until_ms is None
    assert "from before the erasure" in places(T - 1, ERASE)["Flink's state"].found
    assert places(T + 1, ERASE)["Flink's state"].until_ms == T + 30 * DAY
    assert "no checkpoints on this machine" in places(None, ERASE)["Flink's state"].found
    assert {"trained models", "traces", "logs of the parts", "exports, backups"} <= places(None).keys()
