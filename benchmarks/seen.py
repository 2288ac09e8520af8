"""Users who have seen a great deal: 2,000 different items each, clicked through the log like any other click."""

import time
from collections.abc import Iterator
from itertools import islice

import numpy as np

from benchmarks.documents import Documents
from benchmarks.stage import Stage
from benchmarks.traffic import item_id
from local.processes import wait_until
from nearline.adapters.kafka import Message
from nearline.errors import Unavailable
from nearline.events import Event, encode_event
from nearline.topics import CLICKS

SEEN = 2_000
_CHUNK = 2_000
_DEADLINE_S = 60.0


def seen_users(stage: Stage) -> list[str]:
    """Ids of users whose stored seen set holds all ``SEEN`` items that they clicked; ``Unavailable`` if it does not."""
    users = [f"seen-{number:04d}" for number in range(stage.scale.seen_users)]
    messages = clicks_of(users, stage.scale.items, stage.seed)
    stage.say(f"{len(users):,} users click {SEEN:,} items each")
    while chunk := list(islice(messages, _CHUNK)):
        stage.probe.send(CLICKS, chunk)
    stage.probe.settle(stage.item_of_probe(0))
    with Documents(stage) as documents:
        for user in users:
            _await_seen(documents, user)
    return users


def clicks_of(users: list[str], items: int, seed: int) -> Iterator[Message]:
    """``SEEN`` clicks of each user on as many different items, the users in turn; drawn evenly, seeded."""
    random = np.random.default_rng(seed)
    drawn = [random.choice(items, SEEN, replace=False).tolist() for _ in users]
    prefix = f"seen-{time.time_ns() // 1_000_000:x}"
    for number in range(SEEN):
        for user, chosen in zip(users, drawn, strict=True):
            now = time.time_ns() // 1_000_000
            event = Event(f"{prefix}-{user}-{number}", user, item_id(chosen[number]), "click", now)
            yield user.encode(), encode_event(event)


def _await_seen(documents: Documents, user: str) -> None:
    if not wait_until(lambda: len(documents.of(user).seen) >= SEEN, _DEADLINE_S):
        held = len(documents.of(user).seen)
        raise Unavailable(f"the stored seen set of {user} holds {held} items; {SEEN} were clicked")
