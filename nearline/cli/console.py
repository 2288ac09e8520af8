"""The command line's consoles and progress bars.

Texts from outside (ids, titles, other programs' messages) are printed as they are: brackets are no markup, and nothing
in them acts on the terminal.
"""

import json
import re
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

# Controls but for tabs and line breaks, what changes the direction of text, invisible tags, and halves of characters.
_ACTING = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


def harmless(text: str) -> str:
    """*text* with every character that acts on a terminal, or hides text in it, as an escape: ``\\x1b``."""
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def styled(*parts: str | tuple[str, str]) -> Text:
    """*parts*, plain or with a style, as one text; what comes from outside is made harmless."""
    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((harmless(text), style) for text, style in pairs))


class Terminal(Console):
    """A console on which strings, also in tables, are printed as they are and act on nothing; ``styled`` has styles."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text of a string that is printed."""
        return super().render_str(harmless(text), **options)

    def say_json(self, data: object) -> None:
        """Print *data* as JSON, with colours on a terminal."""
        printed = json.dumps(data, indent=2, ensure_ascii=False)
        plain = _ACTING.sub(lambda found: json.dumps(found[0])[1:-1], printed)
        self.print(JSONHighlighter()(plain))


console = Terminal()
_errors = Terminal(stderr=True)


def say_error(error: Exception) -> None:
    """Print *error* as one line on stderr."""
    _errors.print(styled(("nearline:", "red"), f" {type(error).__name__}: {error}"))


def say(line: str, *, on_stderr: bool = False) -> None:
    """Print *line* as it is."""
    (_errors if on_stderr else console).print(line)


def progress() -> Progress:
    """A progress bar with counts, rate and remaining time; nothing is drawn without a terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
        console=console,
    )


def bar(bars: Progress, what: str, total: int | None = None) -> Callable[[int], None]:
    """Add a bar for *what* to *bars*; call the result with how many of *total* are done."""
    task = bars.add_task(harmless(what), total=total, rate="")
    started = time.monotonic()

    def show(count: int) -> None:
        bars.update(task, completed=count, rate=f"{count / (time.monotonic() - started):,.0f}/s")

    return show
