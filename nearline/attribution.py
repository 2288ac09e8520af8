"""Attribution: joins shown items with the events that name their request, and counts by source and scenario."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import polars as pl

from nearline.events import Event, EventType
from nearline.exposures import Exposure

CLICKED = (EventType.VIEW, EventType.CLICK, EventType.ADD_TO_CART, EventType.PURCHASE, EventType.LIKE)
BOUGHT = (EventType.PURCHASE,)
_Z = 1.959964  # of a two-sided interval of 95 %
_KEY = ["request_id", "item_id"]
_SHOWN = dict.fromkeys([*_KEY, "shown_to", "source", "scenario"], pl.String)
_DONE = dict.fromkeys([*_KEY, "user_id"], pl.String) | dict.fromkeys(["clicked", "bought"], pl.Boolean)


@dataclass(frozen=True, slots=True)
class Rate:
    """*hits* out of *shown*, with Wilson's 95 % interval (1927), which also holds for few hits."""

    hits: int
    shown: int

    @property
    def share(self) -> float:
        """Hits per shown item; NaN if nothing was shown."""
        return self.hits / self.shown if self.shown else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The interval that holds the true share; (0, 1) if nothing was shown."""
        if not self.shown:
            return 0.0, 1.0
        n, z2 = self.shown, _Z * _Z
        middle = (self.share + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z / (1 + z2 / n) * math.sqrt(self.share * (1 - self.share) / n + z2 / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, slots=True)
class SourceRates:
    """The rates of one source's items in one scenario (``""``: without one)."""

    scenario: str
    source: str
    clicked: Rate
    bought: Rate


@dataclass(frozen=True, slots=True)
class AttributionReport:
    """How much was read and joined, and the rates by source and scenario, most shown first."""

    exposures: int
    events: int  # without commands and synthetic events
    with_request: int  # those of them that name an answer
    met: int  # those of them whose answer showed that item to that user
    lines: list[SourceRates]


def attribute(exposures: Iterable[Exposure], events: Iterable[Event]) -> AttributionReport:
    """Join *exposures* and *events* by request, item and, if known, user; a shown item counts once.

    Repeated records of one event or one answer change nothing. Synthetic events are left out.
    """
    answers = {(exposure.request_id, exposure.user_id, exposure.page): exposure for exposure in exposures}
    unique = {event.event_id: event for event in events if not event.synthetic}
    shown = pl.DataFrame(list(_rows(answers.values())), _SHOWN, orient="row").unique([*_KEY, "shown_to"], keep="first")
    named = [event for event in unique.values() if event.request_id]
    done = pl.DataFrame([_deed(event) for event in named], _DONE, orient="row")
    met = done.join(shown, on=_KEY).filter((pl.col("shown_to") == pl.col("user_id")) | (pl.col("shown_to") == ""))
    deeds = met.group_by(*_KEY, "shown_to").agg(pl.col("clicked", "bought").any())
    counts = (
        shown.join(deeds, on=[*_KEY, "shown_to"], how="left")
        .with_columns(pl.col("clicked", "bought").fill_null(False))
        .group_by("scenario", "source")
        .agg(pl.len().alias("shown"), pl.col("clicked", "bought").sum())
        .sort(["shown", "scenario", "source"], descending=[True, False, False])
    )
    lines = [
        SourceRates(
            row["scenario"], row["source"], Rate(row["clicked"], row["shown"]), Rate(row["bought"], row["shown"])
        )
        for row in counts.to_dicts()
    ]
    return AttributionReport(len(answers), len(unique), len(named), met.height, lines)


def _rows(exposures: Iterable[Exposure]) -> Iterator[tuple[str, str, str, str, str]]:
    for exposure in exposures:
        for item_id, source in zip(exposure.items, exposure.sources, strict=True):
            yield exposure.request_id, item_id, exposure.user_id, source, exposure.scenario or ""


def _deed(event: Event) -> tuple[str, str, str, bool, bool]:
    return event.request_id or "", event.item_id, event.user_id, event.type in CLICKED, event.type in BOUGHT
