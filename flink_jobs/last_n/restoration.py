"""The steps of reading users back, on one machine and on a cluster: decide, begin, wait, end."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from flink_jobs.last_n.checkpoints import JobFolder, Restoration
from flink_jobs.last_n.replay_end import Ends
from nearline.errors import Unavailable
from nearline.telemetry import get_logger
from nearline.topics import CLICKS, USER_SEEN, USER_SEQUENCES, USERS

_GROUP = "last_n"
_LOOK_S = 0.5


class LogProgress(Protocol):
    """What the log says about its topics and their readers (nearline/adapters/kafka/admin.py)."""

    def ends_of_records(self, topics: Sequence[str]) -> dict[str, dict[int, int]]: ...
    def has_read(self, group: str, ends: Ends) -> bool: ...
    def forget_group(self, group: str) -> None: ...
    def records_in(self, topic: str) -> int: ...


def is_to_restore(log: LogProgress) -> bool:
    """Whether there is anything in ``user-sequences`` or ``user-seen``."""
    return any(log.ends_of_records([USER_SEQUENCES, USER_SEEN]).values())


def begin_restoration(log: LogProgress, folder: JobFolder, *, now_s: float) -> Restoration:
    """Note in *folder* that users are being read back, and forget how far the lost job had read."""
    restoration = Restoration(f"{_GROUP}-restoring-{now_s:.0f}", now_s)
    folder.note(restoration)
    log.forget_group(_GROUP)
    get_logger().warning("no checkpoint: reading users back", topics=[USER_SEQUENCES, USER_SEEN])
    return restoration


def wait_until_read(log: LogProgress, restoration: Restoration, ended: Callable[[], str | None]) -> None:
    """Return once a checkpoint includes all of the two topics; ``Unavailable`` if the job ended before."""
    ends = log.ends_of_records([USER_SEQUENCES, USER_SEEN])
    while not log.has_read(restoration.group, ends):
        why = ended()
        if why is not None:
            raise Unavailable(f"the job that reads users back is {why}; see Flink's log")
        time.sleep(_LOOK_S)


def end_restoration(log: LogProgress, folder: JobFolder, restoration: Restoration, *, now_s: float) -> Path:
    """Note where the replay ends; return the checkpoint with the users."""
    checkpoint = folder.complete()[0]
    records = sum(log.records_in(topic) for topic in (USER_SEQUENCES, USER_SEEN))
    ends = log.ends_of_records([CLICKS, USERS])
    folder.note(replace(restoration, checkpoint=str(checkpoint), ends=ends, records=records))
    took_s = round(now_s - restoration.began_s, 1)
    get_logger().warning("users are read back; reading clicks again", records=records, took_s=took_s)
    return checkpoint
