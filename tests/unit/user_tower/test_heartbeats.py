"""Heartbeats: a record a day in each topic whose values must leave the log."""

import pytest

from nearline.errors import Unavailable
from services.user_tower.app import beat_daily

pytestmark = pytest.mark.anyio


class Done(Exception):
    """The end of the story: the loop itself has none."""


async def test_each_topic_that_forgets_gets_one_at_the_start_and_every_day() -> None:
    beaten: list[str] = []
    slept: list[float] = []

    async def beat(topic: str) -> None:
        beaten.append(topic)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            raise Done

    with pytest.raises(Done):
        await beat_daily(beat, sleep)
    assert beaten == ["users", "user-sequences", "user-seen"] * 2
    assert slept == [86_400, 86_400]


async def test_a_heartbeat_that_the_log_did_not_take_is_tried_again_within_a_minute() -> None:
    slept: list[float] = []

    async def beat(_: str) -> None:
        if not slept:
            raise Unavailable("the log is away")

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            raise Done

    with pytest.raises(Done):
        await beat_daily(beat, sleep)
    assert slept == [60, 86_400]
