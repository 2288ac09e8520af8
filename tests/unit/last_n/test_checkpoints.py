"""Which checkpoint the job resumes from."""

import os
from pathlib import Path

import pytest

from flink_jobs.last_n.checkpoints import JobFolder, Restoration, Start
from flink_jobs.last_n.replay_end import ReplayEnd
from nearline.errors import Misconfigured
from nearline.savepoints import ask_to_restore

ONE, TWO, THREE = "1" * 32, "2" * 32, "3" * 32


def checkpoint(
    folder: JobFolder, job: str, number: int, *, written: int, names: str = "", complete: bool = True
) -> Path:
    path = folder.checkpoints / job / f"chk-{number}"
    path.mkdir(parents=True)
    (path / "state").write_bytes(b"state")
    if complete:
        (path / "_metadata").write_text(f"\0file:/elsewhere/{names or job}/shared/6d0f\0")
        os.utime(path / "_metadata", (written, written))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path / "flink")


def test_the_first_start_has_nothing_to_resume_from(folder: JobFolder) -> None:
    assert folder.begin(now_s=0.0) == Start(1, None)


def test_a_start_resumes_from_the_newest_complete_checkpoint_of_any_job(folder: JobFolder) -> None:
    """By the time it was written: every job counts its checkpoints anew, and one may be half written."""
    checkpoint(folder, ONE, 41, written=100)
    newest = checkpoint(folder, TWO, 7, written=200)
    checkpoint(folder, TWO, 8, written=300, complete=False)
    assert folder.begin(now_s=0.0).checkpoint == newest


def test_starts_are_counted_over_restarts_and_recent_ones_forgotten_after_ten_minutes(folder: JobFolder) -> None:
    assert [folder.begin(now_s=at).number for at in (0.0, 500.0, 700.0)] == [1, 2, 3]
    assert folder.recent_starts(now_s=700.0) == 2
    assert folder.recent_starts(now_s=5000.0) == 0


def test_a_checkpoint_that_no_start_gets_beyond_is_given_up_for_the_one_before(folder: JobFolder) -> None:
    older = checkpoint(folder, ONE, 1, written=100)
    newest = checkpoint(folder, ONE, 2, written=200)
    assert [folder.begin(now_s=0.0).checkpoint for _ in range(4)] == [newest, newest, newest, older]
    fresh = checkpoint(folder, TWO, 3, written=300)
    assert folder.begin(now_s=0.0).checkpoint == fresh


def test_the_only_checkpoint_is_never_given_up(folder: JobFolder) -> None:
    """Beginning anew would forget what the log no longer holds."""
    only = checkpoint(folder, ONE, 1, written=100)
    assert {folder.begin(now_s=0.0).checkpoint for _ in range(9)} == {only}


def test_folders_that_no_checkpoint_needs_are_deleted(folder: JobFolder) -> None:
    """An incremental checkpoint lies in one job's folder and names files in another's."""
    checkpoint(folder, ONE, 1, written=100)
    checkpoint(folder, TWO, 2, written=200)
    for number in (3, 4, 5):
        checkpoint(folder, THREE, number, written=300 + number, names=TWO)
    folder.begin(now_s=0.0)
    assert sorted(job.name for job in folder.checkpoints.iterdir()) == [TWO, THREE]


def test_checkpoints_of_another_kafka_cluster_are_refused_by_name(folder: JobFolder) -> None:
    folder.check_cluster("mine")
    checkpoint(folder, ONE, 1, written=100)
    folder.check_cluster("mine")
    with pytest.raises(Misconfigured, match=r"belong to Kafka cluster mine, this is other: .*`make reset`"):
        folder.check_cluster("other")


def test_a_checkpoint_of_another_releases_graph_is_refused_by_name(folder: JobFolder) -> None:
    start = Start(2, folder.checkpoints / "a" / "chk-16")
    folder.check_graph(start, "Caused by: java.io.IOException: no space left")
    trace = "Failed to rollback to checkpoint/savepoint file:/x. Cannot map checkpoint/savepoint state for operator ba"
    with pytest.raises(Misconfigured, match=r"a/chk-16 has state of .*another release wrote it.*users are read back"):
        folder.check_graph(start, trace)


def test_without_checkpoints_another_cluster_is_simply_the_new_one(folder: JobFolder) -> None:
    folder.check_cluster("mine")
    folder.check_cluster("other")
    checkpoint(folder, ONE, 1, written=100)
    folder.check_cluster("other")


def test_a_damaged_record_of_starts_counts_from_one(folder: JobFolder) -> None:
    folder.begin(now_s=0.0)
    (folder.folder / "starts.json").write_text("{")
    assert folder.begin(now_s=0.0).number == 1


# --- restorations and savepoints --------------------------------------------------------------------------------------


def test_a_restoration_is_read_back_as_it_was_noted(folder: JobFolder) -> None:
    assert folder.restoration is None
    noted = Restoration("g", 5.0, "/chk-3", {"clicks": {0: 7, 1: 0}, "users": {}}, 12)
    folder.note(noted)
    assert folder.restoration == noted


def test_the_checkpoints_of_an_interrupted_restoration_are_deleted(folder: JobFolder) -> None:
    """They hold a part of the users: a job that went on from them would be without the others."""
    checkpoint(folder, ONE, 1, written=100)
    folder.note(Restoration("g", 5.0))
    assert folder.begin(now_s=0.0) == Start(1, None)
    assert (folder.complete(), folder.restoration) == ([], None)


def test_a_start_from_a_restorations_checkpoint_says_so_and_later_ones_do_not(folder: JobFolder) -> None:
    restored = checkpoint(folder, ONE, 1, written=100)
    folder.note(Restoration("g", 5.0, str(restored)))
    assert folder.begin(now_s=0.0) == Start(1, restored, is_restored=True)
    newer = checkpoint(folder, TWO, 1, written=200)
    assert folder.begin(now_s=0.0) == Start(2, newer)


def test_a_savepoint_that_an_operator_names_comes_before_older_checkpoints_and_after_newer_ones(
    folder: JobFolder, tmp_path: Path
) -> None:
    checkpoint(folder, ONE, 1, written=100)
    savepoint = tmp_path / "savepoint-1"
    savepoint.mkdir()
    (savepoint / "_metadata").write_text("complete")
    ask_to_restore(folder.folder, savepoint)
    assert [folder.begin(now_s=0.0) for _ in range(2)] == [
        Start(number, savepoint, is_savepoint=True) for number in (1, 2)
    ]
    newer = checkpoint(folder, TWO, 1, written=4_000_000_000)
    assert folder.begin(now_s=0.0) == Start(3, newer)


def test_a_folder_without_metadata_is_no_savepoint(folder: JobFolder, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="no file _metadata"):
        ask_to_restore(folder.folder, tmp_path)


# --- the end of a replay ----------------------------------------------------------------------------------------------


def test_the_replay_is_over_when_the_log_says_that_all_is_read_and_it_is_asked_now_and_then() -> None:
    answers, now = iter([False, True]), [0.0]
    end = ReplayEnd({"clicks": {3: 10}}, lambda _: next(answers), every_s=10.0, clock_s=lambda: now[0])
    assert [end.is_over(), end.is_over()] == [False, False]
    now[0] = 10.0
    assert [end.is_over(), end.is_over()] == [True, True]


def test_records_from_the_ends_on_are_beyond_the_replay() -> None:
    end = ReplayEnd({"clicks": {3: 10}}, lambda _: False)
    assert [end.is_beyond(3, offset) for offset in (9, 10)] == [False, True]
    assert end.is_beyond(4, 0), "a partition that was empty"
