"""What commands print: texts from outside come as they are, and none of them acts on the terminal."""

import io
import json
import re
from types import SimpleNamespace
from typing import cast

import pytest
from rich.table import Table

from local.layout import ROOT
from nearline.cli.answers import answer_table, provenance
from nearline.cli.console import Terminal, bar, harmless, progress, styled
from nearline.cli.rules import comparison
from nearline.cli.users import _history
from nearline.cli.why import events_table
from nearline.erasure import Traces
from nearline.sequences import UserSequence

LINK = "\x1b]8;;https://evil.example\x1b\\here\x1b]8;;\x1b\\"
SHOWN_LINK = r"\x1b]8;;https://evil.example\x1b\here\x1b]8;;\x1b" + "\\"
HOSTILE = [
    ("[/bold]", "[/bold]"),
    ("[red]x[/red]", "[red]x[/red]"),
    ("i[/]1", "i[/]1"),
    (":heart:", ":heart:"),
    (LINK, SHOWN_LINK),
    ("\x1b[2J\x07\x08\r", r"\x1b[2J\x07\x08\r"),
    ("\x9b31m", r"\x9b31m"),
    ("abc\u202ecba", r"abc\u202ecba"),
    ("\ud800", r"\ud800"),
]
EVERY_TEXT = pytest.mark.parametrize(("text", "shown"), HOSTILE)


def printed(what: object) -> str:
    """What a terminal gets, without our own styles."""
    out = io.StringIO()
    terminal = Terminal(file=out, width=400, force_terminal=True, color_system=None)
    terminal.print(what)
    return out.getvalue()


@EVERY_TEXT
def test_a_text_from_outside_is_printed_and_acts_on_nothing(text: str, shown: str) -> None:
    table = Table(text, title=text)
    table.add_row(text)
    for what in (text, table, styled("a ", (text, "bold"))):
        out = printed(what)
        assert shown in out
        assert not set(out) & set("\x1b\x9b\x07\x08\r\u202e\ud800")


@EVERY_TEXT
def test_every_table_and_line_of_a_command_is_harmless(text: str, shown: str) -> None:
    sequence = UserSequence("u", 1, [text], [1], ["click"], [1.0], [text])
    item = {"item_id": text, "title": text, "category": text, "source": "personal", "score": 0.5}
    answer = {"items": [item], "space": 1, "source": text, "took_ms": 1, "degradations": [text]}
    for what in (
        _history(cast(Traces, SimpleNamespace(sequence=sequence))),
        events_table([{"moved": None, "event_id": text, "item_id": text, "type": "click"}], 3),
        answer_table(answer, text),
        provenance(answer),
        comparison(text, [item], [item, {**item, "item_id": "other"}]),
    ):
        out = printed(what)
        assert "\x1b" not in out
        if not isinstance(what, str):
            assert shown in out


@EVERY_TEXT
def test_json_stays_the_same_json(text: str, shown: str) -> None:
    out = io.StringIO()
    Terminal(file=out, width=20, force_terminal=True, color_system=None).say_json({"title": text, "é": ["ü" * 50]})
    assert json.loads(out.getvalue()) == {"title": text, "é": ["ü" * 50]}
    assert not set(out.getvalue()) & set("\x1b\x9b\x07\x08\r\u202e\ud800")
    assert "ü" * 50 in out.getvalue()


def test_line_breaks_tabs_and_any_writing_are_kept() -> None:
    assert harmless("a\tb\nc é 日本 עברית 👩‍👩‍👧") == "a\tb\nc é 日本 עברית 👩‍👩‍👧"


def test_a_style_of_ours_is_a_style() -> None:
    out = io.StringIO()
    Terminal(file=out, width=80, force_terminal=True, color_system="standard").print(styled(("up", "green"), " [dim]"))
    assert out.getvalue() == "\x1b[32mup\x1b[0m [dim]\n"


def test_a_bars_description_is_a_text_too() -> None:
    with progress() as bars:
        bar(bars, "[/bold]\x1b[2J")
        assert bars.tasks[0].description == r"[/bold]\x1b[2J"
        bars.refresh()


def test_commands_print_by_this_console_alone() -> None:
    others = re.compile(r"Console\(|[^.\w]Text\(|from_markup|markup=True|typer\.s?echo|[^.\w]print\(|print_json")
    commands = [*sorted((ROOT / "nearline" / "cli").glob("*.py")), ROOT / "local" / "demo.py"]
    found = {path.name: others.findall(path.read_text()) for path in commands if path.name != "console.py"}
    assert {name: pieces for name, pieces in found.items() if pieces} == {}
