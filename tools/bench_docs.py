"""``python -m tools.bench_docs``: the table of docs/benchmarks.md, from one whole run of ``make bench``.

It takes ``build/bench.json``, which keeps what earlier runs measured, only if every measurement in it is of the same
commit and that commit was clean; the results are then kept as ``docs/results/bench.json``, and a test compares the page
with them. So no table can mix the figures of two trees.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.__main__ import MEASUREMENTS
from benchmarks.results import amount
from benchmarks.targets import TARGETS
from local.layout import BUILD, ROOT
from nearline.errors import Misconfigured

RESULTS = ROOT / "docs" / "results" / "bench.json"
PAGE = ROOT / "docs" / "benchmarks.md"
_BEGIN, _END = "<!-- written by tools.bench_docs -->", "<!-- until here -->"
NOT_RUN = "The whole bench has not been run on this tree yet."
_MARKS = {"goal": "goal", "must": "must", "missed": "**missed**"}


def check(results: Mapping[str, Any]) -> str:
    """The one commit of all *results*; ``Misconfigured`` if they are not of a whole run of one clean commit."""
    if results.get("quick"):
        raise Misconfigured("the results are of a quick run, whose figures mean nothing: run make bench")
    taken = results.get("taken", {})
    missing = [name for name in MEASUREMENTS if name not in taken]
    if missing:
        raise Misconfigured(f"not measured: {', '.join(missing)}; run make bench")
    of_commit: dict[str, list[str]] = {}
    for name in MEASUREMENTS:
        of_commit.setdefault(taken[name]["commit"], []).append(name)
    if len(of_commit) > 1:
        told = "; ".join(f"{commit[:9]}: {', '.join(names)}" for commit, names in of_commit.items())
        raise Misconfigured(f"one table has the figures of one commit, these are of {len(of_commit)} ({told})")
    (commit,) = of_commit
    if not commit or commit.endswith("+"):
        raise Misconfigured(f"the results are of {commit[:9] or 'no commit'} with changes: commit them, run make bench")
    return commit


def section(results: Mapping[str, Any]) -> str:
    """The page's section: how the figures were taken, and each beside its bounds."""
    commit = check(results)
    taken = results["taken"]["sustained"]
    machine = taken["machine"]
    others = max(max(each["others_cores"].values()) for each in results["taken"].values())
    floors = [floor["1000"] for each in results["taken"].values() for floor in each["empty_answer_p99_ms"]]
    lines = [
        f"{taken['date'][:10]}, `make bench` at commit {commit[:7]}, {machine['cores']} cores "
        f"({machine['processor']}), {machine['memory_gib']} GiB,",
        f"Python {machine['python']}, seed {taken['seed']}; other programs used at most",
        f"{others:.2f} cores, an empty server's p99 at 1,000/s was {min(floors):.1f} to {max(floors):.1f} ms. One run: "
        "with so few cores, differences under a tenth are noise.",
        "",
        "| figure | measured | must | goal | met |",
        "|---|---|---|---|---|",
    ]
    for target in TARGETS:
        figures = (amount(target, value) for value in (target.measured(results), target.must, target.goal))
        verdict = target.verdict(results)
        lines.append(f"| {target.figure} | {' | '.join(figures)} | {_MARKS.get(verdict, verdict)} |")
    return "\n".join([*lines, "", *_processes(results)])


def _processes(results: Mapping[str, Any]) -> list[str]:
    """A row for each process: its memory, and what it computes for a click."""
    memory, click = results.get("rss_mib", {}), results.get("cpu_us_per_click", {})
    rows = [
        f"| {name} | {memory.get(name, 0):,.0f} | {click.get(name, 0):,} |"
        for name in sorted(memory.keys() | click.keys(), key=lambda name: -memory.get(name, 0))
        if name != "total"
    ]
    return ["| process | PSS, MiB | processor time a click at 500/s, us |", "|---|---|---|", *rows]


def with_section(page: str, text: str) -> str:
    """The *page* with *text* between its two marks."""
    begin, rest = page.split(_BEGIN, 1)
    return f"{begin}{_BEGIN}\n\n{text}\n\n{_END}{rest.split(_END, 1)[1]}"


def main() -> None:
    """Keep the results of ``build/bench.json`` and write the page."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else BUILD / "bench.json"
    try:
        results = json.loads(source.read_text())
        text = section(results)
    except (OSError, Misconfigured) as problem:
        sys.exit(f"bench_docs: {problem}")
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(with_section(PAGE.read_text(), text))


if __name__ == "__main__":
    main()
