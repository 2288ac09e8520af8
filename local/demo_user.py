"""The demo's user: picks from the data a user with one clear taste and an item outside it to click on."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nearline.datasets import OTHER
from nearline.items import Item

# A history long enough to show a taste, and short enough for one more event to matter.
_ITEMS_AT_LEAST, _ITEMS_AT_MOST = 6, 14
# A user who buys only one kind of item is not moved by one click, and should not be.
_SHARE_AT_MOST = 0.75
_BEST_SELLERS = 200


@dataclass(frozen=True)
class DemoUser:
    """A user and an item to click on: most bought items have category *taste*, none has that of *clicked*."""

    user_id: str
    taste: str
    share: float
    bought: tuple[str, ...]
    clicked: str


def demo_users(events: Iterable[tuple[str, str]], items: Mapping[str, Item]) -> list[DemoUser]:
    """All users suitable for the demo, clearest tastes first; *events* are (user_id, item_id), oldest first.

    The click is on the most telling best seller of the categories that the user never bought from. Empty if no user has
    a clear taste.
    """
    bought: dict[str, dict[str, None]] = defaultdict(dict)
    sold: Counter[str] = Counter()
    for user_id, item_id in events:
        bought[user_id][item_id] = None
        sold[item_id] += 1
    best_sellers = sorted(sold, key=lambda item_id: (-sold[item_id], item_id))[:_BEST_SELLERS]
    telling = most_telling(best_sellers, bought.values(), items)
    found = [user for user_id, ids in bought.items() if (user := _demo_user(user_id, list(ids), items, telling))]
    return sorted(found, key=lambda user: (-user.share, user.user_id))


def most_telling(item_ids: list[str], baskets: Iterable[Iterable[str]], items: Mapping[str, Item]) -> list[str]:
    """*item_ids*, most telling first.

    An item is more telling, the more often its buyers own other items of its category than all buyers do (the lift).
    """
    owned: Counter[str] = Counter()
    beside: Counter[str] = Counter()
    company: Counter[str] = Counter()
    wanted = set(item_ids)
    for basket in map(list, baskets):
        categories = Counter(items[item_id].category for item_id in basket)
        owned.update(categories)
        for item_id in wanted.intersection(basket):
            beside[item_id] += categories[items[item_id].category] - 1
            company[item_id] += len(basket) - 1
    everything = owned.total()

    def lift(item_id: str) -> float:
        usual = owned[items[item_id].category] / everything
        return beside[item_id] / max(1, company[item_id]) / usual

    return sorted(item_ids, key=lambda item_id: (-lift(item_id), item_id))


def _demo_user(user_id: str, bought: list[str], items: Mapping[str, Item], telling: list[str]) -> DemoUser | None:
    if not _ITEMS_AT_LEAST <= len(bought) <= _ITEMS_AT_MOST:
        return None
    categories = Counter(items[item_id].category for item_id in bought)
    taste, count = max(categories.items(), key=lambda pair: (pair[1], pair[0]))
    known = {*categories, OTHER}
    foreign = next((item_id for item_id in telling if items[item_id].category not in known), None)
    if taste == OTHER or foreign is None or count / len(bought) > _SHARE_AT_MOST:
        return None
    return DemoUser(user_id, taste, count / len(bought), tuple(bought), foreign)


def moves(before: list[str], after: list[str]) -> list[str]:
    """How each id of *after* moved: `new`, `=`, `+3` (up by three) or `-2`."""
    was = {item_id: rank for rank, item_id in enumerate(before)}
    return [_move(was[item_id] - rank) if item_id in was else "new" for rank, item_id in enumerate(after)]


def climbers(marks: list[str], *, most: int = 5) -> list[int]:
    """The positions of the *most* highest climbers, in the order of *marks* (from `moves`); `new` counts as highest."""
    heights = {rank: math.inf if mark == "new" else int(mark) for rank, mark in enumerate(marks) if mark != "="}
    best = sorted((rank for rank in heights if heights[rank] > 0), key=lambda rank: (-heights[rank], rank))
    return sorted(best[:most])


def _move(difference: int) -> str:
    return f"{difference:+d}" if difference else "="
