"""Shows a run's progress: a bar with the remaining time on a terminal, lines elsewhere, curves for TensorBoard."""

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard.writer import SummaryWriter

from training.fit import Watcher

LINE_EVERY_S = 10.0  # where there is no terminal


class RunDisplay(Watcher):
    """Shows a run of *epochs* times *steps* under *title*; a context manager. *curves*: TensorBoard's folder."""

    def __init__(self, title: str, *, epochs: int, steps: int, curves: Path | None = None) -> None:
        self._title, self._epochs, self._steps = title, epochs, steps
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=epochs * steps, said="")
        self._curves = None if curves is None else SummaryWriter(str(curves))
        self._at = 0
        self._said_at = time.monotonic()

    def __enter__(self) -> "RunDisplay":
        """Begin to show."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing and close the curves."""
        self._bar.stop()
        if self._curves is not None:
            self._curves.close()

    def step(self, epoch: int, loss: float, temperature: float) -> None:
        """Show one batch."""
        self._at += 1
        done = epoch * self._steps + (self._at - 1) % self._steps + 1
        self._bar.update(self._task, completed=done, said=f"epoch {epoch + 1} loss {loss:.3f}")
        if self._curves is not None and self._at % 10 == 0:
            self._curves.add_scalar("loss/batch", loss, done)
            self._curves.add_scalar("temperature", temperature, done)

    def epoch(self, epoch: int, loss: float, temperature: float) -> None:
        """Show an epoch's mean loss."""
        if self._curves is not None:
            self._curves.add_scalar("loss/epoch", loss, epoch)
        late = time.monotonic() - self._said_at > LINE_EVERY_S
        if epoch == self._epochs or (late and not self._console.is_terminal):
            self._said_at = time.monotonic()
            print(
                f"{self._title}: epoch {epoch} of {self._epochs}, loss {loss:.4f}, temperature {temperature:.4f}",
                flush=True,
            )

    def judged(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Show the towers' figures on the watched baskets after that epoch."""
        if self._curves is not None:
            for name, value in figures.items():
                self._curves.add_scalar(f"watched/{name}", value, epoch)
        said = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        print(f"{self._title}: after epoch {epoch} {said}", flush=True)
