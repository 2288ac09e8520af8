"""The job's metrics: its starts on its own page, and the results of records inside Flink.

Flink's reporter names a counter after its operator and shows it as a gauge:
``flink_taskmanager_job_task_operator_<name>``; a counter in a group with a value has the group's name as a prefix and
the value as a label.
"""

from enum import StrEnum

from nearline.reasons import reasons_of
from nearline.telemetry import counter, gauge

STARTS = counter("job_starts_total", "Starts of the job since its data folder was created.")
RECENT_STARTS = gauge("job_recent_starts", "Starts of the job in the last ten minutes.")
READ_BACK = gauge(
    "job_read_back_records", "Records of users' histories that the job read back, as it had no checkpoint."
)
RESTORED = gauge("job_restored_checkpoint_info", "1 for the checkpoint that this start resumed from.", "path")

REASON, OTHER, TOPIC = "reason", "other", "topic"
REASONS = reasons_of(
    "events", "ids", "profiles", "user_commands", others=("ambiguous_user", "bad_seen", "undecodable", OTHER)
)


class Count(StrEnum):
    """The counters of the operator ``LastN``, by name."""

    UNCHANGED = "nearline_unchanged"
    REFUSED = "nearline_refused"  # by reason
    COMMANDS = "nearline_commands"
    FORGOTTEN = "nearline_forgotten"
    ABORTED = "nearline_aborted"
    TOO_OLD = "nearline_too_old"
    AHEAD = "nearline_ahead"
    WRONG_PARTITION = "nearline_wrong_partition"  # by topic
    JOINED = "nearline_joined"
    EXPIRED = "nearline_expired"


ABOUT = {
    Count.UNCHANGED: "Records that changed nothing: repeated.",
    Count.REFUSED: "Records sent to the dead-letter queue.",
    Count.COMMANDS: "Commands and profiles among the records.",
    Count.FORGOTTEN: "Records from before their user's erasure.",
    Count.ABORTED: "Commands that do not count, because their transaction was aborted.",
    Count.TOO_OLD: "Events older than their user's window: their items count as seen, and no vector uses them.",
    Count.AHEAD: "Records whose producer's clock was ahead of the log's: they have their append time.",
    Count.WRONG_PARTITION: "Records that a client with another partitioner than murmur2_random wrote.",
    Count.EXPIRED: "Users deleted because they were idle for NEARLINE_HISTORY_TTL_DAYS.",
    Count.JOINED: "Users whose history came from user-sequences, as the job had no checkpoint, and is complete again.",
}


def flink_name(count: Count) -> str:
    """The Prometheus name of one of the operator's counters."""
    group = {Count.REFUSED: f"{REASON}_", Count.WRONG_PARTITION: f"{TOPIC}_"}.get(count, "")
    return f"flink_taskmanager_job_task_operator_{group}{count}"
