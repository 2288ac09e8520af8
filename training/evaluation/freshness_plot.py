"""The picture of what freshness is worth: recall against delay, one panel for new items and one for all."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.evaluation.delays import Curve, spoken

_COLOURS = ("#1b6ca8", "#c8553d")
_TITLES = {"new": "new items only", "all": "all items"}


def draw(curves: Mapping[str, Mapping[str, Curve]], path: Path, *, k: int, title: str) -> None:
    """Write *curves*, by setting and set of queries, to *path* as PNG; *title* is a sentence."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, (setting, found) in zip(panels, curves.items(), strict=True):
        _panel(panel, found)
        panel.set_title(_TITLES[setting])
        panel.set_ylabel(f"recall@{k}")
    figure.suptitle(textwrap.fill(title, 110), fontsize=10)
    figure.savefig(path, dpi=120)


def _panel(panel: Any, curves: Mapping[str, Curve]) -> None:
    for number, (name, found) in enumerate(curves.items()):
        _line(panel, found, f"{name} ({found.queries:,})", number)
    first = next(iter(curves.values()))
    delays_ms = [point.delay_ms for point in first.delayed]
    if first.popular is not None:
        panel.axhline(first.popular.recall.mean, label="what is popular, to everyone", color="#888888", linestyle=":")
    if len(delays_ms) > 1:
        panel.set_xscale("symlog", linthresh=delays_ms[1], linscale=0.6)
        panel.set_xlim(-delays_ms[1] / 4, delays_ms[-1] * 1.6)
    panel.set_xticks(delays_ms, [spoken(delay_ms) for delay_ms in delays_ms])
    panel.minorticks_off()
    panel.set_xlabel("the history is what was known so long before")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8, frameon=False, loc="best")


def _line(panel: Any, found: Curve, label: str, number: int) -> None:
    recall = [point.recall for point in found.delayed]
    away = [[f.mean - f.low for f in recall], [f.high - f.mean for f in recall]]
    panel.errorbar(
        [point.delay_ms for point in found.delayed],
        [f.mean for f in recall],
        yerr=away,
        label=label,
        color=_COLOURS[number],
        marker="os"[number],
        linestyle=("-", "--")[number],
        capsize=3,
    )
