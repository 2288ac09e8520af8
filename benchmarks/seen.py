"""Makes users with long histories: 2,000 different items each, clicked through the log like any other click.

Each user has a taste: it clicks the items whose titles share most words with its favourite item. So its vector is near
its seen items, and most of a search's first results must be left out, as for a loyal customer.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from benchmarks.documents import Documents
from benchmarks.stage import LoadedSystem
from local.processes import wait_until
from nearline.errors import Unavailable
from nearline.events import Event, encode_event
from nearline.items import Item
from nearline.log import Message
from nearline.topics import CLICKS

SEEN = 2_000
_CHUNK = 2_000
_DEADLINE_S = 60.0


def seen_users(stage: LoadedSystem) -> list[str]:
    """Ids of users whose stored seen set holds all ``SEEN`` items that they clicked; ``Unavailable`` if it does not."""
    tastes = {
        f"seen-{n:04d}": taste for n, taste in enumerate(tastes_of(stage.items, stage.scale.seen_users, stage.seed))
    }
    messages = clicks_of(tastes)
    stage.say(f"{len(tastes):,} users click {SEEN:,} items each")
    while chunk := list(islice(messages, _CHUNK)):
        stage.probe.send(CLICKS, chunk)
    stage.probe.settle(stage.item_of_probe(0))
    with Documents(stage.settings) as documents:
        for user in tastes:
            _await_seen(documents, user)
    return list(tastes)


def tastes_of(items: Mapping[str, Item], users: int, seed: int) -> Iterator[list[str]]:
    """For each of *users* the ``SEEN`` items most like a favourite of its own, in the seeded order of its clicks."""
    random = np.random.default_rng(seed)
    ids = list(items)
    words: dict[str, list[int]] = {}
    for row, item in enumerate(items.values()):
        for word in item.title.split():
            words.setdefault(word, []).append(row)
    for favourite in random.choice(len(ids), users, replace=False).tolist():
        shared = random.random(len(ids))  # below 1: it only decides among equals
        for word in items[ids[favourite]].title.split():
            shared[words[word]] += 1
        likest = np.argpartition(-shared, SEEN)[:SEEN]
        yield [ids[row] for row in random.permutation(likest).tolist()]


def clicks_of(tastes: Mapping[str, Sequence[str]]) -> Iterator[Message]:
    """A click of each user on each item of its taste, in that order, the users in turn."""
    prefix = f"seen-{time.time_ns() // 1_000_000:x}"
    for number in range(SEEN):
        for user, taste in tastes.items():
            now = time.time_ns() // 1_000_000
            event = Event(f"{prefix}-{user}-{number}", user, taste[number], "click", now)
            yield user.encode(), encode_event(event)


def _await_seen(documents: Documents, user: str) -> None:
    if not wait_until(lambda: len(documents.of(user).seen) >= SEEN, _DEADLINE_S):
        held = len(documents.of(user).seen)
        raise Unavailable(f"the stored seen set of {user} holds {held} items; {SEEN} were clicked")
