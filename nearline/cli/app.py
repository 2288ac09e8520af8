"""The root of the command line; each command is in the file of its name, and only the one that runs is imported.

All of them together take two seconds to import, which a typo, ``--help`` and shell loops would pay too.
"""

import sys
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from nearline import __version__
from nearline.cli.console import console, say_error
from nearline.errors import Misconfigured, NearlineError


class CommandPlace(NamedTuple):
    """Where a command is, and its line in ``nearline --help``."""

    module: str
    name: str
    line: str


COMMANDS = {
    "click": CommandPlace(
        "clicks",
        "click",
        "Send one event of USER_ID on ITEM_ID to the log, and measure the time until an answer uses it.",
    ),
    "replay": CommandPlace(
        "clicks", "replay", "Send a recorded history to the log, with all times shifted so that its last event is now."
    ),
    "recommend": CommandPlace(
        "answers",
        "recommend",
        "Show the current recommendations for USER_ID and the clicks they used, or write all users' to a file.",
    ),
    "status": CommandPlace(
        "status", "status", "Show every part, its lag and its freshness; exit status 1 if something is down."
    ),
    "freshness-value": CommandPlace(
        "freshness_value",
        "freshness_value",
        "Replay the log in FOLDER with a lagging history, and print and plot what the lag costs.",
    ),
    "report": CommandPlace(
        "report", "report", "Show click-through and conversion of what was recommended, by source and scenario."
    ),
    "why": CommandPlace("why", "why", "Show why ITEM is or is not in the answer for USER, and which events moved it."),
    "export": CommandPlace(
        "exporting",
        "export",
        "Write events, items and users to Parquet in FOLDER, as `nearline import` and `make train DATA=` read them.",
    ),
    "init": CommandPlace(
        "init", "init", "Create every missing topic and correct settings that differ; safe to run again."
    ),
    "version": CommandPlace("app", "version", "Print the version."),
    "import": CommandPlace("importing", "app", "Import events, items and users; importing twice changes nothing."),
    "item": CommandPlace("item_commands", "app", "List, change and delete items."),
    "dlq": CommandPlace("dead_letters", "app", "Dead letters: refused input, with its bytes and the reason."),
    "job": CommandPlace("job", "app", "Save the state of the job last_n, and go back to a saved one."),
    "keys": CommandPlace("keys", "app", "Create, list and revoke the keys of the HTTP APIs."),
    "rules": CommandPlace("rules", "app", "Pin, boost, bury and block items, within time windows and in scenarios."),
    "user": CommandPlace("users", "app", "Show a user's data, and erase it."),
}


class LazyCommands(TyperGroup):
    """The commands in ``COMMANDS``: imported to run, and listed by their lines alone."""

    _is_listing = False

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]  # the names alone

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command *cmd_name*, or ``None``; while the help text is made a stand-in with its line."""
        place = COMMANDS.get(cmd_name)
        if place is None or not self._is_listing:
            return None if place is None else load(cmd_name)
        return TyperCommand(cmd_name, help=place.line)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help text."""
        self._is_listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._is_listing = False


def load(name: str) -> Any:
    """The command or group *name* of ``COMMANDS``."""
    place = COMMANDS[name]
    found = getattr(import_module(f"nearline.cli.{place.module}"), place.name)
    if isinstance(found, typer.Typer):
        return typer.main.get_group(found)
    alone = typer.Typer(add_completion=False)
    alone.command(name)(found)
    return typer.main.get_command(alone)


app = typer.Typer(
    cls=LazyCommands,
    no_args_is_help=True,
    add_completion=False,
    help="Send clicks, read recommendations, and see the state of the parts.",
    epilog="NEARLINE_* variables set the addresses; the defaults fit `make demo` on this machine.",
)


@app.callback()
def _root() -> None:
    """Make a group of the app, whose commands typer does not see."""


def version() -> None:
    """Print the version."""
    console.print(__version__)


def main() -> None:
    """Run the command line; an error of ours is one line on stderr and exit status 1 (2 if misconfigured)."""
    try:
        app(prog_name="nearline")
    except Misconfigured as error:
        say_error(error)
        sys.exit(2)
    except NearlineError as error:
        say_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
