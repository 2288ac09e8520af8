"""Measures recall and reads of the index under changes, and compares them with other indexes.

The index runs in its own process (benchmarks/index/living.py), which this one queries and controls. Recall is measured
on sampled answers, each against exact search over the items that were live at that moment. For the comparison two other
indexes get the same changes and are queried in turn with ours (benchmarks/index/peers.py).
"""

import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index.asking import Asked, Trial, as_plain
from benchmarks.index.peers import peers_command
from benchmarks.index.vectors import Changes, ReplayAnswer, TowerVectors, judge
from benchmarks.search import highest_passing
from local.layout import BUILD
from local.system import Say
from nearline.features import DIMENSION

CHANGES_PER_S = 500
BOUNDS_MS = {"must": 20.0, "goal": 5.0}
K = 50
_BESIDE_RPS = 300  # asked while nothing else is measured
_USERS = 3_000
_BEHIND_S = 2.0  # in a long run one pause may still be forgiven: it is a share of the answers like any other
_DRAIN_S = 30.0
_TRIES = 2  # a pause of the machine fails a short run: a rate is too high when it fails twice
_OVERDRIVEN_RPS = 6_000  # some twice what two cores answer at the least width
_BURST_S = 4.0
_SUSTAINED_RPS = 300
_RECOVERY_S = 60
_SHARES = (1.0, 0.9, 0.8, 0.65, 0.5, 0.35)  # of the rate found in short runs
_RULES = ("locked", "flat")
_FIRST = {"ours": 1_500.0, "locked": 800.0, "flat": 200.0}


@dataclass(frozen=True, slots=True)
class ChurnScale:
    """How large and how thorough; ``quick`` is for trying the benchmark, not for figures."""

    items: int = 100_000
    replaced: float = 1.0  # of the items, at 500/s
    rounds: int = 100
    trial_s: float = 4.0
    confirm_s: float = 40.0  # long enough that a graph is built in some of it
    steady_s: float = 60.0
    overdriven_s: float = 20.0
    side_s: float = 2.0
    alternations: int = 3
    peer_queries: int = 2_000
    probes: int = 200


QUICK = ChurnScale(
    items=20_000,
    replaced=0.3,
    rounds=3,
    trial_s=1,
    confirm_s=2,
    overdriven_s=4,
    side_s=0.5,
    alternations=1,
    peer_queries=200,
    probes=10,
)


def measure(scale: ChurnScale, seed: int, say: Say) -> dict[str, Any]:
    """``{"churn": …}``: recall while all items are replaced at a steady rate, then in large rounds."""
    with living(scale, seed) as ours:
        say("listing the catalogue and building its graph")
        loaded = ours.tell("load")
        steady = _replace_everything(ours, scale, say)
        state = ours.tell("state")
        state |= {"steady_reads": as_plain(steady)}
        judged = ours.tell("judged")
        ours.tell("rate", per_s=0)  # a slow machine would else never be done folding
        say(f"{scale.rounds} rounds of 5 %")
        rounds = ours.tell("rounds", count=scale.rounds, share=0.05)
        say("recall in the rounds, and of a fresh build")
        ours.tell("settle")
        in_rounds, final = ours.tell("judged"), ours.tell("final")
    lowest = min(final["recall_at_10"], judged["lowest_recall_at_10"], in_rounds["lowest_recall_at_10"])
    return {
        "churn": {
            "recall_at_10": lowest,
            "fresh_recall_at_10": final["fresh_recall_at_10"],
            "below_fresh": round(final["fresh_recall_at_10"] - lowest, 4),
            "final": final,
            "at_500_per_s": {**state, **judged},
            "rounds": {**rounds, **in_rounds},
            "loaded": loaded,
        }
    }


def measure_reads(source: TowerVectors, scale: ChurnScale, seed: int, say: Say) -> dict[str, Any]:
    """``{"reads_beside": …, "side_by_side": …}``: reads/s beside the changes, for ours and other indexes."""
    with living(scale, seed) as ours:
        say("listing the catalogue and building its graph")
        ours.tell("load")
        ours.tell("rate", per_s=CHANGES_PER_S)
        beside, reads = _reads_beside(ours, scale, say)
        judged = ours.tell("judged")
        ours.tell("rate", per_s=0)  # a slow machine would else never be done folding
        ours.tell("settle")
        compared = _side_by_side(source, ours, scale, seed, say)
    return {
        "reads_beside": {**reads, "recall_at_50": judged["recall_at_50"], "found_in_short_runs": beside},
        "side_by_side": compared,
    }


def measure_overdriven(scale: ChurnScale, seed: int, say: Say) -> dict[str, Any]:
    """``{"overdriven": …}``: recovery after more queries than it can answer."""
    with living(scale, seed) as ours:
        say("listing the catalogue and building its graph")
        ours.tell("load")
        ours.tell("mark")
        ours.tell("rate", per_s=CHANGES_PER_S)
        bursts = []
        for number in range(round(scale.overdriven_s / _BURST_S)):
            trial = ours.trial(_OVERDRIVEN_RPS, _BURST_S, behind_s=_DRAIN_S)
            bursts.append({**as_plain(trial), **_delta_and_widths(ours)})
            say(f"{_OVERDRIVEN_RPS:,} reads/s, {_BURST_S:g} s, burst {number + 1}: {_told(trial)}; {bursts[-1]}")
        most = ours.tell("state")["delta_rows_max"]
        after = None
        for second in range(_RECOVERY_S):
            trial = ours.trial(_SUSTAINED_RPS, 1.0, behind_s=_BEHIND_S)
            say(f"then {_SUSTAINED_RPS:,} reads/s: {_told(trial)}")
            if trial.within(BOUNDS_MS["must"]):
                after = second
                break
        end = _delta_and_widths(ours)
    return {"overdriven": {"delta_rows_max": most, "recovered_after_s": after, "bursts": bursts, "end": end}}


def measure_memory(scale: ChurnScale, seed: int, say: Say) -> dict[str, Any]:
    """``{"mib_per_100k": …}`` of 128 dimensions: the index alone, the catalogue's own data, the whole process."""
    say("memory of the catalogue without an index")
    with living(scale, seed) as ours:
        data = ours.tell("catalogue_alone", items=scale.items)["catalogue"]
    say("memory at rest and while a third is replaced, 128 dimensions")
    with living(scale, seed) as ours:
        whole = ours.tell("memory", seed=seed, items=scale.items, dimension=128)
    of_100k = 100_000 / scale.items
    alone = {name: round((whole[name] - data) * of_100k, 1) for name in ("steady", "folding")}
    return {"mib_per_100k": {**alone, "catalogue": round(data * of_100k, 1), "whole": whole}}


def measure_filter(scale: ChurnScale, seed: int, say: Say) -> dict[str, Any]:
    """``{"filter_5pct_extra_ms": …, "build_s": …}``."""
    say("a build, and a filter that 5 % pass")
    with living(scale, seed) as ours:
        found = ours.tell("filtered", seed=seed, items=scale.items, dimension=DIMENSION)
    more = {name: found[name] for name in ("recall_at_50", "beside_500_per_s")}
    return {"build_s": found["build_s"], "filter_5pct_extra_ms": {**(found["extra"] or {"p99": None}), **more}}


def _delta_and_widths(ours: Asked) -> dict[str, Any]:
    state = ours.tell("state")
    return {"delta_rows": state["delta_rows"], "lag": state["lag"], "widths": state["widths"]}


@contextmanager
def living(scale: ChurnScale, seed: int) -> Iterator[Asked]:
    """The index under test, ready for commands."""
    words = [sys.executable, "-m", "benchmarks.index.living", "--seed", str(seed), "--items", str(scale.items)]
    with Asked([*words, "--users", str(_USERS)], _USERS) as asked:
        yield asked


def _reads_beside(ours: Asked, scale: ChurnScale, say: Say) -> tuple[dict[str, float | None], dict[str, Any]]:
    """The highest rate within each bound: sought in short runs, confirmed by a long one that a build falls into."""
    found: dict[str, float | None] = {}
    confirmed: dict[str, Trial | None] = {}
    for name, bound_ms in BOUNDS_MS.items():
        rate = found[name] = highest(ours, bound_ms, _FIRST["ours"], scale.trial_s, say)
        confirmed[name] = None
        for share in _SHARES if rate else ():
            trial = ours.trial((rate or 0.0) * share, scale.confirm_s, behind_s=_BEHIND_S)
            now = ours.tell("state")
            widths = f"{now['widths']['of_50']} wide"
            say(f"for {scale.confirm_s:g} s: {_told(trial)}; now {now['delta_rows']:,} in the delta, {widths}")
            if trial.within(bound_ms):
                confirmed[name] = trial
                break
    must, goal = as_plain(confirmed["must"]), as_plain(confirmed["goal"])
    return found, {**must, "at_goal": goal}


def highest(asked: Asked, bound_ms: float, first: float, seconds: float, say: Say) -> float | None:
    """The highest rate whose p99 is within the bound in one of two short runs."""

    def passes(rate: float) -> bool:
        trials: list[Trial] = []
        while len(trials) < _TRIES and not (trials and trials[-1].within(bound_ms)):
            trials.append(asked.trial(rate, seconds))
        told = ", ".join(f"{trial.p99_ms:.1f}" for trial in trials)
        say(f"{rate:,.0f} reads/s, p99 within {bound_ms:g} ms? {told} ms")
        return trials[-1].within(bound_ms)

    return highest_passing(passes, first=first, precision=0.12, most_trials=8)


def _told(trial: Trial) -> str:
    times = f"p50 {trial.p50_ms:.1f}, p99 {trial.p99_ms:.1f} ms"
    return f"{trial.per_s:,.0f} reads/s, {times}, {trial.building:.0%} in a build"


def _replace_everything(ours: Asked, scale: ChurnScale, say: Say) -> Trial:
    """Ask at a steady rate until as much was replaced as should be, and for long enough that a graph is built."""
    ours.tell("mark")  # the delta of loading says nothing of the delta at this rate
    ours.tell("rate", per_s=CHANGES_PER_S)
    seconds = max(scale.steady_s, scale.replaced * scale.items / CHANGES_PER_S)
    say(f"{_BESIDE_RPS} reads/s for {seconds:.0f} s, in which {CHANGES_PER_S} items a second are replaced")
    return ours.trial(_BESIDE_RPS, seconds, behind_s=_DRAIN_S)


def _side_by_side(source: TowerVectors, ours: Asked, scale: ChurnScale, seed: int, say: Say) -> dict[str, Any]:
    """Highest rates with p99 within 5 ms beside 500 changes/s, in turn: ours, hnswlib under one lock, faiss flat."""
    folder = BUILD / "bench-index" / "plain"
    changes = _write_changes(folder, source, scale, seed)
    words = [*peers_command(), "--folder", str(folder), "--beside"]
    rates: dict[str, list[float]] = {name: [] for name in ("ours", *_RULES)}
    with ExitStack() as open_ones:
        sides = {"ours": ours} | {kind: open_ones.enter_context(Asked([*words, kind], _USERS)) for kind in _RULES}
        say("hnswlib under one lock takes in the same changes")
        built = {kind: sides[kind].tell("rate", per_s=0)["said"] for kind in _RULES}
        for kind in _RULES:
            sides[kind].tell("advance", count=scale.items)
        for _ in range(scale.alternations):
            for name, side in sides.items():
                side.tell("rate", per_s=CHANGES_PER_S)
                first = rates[name][-1] if rates[name] and rates[name][-1] else _FIRST[name]
                say(f"side by side: {name}")
                rates[name].append(highest(side, BOUNDS_MS["goal"], first, scale.side_s, say) or 0.0)
                side.tell("rate", per_s=0)
        recalls = {kind: _recall(changes, source, sides[kind].tell("samples")["said"]) for kind in _RULES}
    ours.tell("judged")
    return {
        "bound_ms": BOUNDS_MS["goal"],
        "rps": {name: [round(rate) for rate in found] for name, found in rates.items()},
        "ours_over": {kind: ratios(rates["ours"], rates[kind]) for kind in _RULES},
        "recall_at_50": recalls,
        "locked_width": built["locked"]["width"],
    }


def _write_changes(folder: Path, source: TowerVectors, scale: ChurnScale, seed: int) -> Changes:
    folder.mkdir(parents=True, exist_ok=True)
    changes = Changes(source, seed, scale.items, DIMENSION)
    np.save(folder / "queries.npy", source.queries(_USERS))
    for number in range(3):
        order, vectors = changes.cycle(number)
        np.save(folder / f"order-{number}.npy", order)
        np.save(folder / f"vectors-{number}.npy", vectors)
    return changes


def _recall(changes: Changes, source: TowerVectors, samples: list[tuple[int, int, list[int]]]) -> float | None:
    if not samples:
        return None
    answers = [ReplayAnswer(change, query, {K: found}) for change, query, found in samples]
    return round(statistics.fmean(judge(changes, source.queries(_USERS), answers)[K]), 4)


def ratios(ours: list[float], theirs: list[float]) -> dict[str, float | None]:
    """Ours over theirs, turn by turn: median, lowest and highest; ``None`` where theirs never passed."""
    each = [mine / other for mine, other in zip(ours, theirs, strict=True) if other]
    if not each:
        return {"median": None, "low": None, "high": None}
    return {
        "median": round(statistics.median(each), 2),
        "low": round(min(each), 2),
        "high": round(max(each), 2),
    }
