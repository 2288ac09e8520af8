"""The clicks on the page, with two delays: the system's, and that measured by the browser's clock."""

from collections import OrderedDict
from dataclasses import dataclass, replace

from nearline.telemetry import counter, seconds

MOST = 200
_LONGEST_MS = 60_000.0  # a longer delay means that the browser was asleep

_USED = seconds("web_click_to_answer_seconds", "From a click's arrival at the page's server to the answer that used it")
_SHOWN = seconds("web_click_to_row_seconds", "From a click to the changed row on screen, by the browser's clock")
_CLICKS = counter("web_clicks_total", "Clicks on the page", "outcome", known=("used", "late"))


@dataclass(frozen=True, slots=True)
class Click:
    """One click; *shown_ms* is ``None`` until the browser reports when the row had changed."""

    event_id: str
    user_id: str
    item_id: str
    at_ms: int
    logged_ms: float
    used_ms: float | None
    shown_ms: float | None = None


class Clicks:
    """The newest clicks of the page."""

    def __init__(self, *, most: int = MOST) -> None:
        self._most = most
        self._clicks: OrderedDict[str, Click] = OrderedDict()

    def note(self, click: Click) -> None:
        """Add *click*, which was answered; without *used_ms* the answer had not used it yet."""
        self._clicks[click.event_id] = click
        _CLICKS.labels("late" if click.used_ms is None else "used").inc()
        if click.used_ms is not None:
            _USED.observe(click.used_ms / 1000)
        while len(self._clicks) > self._most:
            self._clicks.popitem(last=False)

    def shown(self, event_id: str, ms: float) -> bool:
        """Set the browser's delay *ms* of a click; return false if it is implausible, or the click unknown."""
        click = self._clicks.get(event_id)
        if click is None or click.shown_ms is not None or not 0 < ms < _LONGEST_MS:
            return False
        self._clicks[event_id] = replace(click, shown_ms=ms)
        _SHOWN.observe(ms / 1000)
        return True

    @property
    def newest(self) -> list[Click]:
        """The clicks, newest first."""
        return list(reversed(self._clicks.values()))
