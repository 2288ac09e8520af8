"""Snapshots of the index: a restart reads the newest usable one, and then only the log since then.

A snapshot is a folder. ``manifest.json`` has the size and digest of every other file, and the snapshot's space, Kafka
cluster, topics and next offset of each partition; its first line is the digest of the rest. No file is interpreted
before all digests are verified, because hnswlib crashes the process on a flipped bit. A folder gets its final name only
when all its files are on the disk; the newest two are kept.

A snapshot that cannot be used is refused with a reason and counted, and the next older one is tried; if none is usable,
the log is read from its beginning.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash

from nearline.disk import flush
from nearline.item_vectors import ItemFields
from nearline.log import Extent, TopicExtent
from nearline.space import Space
from nearline.telemetry import counter, get_logger
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.graphs import Graph, SavedGraph, Slots
from services.retrieval.in_process.index import IndexState
from services.retrieval.in_process.widths import Widths

FORMAT = 2
_READ = (1, FORMAT)  # format 1 has no labels: they are the slots
KEPT = 2
# Tombstones stay in the log for 7 days (nearline/topics.py): a snapshot that is older could bring a purged item back.
MAX_AGE_MS = 6 * 24 * 3600 * 1000

LoadGraph = Callable[[Path, SavedGraph], Graph]
TopicOffsets = Mapping[str, Mapping[int, int]]  # topic -> partition -> the next offset

_HISTORIES, _ROWS = "histories", "history_rows"
_PREFIX, _UNFINISHED, _MANIFEST, _GRAPH = "snapshot-", ".writing-", "manifest.json", "graph"
_ABANDONED_S = 3_600  # an older unfinished folder is from a process that died
REASONS = ("damaged", "newer_format", "other_log", "other_space", "too_old")
_REFUSED = counter("index_snapshots_refused_total", "Snapshots that could not be used", "reason", known=REASONS)


class SnapshotRefused(Exception):
    """A snapshot must not be used; *reason* is a short code for the metric, the message has the details."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Taken:
    """When and from what a snapshot was taken; the log is read on from *next_offsets*."""

    taken_ms: int
    space: Space
    log: Extent
    next_offsets: TopicOffsets


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot whose bytes were all verified."""

    taken: Taken
    folder: Path
    parts: Mapping[str, bytes]  # by name; the graph is read from the folder
    index: Mapping[str, Any]
    graph: SavedGraph | None

    @property
    def has_histories(self) -> bool:
        """Whether it has the items' history vectors; snapshots of an earlier build do not."""
        return _HISTORIES in self.parts


def write(folder: Path, catalogue: Catalogue, taken: Taken) -> Path:
    """Write a snapshot of *catalogue* into *folder* and keep the newest two; return its path.

    Takes a second for 100,000 items, and nothing may change meanwhile: call it in a forked process (forking.py).
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder))
    try:
        _write_parts(unfinished, catalogue, taken)
        newest = max((_number(path) for path in kept(folder)), default=0)
        finished = folder / f"{_PREFIX}{max(taken.taken_ms, newest + 1):015d}"
        unfinished.rename(finished)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    flush(folder)
    for old in kept(folder)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return finished


def kept(folder: Path) -> list[Path]:
    """The snapshots in *folder*, newest first."""
    return sorted((path for path in folder.glob(_PREFIX + "*") if path.is_dir()), key=_number, reverse=True)


def tidy(folder: Path, now_s: float) -> None:
    """Remove unfinished snapshots of processes that died while they wrote."""
    for path in folder.glob(_UNFINISHED + "*"):
        with contextlib.suppress(OSError):
            if now_s - path.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)


def newest(folder: Path, space: Space, log: Extent, now_ms: int) -> Iterator[Snapshot]:
    """The snapshots that fit *space* and *log*, newest first, read one by one; others are logged and counted."""
    for path in kept(folder):
        try:
            snapshot = read(path)
            check(snapshot.taken, space, log, now_ms)
        except SnapshotRefused as refusal:
            refuse(path, refusal)
        else:
            yield snapshot


def refuse(folder: Path, refusal: SnapshotRefused) -> None:
    """Log and count why the snapshot in *folder* is not used."""
    _REFUSED.labels(refusal.reason).inc()
    get_logger().error("a snapshot was refused", folder=str(folder), reason=refusal.reason, why=str(refusal))


def read(folder: Path) -> Snapshot:
    """The snapshot in *folder*, every byte verified; ``SnapshotRefused`` if damaged or of a newer format."""
    try:
        manifest = _manifest(folder)
        if manifest["format"] not in _READ:
            reads = " and ".join(map(str, _READ))
            raise SnapshotRefused("newer_format", f"it has format {manifest['format']}; this build reads {reads}")
        parts = {name: _part(folder / name, **expected) for name, expected in manifest["parts"].items()}
        parts.pop(_GRAPH, None)
        graph = SavedGraph(**manifest["graph"]) if manifest["graph"] else None
        return Snapshot(_taken(manifest), folder, parts, manifest["index"], graph)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SnapshotRefused("damaged", f"it cannot be read: {error!r:.200}") from None


def check(taken: Taken, space: Space, log: Extent, now_ms: int) -> None:
    """Raise ``SnapshotRefused`` unless the snapshot is of this *space*, and its offsets exist in this *log*."""
    if taken.space != space:
        raise SnapshotRefused("other_space", f"it is of {taken.space}; this process serves {space}")
    if taken.log.cluster != log.cluster:
        raise SnapshotRefused("other_log", f"it is of Kafka cluster {taken.log.cluster!r}; this one is {log.cluster!r}")
    if now_ms - taken.taken_ms > MAX_AGE_MS:
        age, most = (now_ms - taken.taken_ms) // 3_600_000, MAX_AGE_MS // 3_600_000
        raise SnapshotRefused("too_old", f"it is {age} h old; deletes may have left the log after {most} h")
    for name, extent in log.topics.items():
        _check_topic(name, taken.log.topics.get(name), extent, taken.next_offsets.get(name, {}))


def _check_topic(name: str, was: TopicExtent | None, now: TopicExtent, next_offsets: Mapping[int, int]) -> None:
    if was is None or was.topic_id != now.topic_id:
        raise SnapshotRefused(
            "other_log", f"topic {name} was recreated: its id was {was and was.topic_id}, it is {now.topic_id}"
        )
    for partition, offset in next_offsets.items():
        first, end = now.first.get(partition, 0), now.end.get(partition, 0)
        if not first <= offset <= end:
            raise SnapshotRefused(
                "other_log", f"{name}/{partition} holds {first} to {end}; the snapshot ends at {offset}"
            )


def restore(snapshot: Snapshot, catalogue: Catalogue, load_graph: LoadGraph) -> None:
    """Fill the empty *catalogue* from *snapshot*; takes 2 s for 100,000 items."""
    parts, dimension = snapshot.parts, snapshot.taken.space.dimension
    state = IndexState(
        vectors=np.frombuffer(parts["vectors"], "<f4").reshape(-1, dimension),
        labels=_labels(parts),
        alive=np.frombuffer(parts["alive"], np.bool_),
        in_graph=np.frombuffer(parts["in_graph"], np.bool_),
        delta_slots=np.frombuffer(parts["delta_slots"], "<i8"),
        widths=_widths(snapshot.index),
    )
    graph = load_graph(snapshot.folder / _GRAPH, snapshot.graph) if snapshot.graph else None
    catalogue.index.restore(state, graph)
    for item_id, score in orjson.loads(parts["trending"]).items():
        catalogue.trending.score(item_id, score)
    rows = None
    if snapshot.has_histories:
        rows = np.frombuffer(parts[_ROWS], "<i8")
        catalogue.histories.restore(np.frombuffer(parts[_HISTORIES], "<f2").reshape(-1, dimension), rows)
    items = orjson.loads(parts["items"])
    catalogue.restore(((*item[:3], item[3] and ItemFields(**item[3])) for item in items), rows)


def _labels(parts: Mapping[str, bytes]) -> Slots:
    """The label of each slot's row; in format 1 a row's label is its slot."""
    if "labels" in parts:
        return np.frombuffer(parts["labels"], "<i8")
    return np.arange(len(parts["alive"]), dtype=np.int64)


def _widths(index: Mapping[str, Any]) -> Widths:
    """The measured widths; the first snapshots have one number, the candidates per result for fifty results."""
    if "widths" in index:
        return Widths(**index["widths"])
    return Widths(of_50=int(50 * index["width_per_result"]))


def _write_parts(folder: Path, catalogue: Catalogue, taken: Taken) -> None:
    state, graph = catalogue.index.state()
    parts: dict[str, bytes] = {
        "vectors": np.ascontiguousarray(state.vectors, "<f4").tobytes(),
        "labels": np.ascontiguousarray(state.labels, "<i8").tobytes(),
        "alive": state.alive.tobytes(),
        "in_graph": state.in_graph.tobytes(),
        "delta_slots": np.ascontiguousarray(state.delta_slots, "<i8").tobytes(),
        "trending": orjson.dumps(catalogue.trending.scores()),
        "items": orjson.dumps(list(catalogue.records())),
        _HISTORIES: np.ascontiguousarray(catalogue.histories.used(), "<f2").tobytes(),
        _ROWS: catalogue.rows().astype("<i8").tobytes(),
    }
    for name, content in parts.items():
        (folder / name).write_bytes(content)
    if graph is not None:
        graph.save(folder / _GRAPH)
    manifest = {
        "format": FORMAT,
        "taken_ms": taken.taken_ms,
        "space": asdict(taken.space),
        "cluster": taken.log.cluster,
        "topics": {name: _topic_json(taken, name) for name in taken.next_offsets},
        "index": {"widths": asdict(state.widths)},
        "graph": graph and {"capacity": graph.capacity, "count": graph.count, "removed": graph.removed},
        "parts": {path.name: {"size": path.stat().st_size, "xxh3": _digest(path)} for path in sorted(folder.iterdir())},
    }
    text = orjson.dumps(manifest, option=orjson.OPT_INDENT_2)
    (folder / _MANIFEST).write_bytes(xxhash.xxh3_128_hexdigest(text).encode() + b"\n" + text)
    for path in folder.iterdir():
        flush(path)
    flush(folder)


def _topic_json(taken: Taken, name: str) -> dict[str, Any]:
    offsets = {str(partition): offset for partition, offset in taken.next_offsets[name].items()}
    return {"id": taken.log.topics[name].topic_id, "next_offsets": offsets}


def _taken(manifest: Mapping[str, Any]) -> Taken:
    topics = manifest["topics"]
    offsets = {name: {int(p): o for p, o in topic["next_offsets"].items()} for name, topic in topics.items()}
    log = Extent(manifest["cluster"], {name: TopicExtent(topic["id"], {}, {}) for name, topic in topics.items()})
    return Taken(manifest["taken_ms"], Space(**manifest["space"]), log, offsets)


def _manifest(folder: Path) -> dict[str, Any]:
    digest, _, text = (folder / _MANIFEST).read_bytes().partition(b"\n")
    if digest != xxhash.xxh3_128_hexdigest(text).encode():
        raise ValueError(f"the digest of {_MANIFEST} does not match its {len(text)} bytes")
    manifest: dict[str, Any] = orjson.loads(text)
    return manifest


def _part(path: Path, *, size: int, xxh3: str) -> bytes:
    content = path.read_bytes()
    if len(content) != size:
        raise ValueError(f"{path.name} has {len(content)} bytes; {size} were written")
    if xxhash.xxh3_128_hexdigest(content) != xxh3:
        raise ValueError(f"the digest of {path.name} does not match its {size} bytes")
    return content


def _digest(path: Path) -> str:
    return xxhash.xxh3_128_hexdigest(path.read_bytes())


def _number(path: Path) -> int:
    digits = path.name.removeprefix(_PREFIX)
    return int(digits) if digits.isdigit() else 0
