"""Measures the memory of every process, and the processor time per click at a steady 500 a second."""

import time
from collections.abc import Mapping
from typing import Any

import psutil

from benchmarks.recommend import LOAD_PER_S
from benchmarks.stage import UNTIL_STOPPED_S, LoadedSystem
from local.processes import processes_of
from local.system import System

_LEAD_S = 5.0
_MIB = 1024 * 1024
GENERATOR = "click load (not of the system)"


def measure(stage: LoadedSystem) -> dict[str, Any]:
    """``{"rss_mib", "cpu_us_per_click", "cpu_idle_share"}``; a click's cost has the idle cost taken off."""
    idle = _idle_shares(stage)
    stage.say(f"processor time at {LOAD_PER_S} clicks/s")
    with stage.steady_load(LOAD_PER_S, UNTIL_STOPPED_S) as load:
        time.sleep(_LEAD_S)
        names = named_processes(stage.system) | {load.pid: GENERATOR}
        shares = _cpu_shares(names, stage.scale.steady_s)
        memory = _memory_mib(named_processes(stage.system))
        load.stop()
    whole = {name: share * 1e6 / LOAD_PER_S for name, share in shares.items()}
    return {
        "rss_mib": memory | {"total": round(sum(memory.values()), 1)},
        "cpu_us_per_click": {name: round(us - idle.get(name, 0.0) * 1e6 / LOAD_PER_S) for name, us in whole.items()},
        "cpu_us_per_click_with_idle": {name: round(us) for name, us in whole.items()},
        "cpu_idle_share": {name: round(share, 3) for name, share in idle.items()},
    }


def _idle_shares(stage: LoadedSystem) -> Mapping[str, float]:
    stage.say("processor time with no clicks")
    stage.probe.settle(stage.item_of_probe(0))
    time.sleep(_LEAD_S)
    return _cpu_shares(named_processes(stage.system), stage.scale.steady_s)


def named_processes(system: System) -> dict[int, str]:
    """Every process of *system* by what it is: the part's name, and for what the part started, that beside it."""
    names = dict.fromkeys(processes_of(system.data), "supervisord")
    for part in system.parts():
        pid = system.supervisor.pid_of(part.name)
        names[pid] = part.name
        names |= {child.pid: f"{part.name}: {child.name()}" for child in psutil.Process(pid).children(recursive=True)}
    return names


def _cpu_shares(names: Mapping[int, str], seconds: float) -> dict[str, float]:
    """Cores that each name used over the next *seconds*, user and system time."""
    processes = {pid: psutil.Process(pid) for pid in names}
    before = {pid: _cpu_s(process) for pid, process in processes.items()}
    started = time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - started
    shares = dict.fromkeys(names.values(), 0.0)
    for pid, process in processes.items():
        shares[names[pid]] += (_cpu_s(process) - before[pid]) / took
    return shares


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _memory_mib(names: Mapping[int, str]) -> dict[str, float]:
    """Proportional set size of each name: a page that several share is counted once in all."""
    memory = dict.fromkeys(names.values(), 0.0)
    for pid, name in names.items():
        memory[name] += psutil.Process(pid).memory_full_info().pss / _MIB
    return {name: round(mib, 1) for name, mib in memory.items()}
