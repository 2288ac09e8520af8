"""The job's files on disk: checkpoints to resume from, the id of their Kafka cluster, and earlier starts.

<data>/flink/checkpoints/<job id>/chk-<n>/_metadata      written by Flink; complete once ``_metadata`` is there
<data>/flink/kafka-cluster                               the id of the Kafka cluster whose offsets they hold
<data>/flink/starts.json                                 how often the job was started, when, and from which checkpoint
<data>/flink/restoration.json                            how users were read back when there was no checkpoint
<data>/flink/restore-from                                the savepoint to resume from (`nearline job restore`)
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nearline.errors import Misconfigured
from nearline.savepoints import asked_to_restore

RETAINED = 3
# A checkpoint from which so many starts resumed without completing another may be damaged.
_STARTS_BEFORE_OLDER = 3
_RECENT_S = 600.0
_OTHER_GRAPH = "Cannot map checkpoint/savepoint state"
_JOB_ID = re.compile(rb"/([0-9a-f]{32})/")


@dataclass(frozen=True, slots=True)
class Start:
    """One start of the job: its number and the checkpoint it resumes from (``None``: from the log's beginning).

    *is_restored*: from the job that read users back; *is_savepoint*: an operator chose it.
    """

    number: int
    checkpoint: Path | None
    is_restored: bool = False
    is_savepoint: bool = False


@dataclass(frozen=True, slots=True)
class Restoration:
    """How users are read back: by the consumer *group*, since *began_s*; until it is done *checkpoint* is empty.

    *ends* is how far ``clicks`` and ``users`` reached then, *records* how many records were read.
    """

    group: str
    began_s: float
    checkpoint: str = ""
    ends: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    records: int = 0


@dataclass(frozen=True, slots=True)
class _Starts:
    """Starts so far, the times of recent ones, and the newest checkpoint at each start since it was made."""

    count: int = 0
    at_s: list[float] = field(default_factory=list)
    newest: list[str] = field(default_factory=list)


class JobFolder:
    """The job's folder ``<data>/flink``; used by one job at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.checkpoints = self.folder / "checkpoints"
        self._cluster_file = self.folder / "kafka-cluster"
        self._starts_file = self.folder / "starts.json"
        self._restoration_file = self.folder / "restoration.json"

    def complete(self) -> list[Path]:
        """The complete checkpoints of this job and all before it, newest first."""
        written = [(p.stat().st_mtime_ns, p) for p in self.checkpoints.glob("*/chk-*/_metadata") if p.stat().st_size]
        return [path.parent for _, path in sorted(written, reverse=True)]

    @property
    def restoration(self) -> Restoration | None:
        """The last time that users were read back; ``None`` if they never were."""
        if not self._restoration_file.exists():
            return None
        body = json.loads(self._restoration_file.read_text())
        ends = {topic: {int(at): end for at, end in parts.items()} for topic, parts in body.pop("ends").items()}
        return Restoration(**body, ends=ends)

    def note(self, restoration: Restoration) -> None:
        """Note the restoration: when it begins, and again when it has a checkpoint."""
        _write(self._restoration_file, json.dumps(asdict(restoration)))

    def check_graph(self, start: Start, trace: str) -> None:
        """Refuse a checkpoint whose state, by Flink's *trace*, the job's graph does not have: each start would fail."""
        if _OTHER_GRAPH in trace:
            raise Misconfigured(
                f"{start.checkpoint} has state of operators that this release does not have, so another release wrote "
                f"it: start that one, or move {self.checkpoints} away, and users are read back from the log"
            )

    def check_cluster(self, cluster_id: str) -> None:
        """Refuse checkpoints of another Kafka cluster: their offsets would silently skip or repeat its records."""
        known = self._cluster_file.read_text().strip() if self._cluster_file.exists() else cluster_id
        if known != cluster_id and self.complete():
            raise Misconfigured(
                f"the checkpoints in {self.checkpoints} belong to Kafka cluster {known}, this is {cluster_id}: "
                "connect to that one, or run `make reset` to start anew"
            )
        _write(self._cluster_file, cluster_id + "\n")

    def begin(self, *, now_s: float) -> Start:
        """Choose the checkpoint to resume from, record this start, and delete files that no checkpoint needs.

        It is the newest complete one; if several starts resumed from that without completing another, the one before.
        A savepoint that an operator named comes before checkpoints from before that. Those of a restoration that was
        interrupted hold only a part of the users: they are deleted.
        """
        restoration, asked = self.restoration, asked_to_restore(self.folder)
        if restoration is not None and not restoration.checkpoint:
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            self._restoration_file.unlink()
            restoration = None
        kept, past = self.complete()[:RETAINED], self._starts()
        tries = [path for path in past.newest if kept and path == str(kept[0])]
        choice = kept[min(len(tries) // _STARTS_BEFORE_OLDER, len(kept) - 1)] if kept else None
        is_savepoint = asked is not None and not (kept and _written_ns(kept[0]) > asked[1])
        if asked is not None and is_savepoint:
            choice = asked[0]
        now = _Starts(past.count + 1, [*_recent(past, now_s), now_s], [*tries, str(kept[0])] if kept else [])
        _write(self._starts_file, json.dumps(asdict(now)))
        self._delete_unused(kept)
        is_restored = restoration is not None and str(choice) == restoration.checkpoint
        return Start(now.count, choice, is_restored=is_restored, is_savepoint=is_savepoint)

    def recent_starts(self, *, now_s: float) -> int:
        """How many starts there were in the last ten minutes."""
        return len(_recent(self._starts(), now_s))

    def _starts(self) -> _Starts:
        try:
            return _Starts(**json.loads(self._starts_file.read_text()))
        except (OSError, ValueError, TypeError):
            return _Starts()

    def _delete_unused(self, kept: list[Path]) -> None:
        if not kept:
            return
        needed = {path.parent.name.encode() for path in kept}
        for path in kept:  # incremental checkpoints reference files of earlier jobs, which must stay
            needed |= set(_JOB_ID.findall((path / "_metadata").read_bytes()))
        for job in self.checkpoints.iterdir():
            if job.name.encode() not in needed:
                shutil.rmtree(job, ignore_errors=True)


def _written_ns(checkpoint: Path) -> int:
    return (checkpoint / "_metadata").stat().st_mtime_ns


def _recent(starts: _Starts, now_s: float) -> list[float]:
    return [at for at in starts.at_s if now_s - at < _RECENT_S]


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(file.name + ".new")
    beside.write_text(text)
    os.replace(beside, file)
