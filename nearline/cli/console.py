"""The command line's consoles and progress bars."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(highlight=False, soft_wrap=True)
_errors = Console(stderr=True, highlight=False, soft_wrap=True)


def say_error(error: Exception) -> None:
    """Print *error* as one line on stderr."""
    _errors.print(f"[red]nearline:[/red] {type(error).__name__}:", end=" ")
    _errors.print(str(error), markup=False)


def progress() -> Progress:
    """A progress bar with counts, rate and remaining time; nothing is drawn without a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
    )


def bar(bars: Progress, what: str, total: int | None = None) -> Callable[[int], None]:
    """Add a bar for *what* to *bars*; call the result with how many of *total* are done."""
    task = bars.add_task(what, total=total, rate="")
    started = time.monotonic()

    def show(count: int) -> None:
        bars.update(task, completed=count, rate=f"{count / (time.monotonic() - started):,.0f}/s")

    return show
