"""The steps of reading users back: when they are due, how long they last, and what they leave for the next start."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flink_jobs.last_n.checkpoints import JobFolder, Restoration
from flink_jobs.last_n.replay_end import Ends
from flink_jobs.last_n.restoration import begin_restoration, end_restoration, is_to_restore, wait_until_read
from flink_jobs.last_n.status import RESTORING
from nearline.errors import Unavailable


@dataclass
class Log:
    """Says what it was given, and keeps what it was asked."""

    ends: dict[str, dict[int, int]] = field(default_factory=dict)
    read: list[bool] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)

    def ends_of_records(self, topics: Sequence[str]) -> dict[str, dict[int, int]]:
        return {topic: self.ends.get(topic, {}) for topic in topics}

    def has_read(self, group: str, ends: Ends) -> bool:
        assert group.startswith("last_n-restoring")
        assert ends == self.ends_of_records(["user-sequences", "user-seen"])
        return self.read.pop(0)

    def forget_group(self, group: str) -> None:
        self.forgotten.append(group)

    def records_in(self, topic: str) -> int:
        return sum(self.ends.get(topic, {}).values())


def test_a_system_without_users_has_nothing_to_read_back() -> None:
    assert not is_to_restore(Log({"clicks": {0: 9}}))
    assert is_to_restore(Log({"user-seen": {3: 1}}))


def test_a_restoration_forgets_how_far_the_lost_job_had_read(tmp_path: Path) -> None:
    """Else its offsets, which the job commits at its first checkpoint only, would say that the replay is over."""
    log, folder = Log(), JobFolder(tmp_path)
    restoration = begin_restoration(log, folder, now_s=1_800_000_000.4)
    assert log.forgotten == ["last_n"]
    assert folder.restoration == restoration == Restoration("last_n-restoring-1800000000", 1_800_000_000.4)


def test_it_lasts_until_a_checkpoint_includes_all_records() -> None:
    log = Log({"user-sequences": {0: 5}}, read=[False, True])
    wait_until_read(log, Restoration("last_n-restoring-1", 0.0), lambda: None)
    assert log.read == []


def test_it_fails_if_its_job_ends_before() -> None:
    with pytest.raises(Unavailable, match="the job that reads users back is FAILED"):
        wait_until_read(Log(read=[False]), Restoration("last_n-restoring-1", 0.0), lambda: "FAILED")


def test_its_end_is_noted_with_the_checkpoint_and_where_the_replay_ends(tmp_path: Path) -> None:
    log = Log({"clicks": {0: 70}, "users": {1: 3}, "user-sequences": {0: 5}, "user-seen": {0: 2}})
    folder = JobFolder(tmp_path)
    restoration = begin_restoration(log, folder, now_s=100.0)
    chk = folder.checkpoints / "a" / "chk-4"
    chk.mkdir(parents=True)
    (chk / "_metadata").write_text("complete")
    assert end_restoration(log, folder, restoration, now_s=130.0) == chk
    noted = folder.restoration
    assert noted is not None
    assert (noted.checkpoint, noted.records) == (str(chk), 7)
    assert noted.ends == {"clicks": {0: 70}, "users": {1: 3}}


def test_the_job_that_reads_users_back_is_not_called_as_the_one_that_runs() -> None:
    assert RESTORING != "last_n"
