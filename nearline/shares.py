"""A bounded amount of something (bytes, waiting requests), of which no holder gets all."""

from collections.abc import Callable


class BoundedShares:
    """*most* together, and *share* for each holder; ``None`` is a holder without a share.

    *changed* is called with the amount that is taken whenever that changes.
    """

    def __init__(self, most: int, share: int, *, changed: Callable[[int], object] = lambda _: None) -> None:
        self._most = most
        self._share = share
        self._changed = changed
        self._by_holder: dict[str, int] = {}
        self.taken = 0

    def take(self, amount: int, holder: str | None, *, beyond: int = 0) -> bool:
        """Take *amount* for *holder*, or return ``False``; *beyond* is a reserve that this one may use."""
        held = 0 if holder is None else self._by_holder.get(holder, 0) + amount
        if self.taken + amount > self._most + beyond or held > self._share:
            return False
        if holder is not None:
            self._by_holder[holder] = held
        self.taken += amount
        self._changed(self.taken)
        return True

    def give_back(self, amount: int, holder: str | None) -> None:
        """Give back *amount* that *holder* took."""
        if holder is not None:
            self._by_holder[holder] -= amount
            if not self._by_holder[holder]:
                del self._by_holder[holder]
        self.taken -= amount
        self._changed(self.taken)
