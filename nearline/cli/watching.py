"""``nearline status --watch``: live figures on one screen, or one line per update without a terminal."""

import asyncio
import time
from collections.abc import Mapping

from rich.console import Group
from rich.live import Live
from rich.table import Table

from nearline.adapters.metrics_reader import MetricsReader
from nearline.cli.console import Terminal, styled
from nearline.live import Delay, LiveFigures, LiveWindow
from nearline.settings import Settings

FigureRow = tuple[str, str, str]  # name, value, details


async def watching(settings: Settings, console: Terminal, *, every_s: float, looks: int | None = None) -> None:
    """Show the figures of the last minute every *every_s* seconds, *looks* times or until cancelled."""
    window = LiveWindow()
    async with MetricsReader.of(settings) as metrics:
        with Live(console=console, auto_refresh=False, transient=False) as screen:
            done = 0
            while looks is None or done < looks:
                started = time.monotonic()
                figures = window.add(started, await metrics.read())
                if console.is_terminal:
                    screen.update(screen_of(figures), refresh=True)
                else:
                    console.print(line_of(figures))
                done += 1
                await asyncio.sleep(max(0.0, started + every_s - time.monotonic()))


def screen_of(figures: LiveFigures) -> Group:
    """The figures as a table, and the parts that are down."""
    table = Table("", "", "", box=None, show_header=False, pad_edge=False)
    for what, amount, rest in rows_of(figures):
        table.add_row(what, styled((amount, "bold")), styled((rest, "dim")))
    title = f"the last {figures.seconds:.0f} s; Ctrl-C ends this"
    down = [styled((f"no metrics of {', '.join(figures.down)}", "red"))] if figures.down else []
    return Group(styled((title, "dim")), table, *down)


def line_of(figures: LiveFigures) -> str:
    """The known figures on one line."""
    told = (f"{what}: {amount}" for what, amount, _ in rows_of(figures) if amount != "-")
    down = [f"no metrics: {', '.join(figures.down)}"] if figures.down else []
    return "; ".join([*told, *down])


def rows_of(figures: LiveFigures) -> list[FigureRow]:
    """The figures' rows, from a click to its answer; ``-`` for unknown."""
    stages = ", ".join(f"{stage} {_ms(delay.p50_s)}" for stage, delay in figures.stages.items())
    outcomes = ", ".join(f"{count:,.0f} {outcome}" for outcome, count in figures.canary_clicks.items() if count)
    recall = ", ".join(f"@{k} {share:.3f}" for k, share in sorted(figures.recall.items()))
    has_recall = bool(figures.recall_samples)
    items = "" if figures.index_items is None else f"{figures.index_items:,.0f} items"
    return [
        ("click to servable", _delay(figures.freshness), _of(figures.freshness, "real clicks", stages)),
        ("canary: click to answer", _delay(figures.canary), outcomes),
        ("clicks", _rate(figures.clicks_per_s), _and("by HTTP", _rate(figures.events_per_s))),
        ("answers", _rate(figures.answers_per_s), _delay(figures.answers)),
        ("answers not wholly personal", _share(figures.fallback_share), ""),
        ("lag", _counts(figures.lag), "records"),
        (
            "live recall",
            recall if has_recall else "-",
            f"of {figures.recall_samples:,.0f} queries" if has_recall else "",
        ),
        ("rows beside the graph", "-" if figures.delta_rows is None else f"{figures.delta_rows:,.0f}", items),
        ("cached users' documents", _share(figures.cache_hit_rate), "of reads"),
        ("dead letters", _counts(figures.dead_letters) if figures.dead_letters else "none", ""),
    ]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _delay(delay: Delay | None) -> str:
    return "-" if delay is None else f"{_ms(delay.p50_s)} (p50), {_ms(delay.p99_s)} (p99)"


def _of(delay: Delay | None, what: str, more: str) -> str:
    return "" if delay is None else f"{delay.count:,.0f} {what}; p50 of {more}"


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:,.1f}/s"


def _and(what: str, amount: str) -> str:
    return "" if amount == "-" else f"{what} {amount}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _counts(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {count:,.0f}" for name, count in counts.items()) or "-"
