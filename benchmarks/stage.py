"""The input of every measurement: the system under test with its catalogue and users, and the scale."""

import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from benchmarks.probe import Probe
from benchmarks.traffic import Load, at_rate, flat_out, item_id, load
from local.ports import HOST
from local.processes import wait_until
from local.system import Say, System
from nearline.errors import Unavailable
from nearline.items import Item, encode_item
from nearline.settings import Settings, load_settings
from nearline.topics import ITEMS

UNTIL_STOPPED_S = 3_600.0  # of a load that the measurement ends itself
_CHUNK = 2_000
_CLICKS_EACH = 5  # of every user, before anything is measured
_WARM_UP_RATE = 1_000
_LISTING_DEADLINE_S = 600.0
DELTA_AT_REST = 1_000  # rows that the index leaves out of its graph for good


@dataclass(frozen=True, slots=True)
class Scale:
    """How large and how thorough; ``quick`` is for trying the benchmarks, not for figures."""

    items: int = 100_000
    users: int = 10_000
    warm_up_s: float = 30.0
    warm_reads_s: float = 120.0  # until the index has measured how wide to search, with the queries that come
    probes: int = 50
    read_s: float = 6.0
    confirm_s: float = 15.0
    offer_s: float = 30.0
    backlog: int = 60_000
    steady_s: float = 20.0
    seen_users: int = 100
    waits: int = 300
    canary_clicks: int = 2_050
    pairs: int = 20


QUICK = Scale(
    items=5_000,
    users=1_000,
    warm_up_s=5,
    warm_reads_s=5,
    probes=10,
    read_s=2,
    confirm_s=3,
    offer_s=6,
    backlog=10_000,
    steady_s=5,
    seen_users=5,
    waits=30,
    canary_clicks=150,
    pairs=3,
)


@dataclass(frozen=True)
class LoadedSystem:
    """The running system, loaded; measurements only read this."""

    system: System
    probe: Probe
    scale: Scale
    seed: int
    say: Say
    items: Mapping[str, Item]

    @property
    def settings(self) -> Settings:
        """The system's settings, as its parts read them."""
        return load_settings(self.system.settings)

    @contextmanager
    def steady_load(self, rate: float, seconds: float) -> Iterator[Load]:
        """Clicks by Zipf's law beside whatever is measured."""
        options = at_rate(rate, seconds, users=self.scale.users, items=self.scale.items, seed=self.seed)
        with load(self.system.bootstrap, options) as running:
            yield running

    @contextmanager
    def flood(self, count: int, *, in_turn: bool = False) -> Iterator[Load]:
        """*count* clicks as fast as the log takes them."""
        options = flat_out(count, users=self.scale.users, items=self.scale.items, seed=self.seed + 1, in_turn=in_turn)
        with load(self.system.bootstrap, options) as running:
            yield running

    def item_of_probe(self, number: int) -> str:
        """An item for the probe's *number*-th click; no two that follow each other are the same."""
        return item_id((number * 7_919) % self.scale.items)


def prepare(stage: LoadedSystem) -> None:
    """List the catalogue, give every user a history, and warm every part up; returns when nothing waits any more."""
    list_items(stage.probe, stage.items, stage.say)
    await_items(stage.system.ports.by_name(), len(stage.items), stage.say)
    stage.say(f"{_CLICKS_EACH} clicks of each of {stage.scale.users:,} users")
    with stage.flood(_CLICKS_EACH * stage.scale.users, in_turn=True) as flood:
        flood.finish()
    stage.probe.settle(stage.item_of_probe(0))
    stage.say(f"warming up: {_WARM_UP_RATE:,} clicks/s for {stage.scale.warm_up_s:g} s")
    with stage.steady_load(_WARM_UP_RATE, stage.scale.warm_up_s) as warming:
        warming.finish()
    stage.probe.settle(stage.item_of_probe(1))


def list_items(probe: Probe, items: Mapping[str, Item], say: Say) -> None:
    """Append *items* to the log."""
    say(f"listing {len(items):,} items")
    records = ((one.encode(), encode_item(item)) for one, item in items.items())
    while chunk := list(islice(records, _CHUNK)):
        probe.send(ITEMS, chunk)


def await_items(ports: Mapping[str, int], count: int, say: Say, *, at_rest: int = DELTA_AT_REST) -> None:
    """Return when *count* items are known to retrieval and user_tower, all but *at_rest* of them in the graph."""

    def listed() -> bool:
        index, table = gauges(ports["retrieval"]), gauges(ports["user_tower"])
        waiting = index.get("nearline_index_delta_rows", 0.0)
        known = min(index.get("nearline_index_items", 0.0), table.get("nearline_item_table_items", 0.0))
        say(f"listing {known:,.0f} of {count:,} items, {waiting:,.0f} not in the graph yet")
        return known >= count and waiting <= at_rest

    if not wait_until(listed, _LISTING_DEADLINE_S, pause_s=1.0):
        raise Unavailable(f"{count:,} items were not searchable within {_LISTING_DEADLINE_S:g} s")


def gauges(port: int) -> dict[str, float]:
    """The plain metrics (no labels) of the part on *port*."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.split() for line in lines if not line.startswith("#") and "{" not in line)
    return {name: float(value) for name, value, *_ in pairs}
