"""Clicks of devices whose clocks are wrong, from the door by way of the log into the user's history."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from nearline.topics import CLICKS
from nearline.user_commands import Erase, decode_entry
from tests.support.ingest_door import CLICK, NOW_MS, Door
from tests.unit.last_n.test_user_reducer import Job

WEEK_MS = 7 * 24 * 3600 * 1000

pytestmark = pytest.mark.anyio


@dataclass
class System:
    """A door, a log whose clock is the door's, and the job, which reads what the log has."""

    clock_ms: int = NOW_MS
    job: Job = field(default_factory=lambda: Job(keep=4))
    read: int = 0

    def __post_init__(self) -> None:
        self.door = Door(now_ms=lambda: self.clock_ms)

    async def send(self, event_id: str, *, behind_ms: int = 0, told: bool = True, ago_ms: int = 0) -> None:
        """Send the click of a device that is *behind_ms* (and says so by ``sent_ms``, if *told*) ten seconds later."""
        self.clock_ms += 10_000
        sent_ms = self.clock_ms - behind_ms
        event = {**CLICK, "event_id": event_id, "item_id": event_id, "time_ms": sent_ms - ago_ms}
        params: dict[str, Any] = {"sent_ms": sent_ms} if told else {}
        assert (await self.door.send(event, params=params)).status_code == 200
        for _, value in self.door.outbox.sent[CLICKS][self.read :]:
            self.job.append(decode_entry(value, append_ms=self.clock_ms), append_ms=self.clock_ms)
            self.read += 1

    def erase(self) -> None:
        """Erase the user now."""
        self.job.append(Erase(f"erase-{self.clock_ms}", "u", self.clock_ms), append_ms=self.clock_ms)


@pytest.mark.parametrize("told", [True, False], ids=["corrected by the door", "clamped to the append time"])
@pytest.mark.parametrize("ahead_ms", [180_000, 240_001, WEEK_MS])
async def test_clicks_at_the_true_time_enter_the_window_after_those_of_a_clock_that_is_ahead(
    ahead_ms: int, told: bool
) -> None:
    system = System()
    for n in range(8):
        await system.send(f"ahead-{n}", behind_ms=-ahead_ms, told=told)
    await system.send("true")
    assert system.job.items() == ["ahead-5", "ahead-6", "ahead-7", "true"]


async def test_clicks_of_a_clock_that_is_a_week_behind_are_used() -> None:
    system = System()
    for n in range(8):
        await system.send(f"true-{n}")
    await system.send("behind", behind_ms=WEEK_MS)
    assert system.job.items() == ["true-5", "true-6", "true-7", "behind"]


async def test_without_the_devices_clock_such_clicks_are_not_used_and_are_counted() -> None:
    system = System()
    for n in range(8):
        await system.send(f"true-{n}")
    await system.send("behind", behind_ms=WEEK_MS, told=False)
    assert system.job.items() == ["true-4", "true-5", "true-6", "true-7"]
    assert system.job.too_old == 1


@pytest.mark.parametrize("behind_ms", [2_000, 60_000, WEEK_MS])
async def test_a_page_whose_clock_is_behind_keeps_its_clicks_after_an_erasure(behind_ms: int) -> None:
    system = System()
    await system.send("before", behind_ms=behind_ms)
    system.erase()
    await system.send("after", behind_ms=behind_ms)
    assert system.job.items() == ["after"]
    assert system.job.late == 0


@pytest.mark.parametrize("behind_ms", [-60_000, 0, 60_000])
async def test_an_event_from_before_an_erasure_that_is_sent_again_stays_out(behind_ms: int) -> None:
    system = System()
    await system.send("before", behind_ms=behind_ms)
    system.erase()
    await system.send("before", behind_ms=behind_ms, ago_ms=10_000)
    assert system.job.items() == []
    assert system.job.late == 1
