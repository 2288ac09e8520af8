"""The system's live figures, as the page shows them."""

from collections.abc import Mapping


class Pulse:
    """Nothing yet."""

    def words(self) -> Mapping[str, str]:
        return {}
