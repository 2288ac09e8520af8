"""Measures how long until a new item is recommended: from before its event is sent to the first answer that shows it.

A user is picked whose best item is copied, title, category and price, under a new id: the copy's vector equals the
original's, so it belongs in that user's answer from the moment that retrieval knows it.
"""

import time
from typing import Any

from benchmarks.probe import percentiles_ms
from benchmarks.recall import K
from benchmarks.recommend import LOAD_PER_S
from benchmarks.stage import UNTIL_STOPPED_S, LoadedSystem
from benchmarks.traffic import user_id
from nearline.items import encode_item
from nearline.topics import ITEMS

_LEAD_S = 3.0


def measure(stage: LoadedSystem) -> dict[str, Any]:
    """``{"item_searchable_ms": …, "item_searchable_under_load_ms": …}``: the write path idle, then beside 500/s."""
    stage.say("new items, the write path idle")
    idle = _measure(stage, first=0)
    stage.say(f"new items beside {LOAD_PER_S} clicks/s")
    with stage.steady_load(LOAD_PER_S, UNTIL_STOPPED_S) as load:
        time.sleep(_LEAD_S)
        loaded = _measure(stage, first=stage.scale.probes)
        load.stop()
    return {"item_searchable_ms": idle, "item_searchable_under_load_ms": loaded}


def _measure(stage: LoadedSystem, *, first: int) -> dict[str, float]:
    # Users with few clicks: the load hardly moves their taste between the look and the answer.
    users = [user_id(stage.scale.users - 1 - first - n) for n in range(stage.scale.probes)]
    return percentiles_ms([_listed_to_answer(stage, user) for user in users])


def _listed_to_answer(stage: LoadedSystem, user: str) -> float:
    answer = stage.probe.ask(user, k=K, exclude_seen="none")
    original = next(stage.items[item["item_id"]] for item in answer["items"] if item["item_id"] in stage.items)
    new_id = f"new-{time.time_ns():x}"
    started = time.perf_counter()
    stage.probe.send(ITEMS, [(new_id.encode(), encode_item(original))])
    stage.probe.ask_until(
        user,
        lambda answer: any(item["item_id"] == new_id for item in answer["items"]),
        k=K,
        exclude_seen="none",
    )
    took = time.perf_counter() - started
    stage.probe.send(ITEMS, [(new_id.encode(), None)])  # many copies of one hit would crowd each other out
    return took
