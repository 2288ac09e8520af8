"""Chooses the exporter of a part's spans: to the collector in the settings, or none."""

from typing import TYPE_CHECKING

from nearline.settings import Settings

if TYPE_CHECKING:
    from nearline.adapters.traces import OtelSpans


def spans_for(settings: Settings, part: str) -> "OtelSpans | None":
    """The spans of *part*, which the caller closes; ``None``, without loading a library, if there is no endpoint."""
    if not settings.traces:
        return None
    from nearline.adapters.traces import to_collector

    return to_collector(settings.traces, part)
