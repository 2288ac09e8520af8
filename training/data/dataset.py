"""Loads a data set: a folder of Parquet or CSV as a catalogue and a log, checked, described and split.

    python -m training.data.dataset FOLDER

prints the rows read, those dropped or defaulted by reason, the rest, and its split. FOLDER holds
``interactions.parquet`` with user_id, item_id and time, and where there are any type, value, event_id, order, country,
device, referrer and interests; ``items.parquet`` with item_id, title, description, category, locale, price, brand and
any attributes; ``users.parquet`` with what each user declared once. Each may be ``.csv`` or a folder of shards
(``interactions/``) as well. Only the interactions are needed. Other names are mapped by a ``dataset.toml``
(nearline/dataset_description.py).
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nearline.dataset_description import (
    LEAVE_ONE_OUT,
    Description,
    Table,
    find_description,
    nearest,
    read_description,
    table_path,
)
from nearline.datasets import FILE as ONLINE_RETAIL_FILE
from nearline.datasets import load_online_retail
from nearline.errors import BadInput, Misconfigured, NearlineError
from nearline.events import EVENT_TYPES
from nearline.features import TYPE_CODES
from nearline.items import Item
from nearline.table_events import Survey, declared_by_users, kept_rows, survey, typed
from nearline.table_files import files_of
from nearline.table_items import DatasetItems, read_items
from nearline.tables import scan
from training.arrays import Ints
from training.data.events import finished
from training.data.log import Log, chunks, make_log, open_log
from training.data.log_building import build_log, read_notes
from training.data.splits import STAGES, LeaveOneOut, Split, Stage, every_basket, split_by, stage_of

MEMORY = Path("build/train/data")
KNOWN_SETS = Path(__file__).parent / "descriptions"
ROWS_PER_PART = 2_000_000
_VERSION = 2  # of the rules that make a log of files: raise it with any change of them, or old logs would be reused
_MOST_GROUPS = 5
NO_ITEM_ROW = "items that only the interactions name: the id is their title"
NEVER_MET = "items without an event"
ONE_TITLE = "items share their title with another"


@dataclass(frozen=True)
class Dataset:
    """A catalogue, its log and their split; ``digest`` changes with any byte or rule that they come from."""

    name: str
    items: Mapping[str, Item]
    log: Log
    split: Split
    digest: str
    recipe: Mapping[str, Any]
    rows: int
    counted: Mapping[str, int]

    def stage(self, name: str) -> Stage:
        """What to fit and what to judge for ``validation`` or ``test``; ``BadInput`` if either is nothing."""
        stage = stage_of(self.log, self.split, name)
        for part, baskets in (("fit", stage.fit), ("judge", stage.judge)):
            if not len(baskets):
                raise BadInput(f"nothing_to_{part}", _nothing(self, stage, part))
        return stage

    def report(self) -> str:
        """A few lines for people: rows read, rows lost by reason, and the rest."""
        return "\n".join([f"{self.name} ({self.digest})", *_losses(self), *_statistics(self)])


def load_dataset(
    folder: Path, description: Path | None = None, *, memory: Path | None = None, rows_per_part: int = ROWS_PER_PART
) -> Dataset:
    """The data set in *folder*, read by *description*, its own ``dataset.toml``, ours of that name, or the defaults.

    Up to *rows_per_part* rows of interactions are held in memory. More are processed in parts of about that many, and
    the log's columns stay in files under *memory*, where the next call finds them. ``Misconfigured`` if files, columns
    and description do not match, ``BadInput`` if the rows contradict the description.
    """
    folder = _there(Path(folder))
    path = find_description(folder, description, known=KNOWN_SETS)
    about = Description() if path is None else read_description(path)
    try:
        if about.preparation is not None:
            return _prepared(folder, about)
        return _of_files(folder, about, MEMORY if memory is None else Path(memory), rows_per_part)
    except pl.exceptions.PolarsError as broken:
        raise Misconfigured(f"the files in {folder} can not be read together: {broken}") from broken


def _there(folder: Path) -> Path:
    if folder.is_dir():
        return folder
    beside = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    raise Misconfigured(f"no folder at {folder}{nearest(folder.name, beside)}; expected one with interactions.parquet")


def _prepared(folder: Path, about: Description) -> Dataset:
    """Online Retail, which has its own rules for turning rows into events."""
    prepared = load_online_retail(folder)
    columns = replace(about, interactions=Table(ONLINE_RETAIL_FILE, {"time": "time_ms"}, time_unit="ms"))
    losses = Counter({f"rows dropped: {reason}": count for reason, count in prepared.dropped.items()})
    catalogue = DatasetItems(dict(prepared.items), (), losses)
    digest = _digest([folder / ONLINE_RETAIL_FILE], folder, about)
    frame = typed(prepared.events.lazy(), columns, ONLINE_RETAIL_FILE)
    loaded = _in_memory(folder, columns, catalogue, frame, digest)
    return replace(loaded, rows=prepared.rows)


def _of_files(folder: Path, about: Description, memory: Path, rows_per_part: int) -> Dataset:
    events, items, users = (
        table_path(folder, about, name, needed=name == "interactions") for name in ("interactions", "items", "users")
    )
    assert events is not None
    raw = scan(events, about.interactions)
    told = None if users is None else declared_by_users(scan(users, about.users), about.users, users.name)
    frame = typed(raw, about, about.interactions.file, told)
    catalogue = DatasetItems({}, (), {}) if items is None else read_items(items, about.items, about.attributes)
    digest = _digest([path for path in (events, items, users) if path is not None], folder, about)
    if raw.select(pl.len()).collect().item() <= rows_per_part:
        return _in_memory(folder, about, catalogue, frame, digest)
    return _in_parts(folder, about, catalogue, frame, digest, memory, rows_per_part)


def _in_memory(folder: Path, about: Description, catalogue: DatasetItems, frame: pl.LazyFrame, digest: str) -> Dataset:
    held = frame.collect().lazy()
    found = survey(held, about.interactions.time_unit)
    items, counted = _with_missing(catalogue, found.item_ids)
    counted.update(found.counted)
    events = finished(kept_rows(held).collect(), counted, never_ms=_never_ms(about, found))
    log = make_log(events, list(items), joint=about.joint)
    return _dataset(folder, about, items, log, digest, found.rows, counted)


def _in_parts(
    folder: Path,
    about: Description,
    catalogue: DatasetItems,
    frame: pl.LazyFrame,
    digest: str,
    memory: Path,
    rows_per_part: int,
) -> Dataset:
    kept = memory / f"{digest}-{rows_per_part}"
    if read_notes(kept) is None:
        found = survey(frame, about.interactions.time_unit)
        ids = tuple(_with_missing(catalogue, found.item_ids)[0])
        build_log(
            kept_rows(frame),
            found,
            ids,
            kept,
            rows_per_part=rows_per_part,
            joint=about.joint,
            never_ms=_never_ms(about, found),
        )
    notes = read_notes(kept)
    if notes is None:
        raise Misconfigured(f"the log in {kept} vanished while it was read; run again")
    items, counted = _with_missing(catalogue, notes.item_ids)
    counted.update(notes.counted)
    return _dataset(folder, about, items, open_log(kept, list(items)), digest, notes.rows, counted)


def _never_ms(about: Description, found: Survey) -> int | None:
    """The time for users without any time; ``None`` if the split is by time, which cannot place them."""
    return found.earliest_ms if about.split.kind == LEAVE_ONE_OUT else None


def _with_missing(catalogue: DatasetItems, met: tuple[str, ...]) -> tuple[dict[str, Item], Counter[str]]:
    """The catalogue with an item for every id in *met* that it lacks, titled by its id."""
    missing = {item_id: Item(item_id) for item_id in met if item_id not in catalogue.items}
    counted = Counter({name: count for name, count in catalogue.counted.items() if count})
    counted[NO_ITEM_ROW] += len(missing)
    return {**catalogue.items, **missing}, counted


def _dataset(
    folder: Path,
    about: Description,
    items: dict[str, Item],
    log: Log,
    digest: str,
    rows: int,
    counted: Mapping[str, int],
) -> Dataset:
    if not len(log):
        raise BadInput("empty", f"no event of {folder} is left: {dict(counted)}")
    losses = {name: count for name, count in counted.items() if count}
    name = folder.resolve().name
    return Dataset(name, items, log, split_by(about.split, log), digest, about.recipe, rows, losses)


def _digest(paths: list[Path], folder: Path, about: Description) -> str:
    """Sixteen hex digits over the files' bytes and the rules; the recipe and the cuts change no log."""
    rules = asdict(about)
    del rules["recipe"]
    rules["split"] = about.split.kind  # decides what to do with an event without a time
    rules["named"] = sorted(about.named)
    digest = hashlib.sha256(json.dumps([_VERSION, rules], sort_keys=True, default=str).encode())
    for path in paths:
        for file in files_of(path):
            digest.update(str(file.relative_to(folder)).encode())
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]


def _nothing(data: Dataset, stage: Stage, part: str) -> str:
    span = f"{data.log.users:,} users, {len(data.log):,} events, {_span(data.log)}"
    if isinstance(data.split, LeaveOneOut):
        need = "four baskets or more" if part == "fit" else "three baskets or more"
        return f"{stage.name}: nothing to {part}; leave-one-out needs a user with {need} (there are {span})"
    cuts = f"validate_from {_day(data.split.validate_from_ms)}, test_from {_day(data.split.test_from_ms)}"
    need = "a user with two baskets before the cut" if part == "fit" else "a user with baskets before and after the cut"
    return f"{stage.name}: nothing to {part}; {cuts} needs {need} (there are {span}): mend [split] in dataset.toml"


def _losses(data: Dataset) -> Iterator[str]:
    yield f"{data.rows:>12,} rows read"
    for reason, count in data.counted.items():
        yield f"{count:>12,} {reason}"


def _statistics(data: Dataset) -> Iterator[str]:
    log, items = data.log, len(data.items)
    first, last = _ends(log)
    each = last + 1 - first
    density = len(log) / (log.users * items)
    baskets = len(every_basket(log))
    yield f"{len(log):>12,} events of {log.users:,} users on {items:,} items (density {density:.3%}), {_span(log)}"
    median, high = np.quantile(each, [0.5, 0.9], method="inverted_cdf")
    yield f"{'':>12} events of a user: median {median:,}, 90 % have at most {high:,}, the most {each.max():,}"
    yield f"{'':>12} {baskets:,} baskets, {len(log) / baskets:.1f} events in each; {_shares(_types(log), len(log))}"
    yield from (f"{count:>12,} {what}" for what, count in _oddities(data).items() if count)
    for signal, groups in _groups(log, last).items():
        yield f"{'':>12} {signal}: {_shares(groups, log.users)}"


def _ends(log: Log) -> tuple[Ints, Ints]:
    """The rows of each user's first and last event."""
    begins = [np.flatnonzero(log.user_start[r] == np.arange(r.start, r.stop)) + r.start for r in chunks(len(log))]
    first = np.concatenate(begins)
    return first, np.append(first[1:], len(log)) - 1


def _types(log: Log) -> dict[str, int]:
    counts = _counts(log, log.kind, len(EVENT_TYPES) + 1)
    return {name: int(counts[code]) for name, code in TYPE_CODES.items() if counts[code]}


def _counts(log: Log, column: NDArray[Any], size: int) -> Ints:
    """How often each number below *size* occurs in a column of *log*."""
    counts = np.zeros(size, dtype=np.int64)
    for rows in chunks(len(log)):
        counts += np.bincount(column[rows], minlength=size)
    return counts


def _groups(log: Log, last: Ints) -> dict[str, Counter[str]]:
    """How many users have each value of every declared signal, by their newest."""
    found: dict[str, Counter[str]] = {}
    users = np.bincount(log.context[last], minlength=len(log.contexts))
    for context, count in zip(log.contexts, users.tolist(), strict=True):
        for signal, value in context.items() if count else ():
            for one in value if isinstance(value, list) else [value]:
                found.setdefault(signal, Counter())[one] += count
    return found


def _shares(counts: Mapping[str, int], whole: int) -> str:
    """The largest groups with their share of the *whole*, and how many more there are."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    named = [f"{name} {count / whole:.1%}" for name, count in ordered[:_MOST_GROUPS]]
    return ", ".join(named) + (f" and {len(ordered) - _MOST_GROUPS} more" if len(ordered) > _MOST_GROUPS else "")


def _oddities(data: Dataset) -> dict[str, int]:
    met = _counts(data.log, data.log.item, len(data.items))
    titles = Counter(item.title for item in data.items.values())
    return {
        NEVER_MET: int((met == 0).sum()),
        ONE_TITLE: sum(count for count in titles.values() if count > 1),
        "item only: there is nothing to rank": int(len(data.items) == 1),
        "user only: nothing can be learnt of others": int(data.log.users == 1),
    }


def _span(log: Log) -> str:
    earliest = min(int(log.time_ms[rows].min()) for rows in chunks(len(log)))
    latest = max(int(log.time_ms[rows].max()) for rows in chunks(len(log)))
    return f"{_day(earliest)} to {_day(latest)}"


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _sizes(data: Dataset) -> Iterator[str]:
    """How many events, examples and users each stage has."""
    for name in STAGES:
        stage = stage_of(data.log, data.split, name)
        cut = "" if stage.cut_ms is None else f" from {_day(stage.cut_ms)}"
        yield (
            f"{name + ':':<12} fit on {int(stage.fitted.sum()):,} events ({len(stage.fit):,} examples with a history, "
            f"{len(stage.fit_first):,} without), judge {len(stage.judge):,} users{cut} "
            f"({len(stage.judge_all):,} baskets, {len(stage.newcomers):,} new users)"
        )


def main() -> int:
    """Print the report and the sizes of the split; 2 if the data can not be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--dataset", type=Path, help="a dataset.toml outside FOLDER")
    parser.add_argument("--memory", type=Path, default=MEMORY, help=f"where large logs are kept ({MEMORY})")
    parser.add_argument("--rows-per-part", type=int, default=ROWS_PER_PART, help=f"held at a time ({ROWS_PER_PART:,})")
    given = parser.parse_args()
    try:
        data = load_dataset(given.folder, given.dataset, memory=given.memory, rows_per_part=given.rows_per_part)
        print(data.report(), *_sizes(data), sep="\n")
    except NearlineError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
