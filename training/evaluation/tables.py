"""Reports as tables for people."""

import io
from collections.abc import Mapping, Sequence

from rich.console import Console, RenderableType
from rich.table import Table

from training.evaluation.bootstrap import Figure
from training.evaluation.evaluate import ALL, NEW, Report
from training.evaluation.slices import Slice

_SETTING_ORDER = (NEW, ALL)
_WIDTH = 180


def metric_table(reports: Mapping[str, Report], title: str = "") -> Table:
    """One row for each model: every metric of every setting, recall and NDCG of new items with their intervals."""
    question = next(iter(reports.values())).question
    settings = [name for name in _SETTING_ORDER if name in question.settings]
    users = ", ".join(f"{name} items: {_any(reports).settings[name].users:,} users" for name in settings)
    table = Table(title=title or None, caption=f"{users}; brackets: 95 % interval over users", title_justify="left")
    table.add_column("model", no_wrap=True)
    for name in settings:
        for metric in (f"recall@{question.k}", f"NDCG@{question.k}"):
            table.add_column(f"{metric} {name}", justify="right")
    for name in ("MAP", "MRR", "coverage", "novelty", "Gini"):
        table.add_column(name, justify="right")
    for model, report in reports.items():
        table.add_row(model, *_row(report, settings))
    return table


def _any(reports: Mapping[str, Report]) -> Report:
    return next(iter(reports.values()))


def _row(report: Report, settings: Sequence[str]) -> list[str]:
    first = report.settings[settings[0]]
    cells = [
        _with_interval(figures[metric]) if name == settings[0] else f"{figures[metric].mean:.4f}"
        for name in settings
        for figures in [report.settings[name].figures]
        for metric in ("recall", "ndcg")
    ]
    cells += [f"{first.figures[metric].mean:.4f}" for metric in ("map", "mrr")]
    return [*cells, f"{first.coverage:.3f}", f"{first.novelty:.2f}", f"{first.gini:.3f}"]


def _with_interval(figure: Figure) -> str:
    return f"{figure.mean:.4f} [{figure.low:.4f}, {figure.high:.4f}]"


def slice_table(reports: Mapping[str, Report], part: str, metric: str, title: str = "") -> Table:
    """One row for each model, one column for each slice of *part* (``by_history`` …), *metric* in the cells."""
    of: Mapping[str, Sequence[Slice]] = {model: getattr(report, part) for model, report in reports.items()}
    first = next(iter(of.values()))
    size = "targets" if part == "by_popularity" else "users"
    table = Table(title=title or None, title_justify="left")
    table.add_column(f"{metric} ({size})", no_wrap=True)
    for each in first:
        count = each.figures["targets"] if size == "targets" else each.users
        table.add_column(f"{each.label} ({count:,.0f})", justify="right")
    for model, found in of.items():
        table.add_row(model, *(f"{each.figures[metric]:.4f}" for each in found))
    return table


def all_tables(reports: Mapping[str, Report], title: str = "") -> list[RenderableType]:
    """The metrics, the slices by popularity and history, and by group with the largest gap where groups were asked."""
    tables: list[RenderableType] = [
        metric_table(reports, title),
        slice_table(
            reports, "by_popularity", "found", "Share of the targets found, by tenth of the items (1 = most bought)"
        ),
        slice_table(reports, "by_history", "recall", "Recall by the number of earlier events"),
    ]
    if _any(reports).by_group:
        tables.append(slice_table(reports, "by_group", "recall", "Recall by group of users"))
    tables += [f"{model}: {report.largest_gap}" for model, report in reports.items() if report.largest_gap]
    return tables


def wide_console() -> Console:
    """A console as wide as the terminal, or as the widest table where the output is a file."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def as_text(tables: Sequence[RenderableType], width: int = _WIDTH) -> str:
    """The tables as plain text for a log or a file."""
    page = io.StringIO()
    console = Console(file=page, width=width)
    for table in tables:
        console.print(table)
    return page.getvalue()
