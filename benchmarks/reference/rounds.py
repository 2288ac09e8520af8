"""The measurements of two trees in turn: clicks, a backlog of them, answers."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from benchmarks.floor import Floor
from benchmarks.load import Result, get, open_loop
from benchmarks.neighbours import watch
from benchmarks.rates import answered
from benchmarks.reference.figures import Costs, CostsTaken, Round, figures_of
from benchmarks.reference.processor_time import used_s
from benchmarks.reference.running import Running
from benchmarks.stage import await_items, list_items
from benchmarks.sustained import held_still
from benchmarks.synthetic_items import bench_items
from benchmarks.traffic import Sent, at_rate, flat_out, item_id, load, user_id
from local.system import Say
from nearline.errors import Unavailable

K = 50
_CLICKS_EACH = 5  # of every user, before anything is measured
_LAST_CLICKS_S = 1.0  # the last clicks of a load are stored vectors by then, or the tree did not keep up
_ASK_EVERY_S = 0.05  # while a backlog is worked off: asking costs the processors that are measured
_ASKERS = 2_000
_REST_S = 5.0  # how long a tree alone is watched at rest


@dataclass(frozen=True, slots=True)
class RoundScale:
    """How much is asked of each tree; ``quick`` is for trying it and for differences of a third and more."""

    items: int = 20_000
    users: int = 5_000
    clicks_per_s: float = 300.0
    clicks_s: float = 15.0
    backlog: int = 12_000
    answers_per_s: float = 200.0
    answers_s: float = 15.0


QUICK = RoundScale(items=3_000, users=500, clicks_s=5, backlog=6_000, answers_s=5)


@contextmanager
def costs(tree: Running) -> Iterator[Costs]:
    """What the parts of *tree* compute while the block runs; ``Unavailable`` if one of them was started anew."""
    parts, found = tree.parts(), Costs()
    before, started = used_s(parts), time.perf_counter()
    yield found
    after, found.took_s = used_s(parts), time.perf_counter() - started
    if tree.parts() != parts:
        raise Unavailable(f"a part of {tree.name} was started anew while it was measured")
    found.used_s = {name: after[name] - before[name] for name in parts}


def clicks(tree: Running, scale: RoundScale, seed: int) -> CostsTaken:
    """Clicks at a steady rate, and how far behind the tree was at the end."""
    with costs(tree) as spent:
        with load(tree.kafka, _at_rate(scale, seed)) as running:
            sent = running.finish()
        time.sleep(_LAST_CLICKS_S)
    lag_s = tree.probe.settle(_item(scale, seed))
    return CostsTaken(spent, "click", sent.clicks, {("lag at the end", "s"): lag_s})


def backlog(tree: Running, scale: RoundScale, seed: int) -> CostsTaken:
    """Clicks that come while the job is held still, and how fast they are worked off afterwards."""
    with costs(tree) as spent:
        with held_still(tree.parts()["last_n"]):
            sent = _flood(tree, scale, seed + 1_000)
        took_s = tree.probe.settle(_item(scale, seed), every_s=_ASK_EVERY_S)
    return CostsTaken(spent, "click", sent.clicks, {("worked off", "clicks/s"): sent.clicks / took_s})


def answers(tree: Running, scale: RoundScale, seed: int) -> CostsTaken:
    """GET /recommend at a steady rate: its latencies, and what was not answered in full."""
    with costs(tree) as spent:
        result = _ask(tree, scale, seed)
    incomplete = result.refused + result.errors + result.degraded
    times = {("p50", "ms"): result.p50_ms, ("p99", "ms"): result.p99_ms}
    return CostsTaken(spent, "answer", result.answered, {**times, ("refused, failed or degraded", ""): incomplete})


MEASUREMENTS: Mapping[str, Callable[[Running, RoundScale, int], CostsTaken]] = {
    "clicks": clicks,
    "backlog": backlog,
    "answers": answers,
}


def prepare(tree: Running, names: Iterable[str], scale: RoundScale, seed: int, say: Say) -> None:
    """List the catalogue, give every user a history, and take each measurement once, uncounted.

    By then the JVMs have compiled what runs often.
    """
    list_items(tree.probe, bench_items(scale.items, seed), say)
    await_items(tree.ports, scale.items, say)
    say(f"{tree.name}: {_CLICKS_EACH} clicks of each of {scale.users:,} users")
    _flood(tree, scale, seed, in_turn=True)
    tree.probe.settle(_item(scale, seed))
    for name in names:
        say(f"{tree.name}: {name}, not counted")
        MEASUREMENTS[name](tree, scale, seed)


def taken_in_turn(
    both: Sequence[Running], number: int, names: Sequence[str], scale: RoundScale, seed: int, floor: Callable[[], Floor]
) -> Round:
    """Round *number*: each measurement of the one tree and at once of the other, so that both meet the same machine.

    Which of them is first changes with every measurement and every round.
    """
    others, floors = watch(), [floor()]
    taken: list[dict[str, CostsTaken]] = [{}, {}]
    resting = [Costs(), Costs()]
    for place, name in enumerate(names):
        for mine in (0, 1) if (number + place) % 2 == 0 else (1, 0):
            with costs(both[1 - mine]) as rest:
                taken[mine][name] = MEASUREMENTS[name](both[mine], scale, seed + number)
            resting[1 - mine].add(rest)
    floors.append(floor())
    this, that = (figures_of(*one) for one in zip(taken, resting, strict=True))
    return Round(this, that, floors, others())


def taken_alone(
    tree: Running, names: Sequence[str], scale: RoundScale, seed: int
) -> tuple[dict[str, CostsTaken], Costs]:
    """Each measurement of *tree* once, and what it uses at rest; no other tree runs."""
    with costs(tree) as resting:
        time.sleep(_REST_S)
    return {name: MEASUREMENTS[name](tree, scale, seed) for name in names}, resting


def _item(scale: RoundScale, number: int) -> str:
    return item_id((number * 7_919) % scale.items)


def _at_rate(scale: RoundScale, seed: int) -> list[str]:
    return at_rate(scale.clicks_per_s, scale.clicks_s, users=scale.users, items=scale.items, seed=seed)


def _flood(tree: Running, scale: RoundScale, seed: int, *, in_turn: bool = False) -> Sent:
    count = _CLICKS_EACH * scale.users if in_turn else scale.backlog
    options = flat_out(count, users=scale.users, items=scale.items, seed=seed, in_turn=in_turn)
    with load(tree.kafka, options) as running:
        return running.finish()


def _ask(tree: Running, scale: RoundScale, seed: int) -> Result:
    """Ask for the recommendations of many users in a seeded order."""
    users = np.random.default_rng(seed).permutation(min(_ASKERS, scale.users)).tolist()
    urls = [f"{tree.retrieval}/recommend/{user_id(number)}?k={K}" for number in users]
    requests = [get(url, tree.key) for url in urls]
    return answered(open_loop(urls[0], requests, scale.answers_per_s, scale.answers_s))
