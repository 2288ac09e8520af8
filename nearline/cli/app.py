"""The root of the command line; each command is in the file of its name."""

import sys

import typer

from nearline import __version__
from nearline.adapters.kafka.admin import Topics
from nearline.cli import (
    answers,
    clicks,
    dead_letters,
    exporting,
    freshness_value,
    importing,
    item_commands,
    job,
    keys,
    report,
    rules,
    status,
    users,
    why,
)
from nearline.cli.console import console, say_error
from nearline.errors import Misconfigured, NearlineError
from nearline.settings import load_settings
from nearline.topics import all_topics

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Send clicks, read recommendations, and see the state of the parts.",
    epilog="NEARLINE_* variables set the addresses; the defaults fit `make demo` on this machine.",
)
app.command()(clicks.click)
app.command()(clicks.replay)
app.command()(answers.recommend)
app.command()(status.status)
app.command()(freshness_value.freshness_value)
app.command()(report.report)
app.command()(why.why)
app.command()(exporting.export)
app.add_typer(importing.app, name="import")
app.add_typer(item_commands.app, name="item")
app.add_typer(dead_letters.app, name="dlq")
app.add_typer(job.app, name="job")
app.add_typer(keys.app, name="keys")
app.add_typer(rules.app, name="rules")
app.add_typer(users.app, name="user")


@app.command()
def init() -> None:
    """Create every missing topic and correct settings that differ; safe to run again."""
    settings = load_settings()
    topics = Topics(settings.brokers)
    try:
        wanted = all_topics(settings.embedding_space, partitions=settings.partitions)
        for name, done in topics.ensure(wanted).items():
            console.print(f"{name:<24} {done}")
    finally:
        topics.close()


@app.command()
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
