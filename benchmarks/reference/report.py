"""The tables that people read after the rounds."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from benchmarks.floor import RATES
from benchmarks.reference.figures import RatioRow, Round


def table_of(found: Sequence[RatioRow], that: str) -> Table:
    """A row for each figure: both trees' medians, their ratio with its interval, and the verdict."""
    intervals = [row.ratio for row in found if row.ratio is not None]
    count, coverage = (intervals[0].rounds, intervals[0].interval.coverage) if intervals else (0, 0.0)
    table = Table(title=f"This tree beside {that}: {count} rounds; an interval covers the median with {coverage:.0%}")
    for name in ("measurement", "of", "unit"):
        table.add_column(name, no_wrap=True)
    for name in ("this", that, "this / that", "interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("costs", no_wrap=True)
    measurement = ""
    for row in found:
        if row.figure.measurement != measurement:
            table.add_section()
        shown = row.figure.measurement if row.figure.measurement != measurement else ""
        measurement = row.figure.measurement
        table.add_row(shown, *_cells(row), style="red" if row.verdict == "MORE" else None)
    return table


def _cells(row: RatioRow) -> Iterator[str]:
    yield from (row.figure.name, row.figure.unit, _amount(row.this), _amount(row.that))
    if row.ratio is None:
        yield from ("-", "")
    else:
        interval = row.ratio.interval
        yield from (f"{row.ratio.median:.3f}", f"{interval.low:.3f} - {interval.high:.3f}")
    yield row.verdict


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def floors_table(rounds: Sequence[Round]) -> Table:
    """What the machine was like in each round: an empty server's p99, and what others used."""
    table = Table(title="The machine in each round")
    table.add_column("round", justify="right")
    for rate in RATES:
        table.add_column(f"empty server's p99 at {rate:,}/s, before and after, ms", justify="right")
    table.add_column("others' cores", justify="right")
    for number, one in enumerate(rounds, 1):
        floors = [", ".join(f"{floor[str(rate)]:.1f}" for floor in one.floors) for rate in RATES]
        table.add_row(str(number), *floors, f"{one.others_cores:.2f}")
    return table
