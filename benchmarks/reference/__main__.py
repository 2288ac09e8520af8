"""``python -m benchmarks.reference COMMIT``: this tree beside another commit; tables, and ``build/bench-ref.json``.

Both systems run at the same time on their own ports and data, each started by its own code; this tree's load generator
and probe use them in turn. The order changes with every round, so that drift affects both alike. The main comparison is
of processor time: docs/benchmarks.md.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.about import about, load_average
from benchmarks.floor import floor_server
from benchmarks.reference.figures import Round, as_plain, important, rows
from benchmarks.reference.report import floors_table, table_of
from benchmarks.reference.rounds import MEASUREMENTS, QUICK, RoundScale, prepare, taken_in_turn
from benchmarks.reference.running import running
from benchmarks.reference.trees import commit_of, this_tree, tree_of
from benchmarks.results import measurements_named
from local.layout import BUILD
from local.system import interrupt_on_sigterm
from nearline.errors import NearlineError

_FLOOR_S = 2.0  # a rate
_WIDTH = 150  # where there is no terminal that says how wide it is
console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)


def say(line: str) -> None:
    """A line of progress, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def compare(reference: str, names: Sequence[str], scale: RoundScale, seed: int, count: int) -> Iterator[Round]:
    """Run both systems and give one round after the other; no process is left at the end."""
    with ExitStack() as opened:
        floor = opened.enter_context(floor_server(_FLOOR_S))
        both = []
        for tree in (this_tree(), tree_of(reference, say)):
            system = opened.enter_context(running(tree, say))
            prepare(system, names, scale, seed, say)
            both.append(system)
        for number in range(count):
            say(f"round {number + 1} of {count}")
            yield taken_in_turn(both, number, names, scale, seed, floor)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reference", description=__doc__.partition("\n")[0])
    parser.add_argument("commit", help="what to compare with: anything that git knows as a commit")
    parser.add_argument("--rounds", type=int, default=5)
    named = partial(measurements_named, known=MEASUREMENTS)
    parser.add_argument("--only", type=named, default=list(MEASUREMENTS), help=f"of {','.join(MEASUREMENTS)}")
    parser.add_argument("--quick", action="store_true", help="small and short: shows differences of a third and more")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=BUILD / "bench-ref.json")
    return parser.parse_args()


def main() -> None:
    """Compare, write the JSON, print the tables."""
    given = arguments()
    interrupt_on_sigterm()
    scale, rounds, load = QUICK if given.quick else RoundScale(), list[Round](), load_average()
    facts = about(given.seed, command=" ".join(["python -m benchmarks.reference", *sys.argv[1:]]))
    try:
        that = commit_of(given.commit)
        for one in compare(given.commit, given.only, scale, given.seed, given.rounds):
            rounds.append(one)
    except NearlineError as problem:
        sys.exit(f"bench: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
    found = {"that": that, "quick": given.quick, **facts, "load_average": [load, load_average()], **as_plain(rounds)}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=2) + "\n")
    console.print(table_of(important(rows(rounds)), that[:7]))
    console.print(floors_table(rounds))
    console.print(f"everything measured: {given.out}")


if __name__ == "__main__":
    main()
