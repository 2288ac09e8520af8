"""Which exporter takes the spans of a part: the collector that the settings name, or none."""

from typing import TYPE_CHECKING

from nearline.settings import Settings

if TYPE_CHECKING:
    from nearline.adapters.traces import OtelSpans


def spans_for(settings: Settings, part: str) -> "OtelSpans | None":
    """The spans of *part*, to be closed; ``None`` without an endpoint, and then none of the libraries is loaded."""
    if not settings.traces:
        return None
    from nearline.adapters.traces import to_collector

    return to_collector(settings.traces, part)
