"""``nearline job``: savepoints of the job ``last_n``, by Flink's REST interface."""

from pathlib import Path
from typing import Annotated

import typer

from nearline.adapters.flink import FlinkJob
from nearline.cli.console import console
from nearline.errors import Unavailable
from nearline.savepoints import ask_to_restore, savepoints_folder
from nearline.settings import Settings, load_settings

app = typer.Typer(no_args_is_help=True, help="Save the state of the job last_n, and go back to a saved one.")
Flink = Annotated[
    str,
    typer.Option("--flink", metavar="URL", help="Flink's REST interface; default: this machine's, by the settings."),
]


@app.command()
def savepoint(
    stop: Annotated[bool, typer.Option("--stop", help="Also stop the job, which reads nothing after it.")] = False,
    flink: Flink = "",
    deadline_s: Annotated[float, typer.Option("--deadline", min=1, help="Seconds until it must be written.")] = 600.0,
) -> None:
    """Write a savepoint of the job into the data folder, and print its path."""
    settings = load_settings()
    job = FlinkJob(flink or _rest(settings))
    folder = savepoints_folder(settings.data / "flink")
    console.print(str(job.savepoint(folder, stop=stop, deadline_s=deadline_s)), soft_wrap=True)


@app.command()
def restore(
    path: Annotated[Path, typer.Argument(metavar="SAVEPOINT", help="The folder that `savepoint` printed.")],
    flink: Flink = "",
) -> None:
    """Let the job go on from SAVEPOINT: a running one is stopped, and its supervisor starts it again."""
    settings = load_settings()
    ask_to_restore(settings.data / "flink", path)
    try:
        FlinkJob(flink or _rest(settings)).cancel()
    except Unavailable as error:
        console.print(f"no job was stopped ({error})", soft_wrap=True)
    console.print(f"the job's next start goes on from {path}", soft_wrap=True)


def _rest(settings: Settings) -> str:
    return f"http://127.0.0.1:{settings.flink_rest_port}"  # whatever the other servers bind
