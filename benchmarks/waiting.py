"""Measures what ``after=`` adds to freshness: from the document with a click to the answer that waited for it.

The request that names a click is sent as soon as the click is in the log, so it has to wait. The answer's wall clock
minus the document's ``stored_ms`` is the added time: the update, the wake-up and the answer itself.
"""

import random
import time
from typing import Any

import numpy as np

from benchmarks.documents import Documents
from benchmarks.recall import K
from benchmarks.stage import LoadedSystem
from nearline.errors import Unavailable
from nearline.events import encode_event
from nearline.topics import CLICKS

_USERS = 10  # of this measurement alone
_WAIT_MS = 5_000
_PAUSE_S = (0.02, 0.08)  # random pause between two clicks, so that they do not synchronise with anything


def measure(stage: LoadedSystem) -> dict[str, Any]:
    """``{"after_extra_ms": {p50, p99, max, waited, there_already}}``, the write path idle otherwise."""
    stage.probe.settle(stage.item_of_probe(0))
    stage.say(f"{stage.scale.waits} answers that wait for a click")
    pause = random.Random(stage.seed)
    extra: list[float] = []
    with Documents(stage.settings) as documents:
        for number in range(stage.scale.waits):
            waited = _click_to_answer(stage, documents, f"after-{number % _USERS}", stage.item_of_probe(number))
            extra += [] if waited is None else [waited]
            time.sleep(pause.uniform(*_PAUSE_S))
    there_already = stage.scale.waits - len(extra)
    if not extra:
        raise Unavailable(f"none of {stage.scale.waits} questions with after= had to wait: nothing to measure")
    p50, p99, most = (round(float(ms), 2) for ms in np.percentile(extra, [50, 99, 100]))
    return {
        "after_extra_ms": {"p50": p50, "p99": p99, "max": most, "waited": len(extra), "there_already": there_already}
    }


def _click_to_answer(stage: LoadedSystem, documents: Documents, user: str, item: str) -> float | None:
    """The extra ms of one answer, or ``None`` if its click was stored before it was asked for."""
    event = stage.probe.click(user, item)
    stage.probe.send(CLICKS, [(user.encode(), encode_event(event))])
    asked_ms = time.time_ns() / 1e6
    answer = stage.probe.ask(user, k=K, after=event.event_id, wait_ms=_WAIT_MS)
    answered_ms = time.time_ns() / 1e6
    if not answer["fresh"] or answer["newest_event_id"] != event.event_id:
        raise Unavailable(f"no answer used {event.event_id} within {_WAIT_MS} ms; this came: {answer!r:.300}")
    stored_ms = documents.of(user).stored_ms
    return answered_ms - stored_ms if stored_ms > asked_ms else None
