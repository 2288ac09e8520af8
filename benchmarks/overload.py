"""Measures retrieval at twice its capacity: how fast refusals come, and how little served requests are delayed."""

from typing import Any

import psutil

from benchmarks.load import Result, closed_loop, open_loop
from benchmarks.rates import answered
from benchmarks.recommend import reads
from benchmarks.stage import LoadedSystem

_ASKING = 4  # connections of the closed loop: enough to keep one thread busy, too few to be refused
_CONNECTIONS = 512  # of the open loop: requests wait at the server, not in the generator
_STEADY, _OVERLOAD = 0.7, 2.0  # of the capacity
_MIB = 1024 * 1024


def measure(stage: LoadedSystem) -> dict[str, Any]:
    """``{"overload": …}``: capacity, the same requests at 70 % of it, then twice at double of it."""
    stage.probe.settle(stage.item_of_probe(0))
    url, requests = reads(stage)
    process = psutil.Process(stage.system.supervisor.pid_of("retrieval"))
    seconds = stage.scale.confirm_s
    stage.say("reads as fast as answers come")
    capacity = answered(closed_loop(url, requests, seconds, _ASKING)).achieved_rps

    def offered(share: float) -> tuple[Result, float]:
        stage.say(f"{share * capacity:,.0f} reads/s, {share:g} of the capacity")
        return open_loop(url, requests, share * capacity, seconds, _CONNECTIONS), process.memory_info().rss / _MIB

    # The second overload needs what the first needed, unless something grows as long as it lasts.
    (steady, before), (_, first), (over, second) = (offered(share) for share in (_STEADY, _OVERLOAD, _OVERLOAD))
    return {"overload": figures(capacity, steady, over, [before, first, second])}


def figures(capacity: float, steady: Result, over: Result, memory_mib: list[float]) -> dict[str, Any]:
    """The runs' figures; the refusals' wait is ``None`` if none was refused, the served ones' if all were."""
    ratio = over.p99_ms / steady.p99_ms if over.answered and steady.answered else None
    waits = {"p50": over.refused_p50_ms, "p99": over.refused_p99_ms}
    return {
        "capacity_rps": round(capacity),
        "offered_rps": round(over.wanted_rps),
        "kept_rps": round(over.achieved_rps),
        "kept_degraded_share": round(over.degraded / over.answered, 4) if over.answered else None,
        "kept_p99_ms": round(over.p99_ms, 2) if over.answered else None,
        "steady_p99_ms": round(steady.p99_ms, 2) if steady.answered else None,
        "kept_over_steady_p99": None if ratio is None else round(ratio, 2),
        "shed_share": round(over.refused / max(1, over.refused + over.answered + over.errors), 4),
        "shed_ms": {name: round(ms, 2) if over.refused else None for name, ms in waits.items()},
        "errors": steady.errors + over.errors,
        "memory_mib": [round(mib, 1) for mib in memory_mib],
        "memory_growth_mib": round(memory_mib[-1] - memory_mib[0], 1),
        "generator_cpu": round(over.load_cpu, 2),
        "generator_late_p99_ms": round(over.late_p99_ms, 2),
    }
