"""Measures what freshness is worth on your own log: answers the same queries from lagging histories.

    bin/nearline freshness-value FOLDER              # after `make train DATA=FOLDER`

Replays the log after the cut of the towers' time split. Each moment of a user is a query, whose targets are the user's
items of that moment; the history is what was known 1 min, 1 h, 24 h, 7 d before, or without delay all strictly earlier
events. Candidates are the full catalogue, the same for every delay: in "new items" without those that the user really
had by then.

The towers are those of ``towers.pt``, with histories in FP16 as in serving: that file has the time of the newest event
that they were trained on, and every export checks that the exported towers compute the same. A query whose user is
unknown at a delay is answered with the user tower's vector for no history, and counts. A baseline needs no history: the
items popular in the 30 days before the cut, for all users.

Writes a table, a plot and JSON to --out. A replay cannot show what users would have done with fresher answers.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from nearline.adapters.tokenizer import open_tokenizer
from nearline.dataset_description import SplitRule
from nearline.errors import Misconfigured, NearlineError
from training.arrays import Bools, Floats, Ints, Shares
from training.data.dataset import Dataset, load_dataset
from training.data.examples import Baskets, event_pairs
from training.data.log import Log
from training.data.splits import TEST, Stage, TimeSplit, split_by, stage_of
from training.evaluation import metrics
from training.evaluation.bootstrap import Figure
from training.evaluation.delays import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    NEVER_MS,
    SECOND_MS,
    Curve,
    Judged,
    Point,
    curve,
    delayed_batch,
    granularity_ms,
    known_until,
    moments,
    parse_delays,
    since_newest_ms,
    spoken,
)
from training.evaluation.evaluate import ALL, NEW, SETTINGS, K, Question, Scorer, answer
from training.evaluation.freshness_plot import draw
from training.runs import make_task, simple_scorers
from training.saved import Saved, load_towers
from training.task import Task
from training.text_encoder import encode_catalogue
from training.towers import TwoTowers
from training.vectors import batch_vectors, item_vectors

DELAYS = "0,1min,1h,24h,7d"
QUERIES = 20_000  # more say little more: the interval of recall is then below a hundredth
EVERY, KNOWN = "all queries", "users known at every delay"
MEANINGS = {
    EVERY: "new users count with the answer that they get: that of the user tower for no history",
    KNOWN: "those whose history is not empty at the longest delay: the same queries all along the curve",
}
_TITLES = {NEW: "new items", ALL: "all items"}
_FEW = 0.5  # of the items asked for known to the towers
_WIDTH = 150  # where there is no terminal that says how wide it is
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Replay:
    """All queries, and their results at each delay."""

    delays_ms: tuple[int, ...]
    grain_ms: int
    since_ms: Ints  # (queries,) since the user's newest earlier event
    known: Mapping[int, Bools]  # by delay: whether any history is known, (queries,)
    asked: Mapping[str, Ints]  # by setting: rows of the queries that have something to find
    judged: Mapping[str, Judged]  # by setting, over those

    def curves(self, setting: str, *, seed: int) -> dict[str, Curve]:
        """The curve of all queries, and that of those whose history is not empty at the longest delay."""
        kept = self.known[self.delays_ms[-1]][self.asked[setting]]
        judged = self.judged[setting]
        found = {EVERY: curve(judged, seed=seed), KNOWN: curve(judged.only(kept), seed=seed)}
        return {name: one for name, one in found.items() if one is not None}

    def still_known(self, delay: int, setting: str, *, seed: int) -> Curve | None:
        """Of the queries with any history at the *delay*-th delay two points: without delay, and with it."""
        kept = self.known[self.delays_ms[delay]][self.asked[setting]]
        return curve(self.judged[setting].only(kept).at(delay), seed=seed)

    def within(self, delay_ms: int) -> float:
        """The share of queries with an earlier event at most *delay_ms* before: those that a delay can touch."""
        return float((self.since_ms <= delay_ms).mean())


def queries_of(log: Log, *, from_ms: int, most: int, seed: int) -> Baskets:
    """The moments from *from_ms* on, of more than *most* a random choice."""
    asked = moments(log, from_ms=from_ms)
    if len(asked) > most:
        asked = asked.take(np.sort(np.random.default_rng(seed).choice(len(asked), most, replace=False)))
    return asked


def check_not_seen(saved: Saved, log: Log, asked: Baskets, folder: Path) -> None:
    """``Misconfigured`` unless every query is later than all events that the towers were trained on."""
    if not len(asked):
        raise Misconfigured(f"the log ends at {_moment(int(log.time_ms.max()))}: there is no query after the cut")
    first_ms = int(log.time_ms[asked.start].min())
    if saved.newest_ms >= first_ms:
        raise Misconfigured(
            f"the towers in {folder} learnt from events up to {_moment(saved.newest_ms)}, but the first query is of "
            f"{_moment(first_ms)}: they have seen the answers. Ask later (--test-from), or train them on this cut: "
            "`make train` with the same [split] in dataset.toml"
        )


def known_items(towers: TwoTowers, task: Task, asked: Baskets) -> float:
    """The share of targets that the towers were trained on; for other items they have only the text."""
    events = event_pairs(asked)[1]
    ids = task.items[0][torch.from_numpy(np.asarray(task.log.item)[events].astype(np.int64)), 0]
    return float(torch.isin(ids, towers.item.sorted_ids).float().mean())


def replay(
    task: Task,
    towers: TwoTowers,
    asked: Baskets,
    delays_ms: tuple[int, ...],
    *,
    k: int = K,
    popular: Scorer | None = None,
    advance: Advance = lambda queries: None,
) -> Replay:
    """Answer *asked* at every delay, and by *popular*; call *advance* with the number of answered queries."""
    candidates, histories = item_vectors(towers, task.items)
    half = histories.astype(np.float16)

    def answered(delay_ms: int) -> dict[str, Any]:
        def score(chosen: Baskets) -> Floats:
            batch = delayed_batch(task.log, chosen, delay_ms, length=task.features.history_length)
            scores: Floats = batch_vectors(towers, task, half, batch) @ candidates.T
            advance(len(chosen))
            return scores

        return dict(answer(score, Question(task.log, asked, k)))

    answers = [answered(delay_ms) for delay_ms in delays_ms]
    if popular is not None:
        answers.append(dict(answer(popular, Question(task.log, asked, k))))
    judged_ms = delays_ms if popular is None else (*delays_ms, NEVER_MS)
    user = np.asarray(task.log.user)[asked.start]
    rows = {setting: answers[0][setting].user for setting in SETTINGS}
    return Replay(
        delays_ms,
        granularity_ms(task.log),
        since_newest_ms(task.log, asked),
        {delay_ms: known_until(task.log, asked, delay_ms) > asked.user_start for delay_ms in delays_ms},
        rows,
        {setting: _judged(judged_ms, user[rows[setting]], [each[setting] for each in answers]) for setting in SETTINGS},
    )


def _judged(delays_ms: tuple[int, ...], user: Ints, answers: list[Any]) -> Judged:
    def values(metric: Callable[[Ints, metrics.Targets], Any]) -> Shares:
        return np.stack([metric(each.ranked, each.targets) for each in answers]).astype(np.float64)

    return Judged(
        delays_ms,
        user,
        recall=values(metrics.recall),
        ndcg=values(metrics.ndcg),
        hits=values(lambda ranked, targets: metrics.hits(ranked, targets).sum(1)),
    )


def told_apart(delays_ms: tuple[int, ...], grain_ms: int) -> tuple[tuple[int, ...], str]:
    """The delays that timestamps of this granularity can distinguish, and a sentence about the timestamps.

    ``Misconfigured`` if no delay but 0 is left.
    """
    kept = tuple(delay_ms for delay_ms in delays_ms if not 0 < delay_ms < grain_ms)
    if len(kept) < 2:
        came = ", ".join(map(spoken, delays_ms))
        raise Misconfigured(
            f"no delay is left to compare: the timestamps have a granularity of {spoken(grain_ms)}, --delays are {came}"
        )
    left_out = ", ".join(spoken(delay_ms) for delay_ms in delays_ms if delay_ms not in kept)
    notes = [f"all times are whole {_GRAIN_WORDS[grain_ms]}"] if grain_ms in _GRAIN_WORDS else []
    if left_out:
        notes.append(f"delays below that are left out ({left_out})")
    if grain_ms == DAY_MS:
        notes.append(
            "a user's earlier events on a query's day cannot be ordered and are never seen, so 0 is a delay too"
        )
    return kept, "; ".join(notes)


_GRAIN_WORDS = {DAY_MS: "days", HOUR_MS: "hours", MINUTE_MS: "minutes", SECOND_MS: "seconds"}


def sentence(name: str, replayed: Replay, found: Curve, setting: str) -> str:
    """A sentence about the curve, for the delay of a day or else the longest one."""
    point = next((each for each in found.points if each.delay_ms == DAY_MS), found.delayed[-1])
    words, lost = spoken(point.delay_ms), point.hits_lost
    share = replayed.within(point.delay_ms)
    low, high = (f"{end:.1%}" for end in (lost.low, lost.high))
    chance = ", which is not significant" if lost.low <= 0 <= lost.high else ""
    cost = f"lose {lost.mean:.1%} of its {found.hits:,} hits among {_TITLES[setting]}{chance} ({low} to {high})"
    popular = found.popular
    less = popular is not None and popular.hits_lost.mean < lost.mean
    better = (
        f"; what is popular, shown to everyone, would lose {popular.hits_lost.mean:.1%}" if less and popular else ""
    )
    reach = f"{share:.1%} of its queries follow an event within {words}"
    return f"With answers {words} old, {name} would {cost}: {reach}{better}."


def tables(replayed: Replay, curves: Mapping[str, Mapping[str, Curve]], *, k: int, seed: int) -> list[RenderableType]:
    """A table for each set of queries, and one of the queries that each delay affects."""
    names = [name for name in (EVERY, KNOWN) if name in curves[NEW]]
    return [*(_curve_table(name, {s: curves[s][name] for s in SETTINGS}, k) for name in names), _reach(replayed, seed)]


def _curve_table(name: str, curves: Mapping[str, Curve], k: int) -> Table:
    sizes = (f"{_TITLES[s]}: {one.queries:,} queries of {one.users:,} users" for s, one in curves.items())
    caption = "; ".join([*sizes, "brackets: 95 % over users"])
    table = Table(title=f"{name}: {MEANINGS[name]}", caption=caption, title_justify="left")
    table.add_column("delay", justify="right", no_wrap=True)
    for head in (f"recall@{k}", "against no delay", f"NDCG@{k}", "against no delay", "hits lost"):
        table.add_column(head, justify="right", overflow="fold")
    for setting, found in curves.items():
        table.add_section()
        table.add_row(f"[bold]{_TITLES[setting]}")
        for point in found.points:
            table.add_row(spoken(point.delay_ms), *_cells(point), style="dim" if point is found.popular else "")
    return table


def _cells(point: Point) -> list[str]:
    if not point.delay_ms:
        return [_figure(point.recall), "", _figure(point.ndcg)]
    changes = (_figure(point.recall_change, sign="+"), _figure(point.ndcg_change, sign="+"))
    return [_figure(point.recall), changes[0], _figure(point.ndcg), changes[1], _lost(point)]


def _figure(figure: Figure, *, sign: str = "") -> str:
    return f"{figure.mean:{sign}.4f} [{figure.low:{sign}.4f}, {figure.high:{sign}.4f}]"


def _lost(point: Point) -> str:
    lost = point.hits_lost
    return f"{lost.mean:.1%} [{lost.low:.1%}, {lost.high:.1%}]"


def _reach(replayed: Replay, seed: int) -> Table:
    """The queries that each delay affects, and what it costs users who are still known at it."""
    table = Table(title="what each delay touches", title_justify="left")
    for head in ("delay", "queries with an event within it", "queries with a history left", "hits lost by these (new)"):
        table.add_column(head, justify="right")
    for number, delay_ms in enumerate(replayed.delays_ms[1:], start=1):
        pair = replayed.still_known(number, NEW, seed=seed)
        left = f"{replayed.known[delay_ms].mean():.1%}"
        table.add_row(
            spoken(delay_ms), f"{replayed.within(delay_ms):.1%}", left, "" if pair is None else _lost(pair.points[1])
        )
    return table


def as_json(
    replayed: Replay, curves: Mapping[str, Mapping[str, Curve]], *, k: int, seed: int, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Every figure as plain data."""
    numbers = range(1, len(replayed.delays_ms))
    still = {
        setting: [pair and asdict(pair) for pair in (replayed.still_known(n, setting, seed=seed) for n in numbers)]
        for setting in SETTINGS
    }
    return {
        **facts,
        "k": k,
        "seed": seed,
        "delays_ms": list(replayed.delays_ms),
        "granularity_ms": replayed.grain_ms,
        "queries": len(replayed.since_ms),
        "queries_with_an_event_within": {spoken(d): replayed.within(d) for d in replayed.delays_ms[1:]},
        "queries_with_a_history": {spoken(d): float(replayed.known[d].mean()) for d in replayed.delays_ms},
        "curves": {s: {name: asdict(one) for name, one in found.items()} for s, found in curves.items()},
        "still_known_at_the_delay": still,
    }


def freshness_value(given: argparse.Namespace, console: Console) -> None:
    """Run the command with parsed arguments."""
    began = time.monotonic()
    console.print(f"reading {given.folder}")
    dataset = load_dataset(given.folder, given.dataset)
    towers_folder = given.towers or Path("build/train") / dataset.name
    saved = load_towers(towers_folder)
    split = split_of(dataset, given.test_from)
    asked = queries_of(dataset.log, from_ms=split.test_from_ms, most=given.queries, seed=given.seed)
    check_not_seen(saved, dataset.log, asked, towers_folder)
    delays_ms, note = told_apart(parse_delays(given.delays), granularity_ms(dataset.log))
    stage = stage_of(dataset.log, split, TEST)
    task = _task(dataset, stage, saved, given.text_encoder)
    popular = simple_scorers(dataset.log, stage)["popular of late"]
    known = known_items(saved.towers, task, asked)
    with _progress(console) as progress:
        bar = progress.add_task("replaying", total=len(delays_ms) * len(asked))
        advance = _advancing(progress, bar, console)
        replayed = replay(task, saved.towers, asked, delays_ms, k=given.k, popular=popular, advance=advance)
    curves = {setting: replayed.curves(setting, seed=given.seed) for setting in SETTINGS}
    means = sentence(dataset.name, replayed, curves[NEW][EVERY], NEW)
    facts = {
        "dataset": dataset.name,
        "digest": dataset.digest,
        "towers": str(towers_folder),
        "towers_know_until": _moment(saved.newest_ms),
        "queries_from": _moment(split.test_from_ms),
        "known_items": known,
        "note": note,
        "means": means,
    }
    said = [f"{len(asked):,} queries from {facts['queries_from']}, towers of {facts['towers_know_until']}", note]
    if known < _FEW:
        said.append(f"these towers know {known:.1%} of the targets: were they trained on this log?")
    console.print(*filter(None, said), sep="\n")
    if KNOWN not in curves[NEW]:
        console.print(f"no user is known at {spoken(delays_ms[-1])}: there is one curve only; try shorter --delays")
    for table in tables(replayed, curves, k=given.k, seed=given.seed):
        console.print(table)
    console.print(means)
    out = given.out or Path("build/freshness-value") / dataset.name
    out.mkdir(parents=True, exist_ok=True)
    plain = as_json(replayed, curves, k=given.k, seed=given.seed, facts=facts)
    (out / "freshness-value.json").write_text(json.dumps(plain, indent=2) + "\n")
    draw(curves, out / "freshness-value.png", k=given.k, title=means)
    console.print(f"wrote freshness-value.png and freshness-value.json to {out}/ in {time.monotonic() - began:.0f} s")


def split_of(dataset: Dataset, test_from: str | None) -> TimeSplit:
    """The cut of *test_from*, else of the data set's time split; ``Misconfigured`` if there is none."""
    if test_from is not None:
        rule = SplitRule(test_from=_cut(test_from))
        split = split_by(rule, dataset.log)
        assert isinstance(split, TimeSplit)
        return split
    if isinstance(dataset.split, TimeSplit):
        return dataset.split
    raise Misconfigured(
        f"{dataset.name} is split by leaving one out, and a replay in time needs a moment: train towers on a time "
        'split (in dataset.toml: [split] kind = "time", test_from = 0.9), or name one later than all that the towers '
        "learnt from with --test-from 0.9 or --test-from 2011-11-09"
    )


def _cut(text: str) -> int | float:
    """A share of the events, or a day or moment in milliseconds (UTC where it names no zone)."""
    try:
        return _share(float(text))
    except ValueError:
        pass
    try:
        day = datetime.fromisoformat(text)
    except ValueError:
        raise Misconfigured(f"--test-from is a share such as 0.9 or a day such as 2011-11-09, came {text!r}") from None
    return int((day if day.tzinfo else day.replace(tzinfo=UTC)).timestamp() * 1000)


def _share(number: float) -> float:
    if not 0 < number < 1:
        raise Misconfigured(f"--test-from as a share of the events lies between 0 and 1, came {number:g}")
    return number


def _task(dataset: Dataset, stage: Stage, saved: Saved, encoder: Path | None) -> Task:
    """The items and contexts in the towers' form."""
    sentence_layer = saved.towers.item.sentence
    if sentence_layer is not None and encoder is None:
        raise Misconfigured("these towers were trained with a text encoder: name its folder with --text-encoder")
    sentences = (
        None
        if sentence_layer is None or encoder is None
        else encode_catalogue(encoder, dataset.items, open_tokenizer).sentences
    )
    return make_task(dataset, stage, saved.features, sentences)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _advancing(progress: Progress, bar: Any, console: Console) -> Advance:
    """Moves the bar; without a terminal, prints a line every ten seconds."""
    said, done = time.monotonic(), 0

    def advance(queries: int) -> None:
        nonlocal said, done
        done += queries
        progress.update(bar, completed=done)
        if not console.is_terminal and time.monotonic() - said > 10:
            said = time.monotonic()
            console.print(f"replaying: {done:,} of {progress.tasks[bar].total:,.0f} answers")

    return advance


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def main() -> int:
    """Replay, print, plot; return 2 with a message on failure."""
    given = _arguments()
    torch.set_num_threads(given.threads)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    try:
        freshness_value(given, console)
    except NearlineError as problem:
        print(f"freshness-value: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="freshness-value", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the log and the catalogue, as for make train")
    parser.add_argument("--towers", type=Path, help="folder of towers.pt; default build/train/<data set>")
    parser.add_argument("--dataset", type=Path, help="a dataset.toml elsewhere than in FOLDER")
    parser.add_argument("--delays", default=DELAYS, help=f"default {DELAYS}")
    parser.add_argument("--test-from", help="a share of the events or a day; default: that of the time split")
    parser.add_argument("--queries", type=int, default=QUERIES, help=f"at most so many, drawn at random ({QUERIES:,})")
    parser.add_argument("--text-encoder", type=Path, metavar="FOLDER", help="if the towers were trained with one")
    parser.add_argument("--out", type=Path, help="default build/freshness-value/<data set>")
    parser.add_argument("--k", type=int, default=K)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
